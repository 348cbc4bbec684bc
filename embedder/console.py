"""What every command shares: its options, its output, and the one boundary where errors end."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from embedder.errors import CasebookError, UsageError

Handler = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def add_folders(parser: argparse.ArgumentParser, *, data: bool = False) -> None:
    parser.add_argument(
        "--store", type=folder, metavar="DIR", help="embeddings (CASEBOOK_STORE, or ./store)"
    )
    if data:
        parser.add_argument(
            "--data", type=Path, metavar="DIR",
            help="MedMNIST+ files (CASEBOOK_DATA, or ~/.medmnist)",
        )  # fmt: skip


def folder(text: str) -> Path:
    """An option's folder, with ``~`` for the home."""
    return Path(text).expanduser()


def add_list(parser: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    """An option that may be repeated and take commas; None where it is not given."""
    parser.add_argument(name, action="append", metavar=metavar, help=text)


def words(values: Sequence[str] | None) -> list[str]:
    """``["a,b", "c"]`` to ``["a", "b", "c"]``; UsageError for an empty word."""
    found = [word.strip() for value in values or () for word in value.split(",")]
    if "" in found:
        raise UsageError("an option has an empty value; name something, or leave the option out")
    return found


def numbers(values: Sequence[str] | None, noun: str) -> list[int]:
    """As ``words``, each a number from 1 on; UsageError otherwise."""
    found = []
    for word in words(values):
        if not re.fullmatch("[0-9]{1,9}", word) or int(word) < 1:
            raise UsageError(f"{noun} {word[:20]!r} is no number from 1 on")
        found.append(int(word))
    return list(dict.fromkeys(found))


def sizes(values: Sequence[str] | None) -> tuple[int, ...] | None:
    """``--res`` values in pixels; None where not given, empty for ``all``."""
    given = words(values)
    if not given:
        return None
    return () if "all" in given else tuple(numbers(given, "--res"))


def table(rows: Sequence[Sequence[object]], head: Sequence[str], align: str) -> str:
    """A plain table; ``align`` has a letter per column, ``l`` or ``r``."""
    from tabulate import tabulate

    sides = ["left" if letter == "l" else "right" for letter in align]
    text: str = tabulate(rows, head, colalign=sides, disable_numparse=True)
    return text


def cells_text(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def size_text(count: float) -> str:
    """1234567 to ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def run(parser: Parser, handle: Handler, argv: Sequence[str] | None) -> int:
    """Parse and handle within the boundary; the command's exit status."""
    return boundary(lambda: handle(parser.parse_args(argv)))


def boundary(call: Callable[[], int]) -> int:
    """What ``call`` returns, or, after one line on standard error, an error's exit status."""
    _set_up_messages()
    try:
        status = call()
        print(end="", flush=True)  # nothing where there is no output
        return status
    except CasebookError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept, run again to go on", 130)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on; nothing is left to flush
        return 141
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO):
            sys.stdout = None
            return _fail(f"cannot write the output: {error.strerror}", 1)
        return _fail(unexpected(error), 1)
    except Exception as error:  # a defect of ours: say so in one line all the same
        return _fail(unexpected(error), 1)


def unexpected(error: Exception) -> str:
    """What to say of a defect of ours; raises it again where CASEBOOK_DEBUG asks to."""
    if os.environ.get("CASEBOOK_DEBUG"):
        raise error
    return (
        f"unexpected {type(error).__name__}: {error}; please report it (CASEBOOK_DEBUG=1 shows "
        "where it happened)"
    )


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _set_up_messages() -> None:
    """Our warnings are a line each on standard error; those of libraries stay unsaid."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    logger = logging.getLogger("casebook")
    logger.handlers[:] = [_Lines()]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logging.basicConfig(level=logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"warning: {record.getMessage()}", file=sys.stderr)

"""The installed commands, in processes of their own: their seconds, and the memory they took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rounds import Spent, watch
from embedder.errors import EvaluationError

BIN = Path(sys.executable).parent

_PEAK = """
import os, sys
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print(f"peak {usage.ru_maxrss}", file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process starts with the peak of the one that made it, so that has to be a small one."""


def environment() -> dict[str, str]:
    """The caller's, without what would lead a command elsewhere; nothing is fetched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CASEBOOK_")}
    return {**kept, "HF_HUB_OFFLINE": "1"}


def command(words: Sequence[str]) -> list[str]:
    return [str(BIN / words[0]), *words[1:]]


def run(folder: Path, *words: str) -> Spent:
    """Run a command to its end in ``folder``. Raises EvaluationError where it fails."""
    with watch() as spent:
        _finish(folder, command(words))
    return spent


def peak_bytes(folder: Path, *words: str) -> int:
    """The largest resident size that a command had, mapped files included."""
    errors = _finish(folder, [sys.executable, "-c", _PEAK, *command(words)])
    kibibytes = int(errors.rsplit("peak ", 1)[1])
    return kibibytes * 1024 if sys.platform != "darwin" else kibibytes


def peak_of(process: int) -> int | None:
    """That of a process that runs, in bytes; None where the system does not tell."""
    return _status(process, "VmHWM")


def resident_of(process: int) -> int | None:
    """The resident size that a process has now, in bytes; None where the system does not tell."""
    return _status(process, "VmRSS")


def _status(process: int, field: str) -> int | None:
    status = Path(f"/proc/{process}/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _finish(folder: Path, words: list[str]) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise EvaluationError(f"{words[-1] if len(words) < 2 else words[0]} failed: {last}")
    return done.stderr

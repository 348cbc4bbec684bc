"""Runs the installed commands as a user would: other processes, an empty home, no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """An empty home in ``folder``, and a proxy that refuses, so that nothing leaves the machine."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    dead = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "CASEBOOK_STORE": str(folder / "store"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "no_proxy": "127.0.0.1",
        **dead,
        **changes,
    }


class Process(subprocess.Popen[str]):
    """Killed where the test that waits for it fails."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


def start(
    folder: Path, *words: str, errors: int | IO[str] = subprocess.PIPE, **changes: str
) -> Process:
    command = [str(BIN / words[0]), *words[1:]]
    return Process(
        command, cwd=folder, env=environment(folder, **changes), text=True,
        stdout=subprocess.PIPE, stderr=errors,
    )  # fmt: skip


def run(
    folder: Path, *words: str, status: int = 0, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end; the exit status must be ``status``, and no traceback may show."""
    with start(folder, *words, **changes) as process:
        output, errors = process.communicate(timeout=600)
    assert "Traceback" not in errors, errors
    assert process.returncode == status, f"{process.returncode}\n{output}\n{errors}"
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


PEAK = """
import re

def peak():
    status = open("/proc/self/status").read()
    return int(re.search("VmHWM:\\\\s+([0-9]+)", status)[1]) / 1024
"""
"""For a script: megabytes resident at most. What getrusage tells begins with its parent's peak."""

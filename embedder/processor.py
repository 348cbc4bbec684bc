"""What Linux tells of the processor."""

from __future__ import annotations

from pathlib import Path

_LISTING = Path("/proc/cpuinfo")


def field(name: str, listing: Path = _LISTING) -> str:
    """The first value that Linux lists under a name such as ``model name``; empty without one."""
    try:
        lines = listing.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""

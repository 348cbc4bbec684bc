"""What Linux tells of the processor."""

from __future__ import annotations

from pathlib import Path

LISTING = Path("/proc/cpuinfo")


def field(name: str, listing: Path = LISTING) -> str:
    """Of the first processor that is listed, as ``model name``; empty where nothing is told."""
    try:
        lines = listing.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""

from __future__ import annotations

from pathlib import Path

from embedder.processor import field

LISTING = (
    b"processor\t: 0\nmodel name\t: A\xff: b\nflags\t\t: fpu sse\n\n"
    b"processor\t: 1\nmodel name\t: C\nflags\t\t: fpu\n"
)


def test_a_field_is_that_of_the_first_processor(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_bytes(LISTING)
    assert field("flags", listing) == "fpu sse"
    assert field("model name", listing) == "A\N{REPLACEMENT CHARACTER}: b"
    assert field("flag", listing) == ""


def test_what_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert field("flags", tmp_path / "none") == ""
    assert field("flags", tmp_path) == ""

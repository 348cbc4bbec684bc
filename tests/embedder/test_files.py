from __future__ import annotations

import os
from pathlib import Path

import pytest

from embedder.files import write_whole


def test_a_file_is_put_in_place_when_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    news: list[str] = []
    replace = os.replace

    def watch_replace(new: Path, old: Path) -> None:
        assert new.read_bytes() == b"new"
        news.append(new.name)
        replace(new, old)

    monkeypatch.setattr(os, "replace", watch_replace)
    write_whole(path, b"new")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert len(set(news)) == 2


def test_an_interruption_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def interrupt(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"old"]

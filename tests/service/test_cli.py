"""What ``casebook serve`` listens on; the running service has tests of its own."""

from __future__ import annotations

import gc
import signal
import socket
from pathlib import Path

import pytest
import uvicorn

from service.cli import _Leave, _listen, _run
from service.settings import Settings


def test_an_answer_does_not_wait_for_its_own_head_to_be_acknowledged(tmp_path: Path) -> None:
    with _listen(Settings(store=tmp_path, port=0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_what_was_loaded_is_left_out_of_collections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out: list[int] = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: left_out.append(gc.get_freeze_count())
    )
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    settings = Settings(store=tmp_path, port=0)
    try:
        with _listen(settings) as listener:
            _run(None, settings, listener, _Leave())
    finally:
        gc.unfreeze()
        for number, handler in usual.items():
            signal.signal(number, handler)
    assert len(left_out) == 1
    assert left_out[0] > 10_000

"""What ``casebook serve`` listens on; the running service has tests of its own."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import uvicorn

from service import app, cli, telemetry
from service.cli import _Leave, _listen, _run
from service.settings import Settings


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of signals are put back."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in usual.items():
        signal.signal(number, handler)


def test_an_answer_does_not_wait_for_its_own_head_to_be_acknowledged(tmp_path: Path) -> None:
    with _listen(Settings(store=tmp_path, port=0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.usefixtures("handlers")
def test_what_was_loaded_is_left_out_of_collections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out: list[int] = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: left_out.append(gc.get_freeze_count())
    )
    settings = Settings(store=tmp_path, port=0)
    before = gc.get_freeze_count()
    with _listen(settings) as listener:
        _run(None, settings, listener, _Leave())
    assert len(left_out) == 1
    assert left_out[0] > 10_000
    assert gc.get_freeze_count() <= before


@pytest.mark.usefixtures("handlers")
def test_freed_memory_is_kept_from_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def step(name: str) -> Callable[..., MagicMock]:
        return lambda *_: steps.append(name) or MagicMock()

    monkeypatch.setattr(cli, "keep_freed", lambda most: steps.append(f"keep {most}"))
    monkeypatch.setattr(app, "load_context", step("load"))
    monkeypatch.setattr(app, "create_app", step("create"))
    monkeypatch.setattr(telemetry, "set_up_logging", lambda level: None)
    monkeypatch.setattr(cli, "_run", step("run"))
    assert cli.main(["--store", str(tmp_path), "--port", "0"]) == 0
    assert steps == [f"keep {2**30}", "load", "create", "run"]

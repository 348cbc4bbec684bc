"""What ``casebook serve`` listens on; the running service has tests of its own."""

from __future__ import annotations

import socket
from pathlib import Path

from service.cli import _listen
from service.settings import Settings


def test_an_answer_does_not_wait_for_its_own_head_to_be_acknowledged(tmp_path: Path) -> None:
    with _listen(Settings(store=tmp_path, port=0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

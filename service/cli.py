"""``casebook serve``: the service, from the command line."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from embedder import console
from embedder.errors import CasebookError, UsageError
from embedder.heap import keep_freed
from service import settings as service_settings

if TYPE_CHECKING:
    from service.settings import Settings

_KEPT = 2**30
"""Bytes that are free at the end of the heap, from which on they go back to the system."""


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook serve",
        "Classify images over HTTP by their nearest training cases, and show those. "
        "Every option can be set by its variable too; the option wins.",
    )
    service_settings.add_flags(parser)
    return parser


def _handle(options: argparse.Namespace) -> int:
    settings = service_settings.from_options(options)
    leave = _Leave()
    signal.signal(signal.SIGTERM, leave)  # also as the first process of a container
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)
    from service.keyring import FILE, Keyring

    keyring = Keyring(settings.store / FILE)
    if not service_settings.is_loopback(settings.host) and keyring.is_empty():
        raise UsageError(
            f"{settings.host} can be reached from other machines, and there is no API key; make "
            "one by casebook keys add NAME, or use --host 127.0.0.1"
        )
    with _listen(settings) as listener:
        from service.app import create_app, load_context
        from service.telemetry import set_up_logging

        if not settings.keys_required and not service_settings.is_loopback(settings.host):
            _report(f"warning: whoever reaches {settings.host} may read; no key is asked for")
        keep_freed(_KEPT)  # before loading starts threads
        context = load_context(settings, keyring, _report)
        try:
            set_up_logging(settings.log_level)
            _run(create_app(context), settings, listener, leave)
        finally:
            context.close()
    return 0


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _listen(settings: Settings) -> socket.socket:
    """Take the port before anything is loaded. Raises CasebookError where that cannot be."""
    where = (settings.host, settings.port)
    try:
        family = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server(where, family=family, backlog=2048)
    except OSError as error:
        number = error.errno or 0  # below 0 of the resolver
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise CasebookError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}; choose another "
            "--host or --port"
        ) from error
    # Else the body of an answer waits 40 ms for the client to acknowledge the head: asyncio sets
    # this only on sockets that it made itself. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _run(app: object, settings: Settings, listener: socket.socket, leave: _Leave) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None, access_log=False, server_header=False, lifespan="on", ws="none",
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=max(1, round(settings.drain)),
    )  # fmt: skip
    server = uvicorn.Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn has handlers of its own while it runs, and raises the signal again when it has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    leave.check()
    # What was loaded stays; with torch in it a full collection stops every answer for 0.15 s.
    gc.collect()
    gc.freeze()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    try:
        print(f"ready: http://{shown}:{port}/", flush=True)
        server.run(sockets=[listener])
    finally:
        gc.unfreeze()  # what is left uncollected at the end, libraries report as leaked


class _Leave:
    """Ends the process while it loads.

    What a handler raises is dropped where it happens to run within a finaliser or a callback of the
    import system, so it is remembered too.
    """

    def __init__(self) -> None:
        self._number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self.check()

    def check(self) -> None:
        """Raise what ends the process where it was asked to end."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            raise SystemExit(128 + self._number)


if __name__ == "__main__":
    sys.exit(main())

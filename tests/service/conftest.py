"""Stores to serve, the real service in a process of its own, and the application in this one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app, load_context
from service.keyring import FILE, Keyring, Scope
from service.settings import Settings
from tests.commands import run, start
from tests.conftest import write_npz


@dataclass(frozen=True)
class Server:
    """A running ``casebook serve``."""

    url: str
    process: subprocess.Popen[str]
    store: Path


@contextmanager
def serving(folder: Path, store: Path, *options: str) -> Iterator[Server]:
    """``casebook serve`` on a free port, until the block ends."""
    words = ("casebook", "serve", "--port", "0", "--rate-limit", "none", *options)
    log = folder / "serve.log"
    with log.open("w") as errors:
        process = start(folder, *words, errors=errors, CASEBOOK_STORE=str(store))
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready: "), log.read_text()
            yield Server(line.split()[1].rstrip("/"), process, store)
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="session")
def phantom_store(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantoms, with the accuracy of each on record. Not to be written to."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(phantoms, folder / "store")
    run(folder, "knn-eval", "--k", "11")
    return folder / "store"


@pytest.fixture(scope="session")
def server(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves every phantom cell; cases are neither added to it nor erased."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(phantom_store, folder / "store")
    with serving(folder, folder / "store") as running:
        yield running


@pytest.fixture(scope="session")
def probed(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As ``server``, with a linear probe of each cell at 28 px, and none at 64."""
    folder = tmp_path_factory.mktemp("probed")
    shutil.copytree(phantom_store, folder / "store")
    run(
        folder,
        "probe-eval",
        "--res",
        "28",
        "--epochs",
        "9",
        "--seeds",
        "1",
        "--learning-rate",
        "0.01",
    )
    with serving(folder, folder / "store") as running:
        yield running


@dataclass(frozen=True)
class Tiny:
    """The application over a tiny dataset of random images, with keys to it."""

    client: TestClient
    store: Path
    npz: Path
    read: dict[str, str]
    write: dict[str, str]


TinyMaker = Callable[..., Tiny]


@pytest.fixture
def make_tiny(tmp_path: Path) -> Iterator[TinyMaker]:
    """Makes and serves a dataset called ``tiny``: ``form`` is of ``write_npz``."""
    running = []

    def make(form: dict[str, object] | None = None, **changes: object) -> Tiny:
        npz = tmp_path / "tiny.npz"
        store = tmp_path / "store"
        if not npz.exists():
            write_npz(npz, **{"counts": (40, 4, 12), **(form or {})})  # type: ignore[arg-type]
            run(tmp_path, "embed", "--model", "hog", "--dataset", str(npz))
        settings = Settings(**{"store": store, "dataset": (str(npz),), **changes})  # type: ignore[arg-type]
        keyring = Keyring(store / FILE)
        read, write = keyring.add("reader", Scope.READ), keyring.add("writer", Scope.WRITE)
        context = load_context(settings, keyring, lambda text: None)
        client = TestClient(create_app(context), base_url="http://localhost")
        client.__enter__()
        running.append(client)
        heads = [{"Authorization": f"Bearer {key}"} for key in (read, write)]
        return Tiny(client, store, npz, *heads)

    yield make
    for client in running:
        client.__exit__(None, None, None)


@pytest.fixture
def tiny(make_tiny: TinyMaker) -> Tiny:
    return make_tiny()

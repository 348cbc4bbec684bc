from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from embedder import download
from embedder.download import fetch, file_md5
from embedder.errors import DownloadError

BODY = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
MD5 = hashlib.md5(BODY).hexdigest()


class Site(ThreadingHTTPServer):
    """Serves ``body``; the first part of an address says how. Remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = BODY
        self.asked: list[tuple[str, str | None]] = []
        self.cuts = 1
        self.slow = 0.0

    def url(self, how: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{how}/a.npz?download=1"

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Range"]))
        how = self.path.split("/")[1]
        time.sleep(self.server.slow)
        getattr(self, f"_{how}", self._proxied)()

    def log_message(self, *_: object) -> None:
        pass

    def _start(self) -> int:
        asked = self.headers["Range"] or "bytes=0-"
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _send(self, code: int, block: bytes, length: int | None, **headers: str) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(block)

    def _plain(self) -> None:
        self._send(200, self.server.body, len(self.server.body))

    def _range(self, cut: int | None = None) -> None:
        body, start = self.server.body, self._start()
        if start >= len(body):
            return self._send(416, b"", 0, Content_Range=f"bytes */{len(body)}")
        block = body[start:]
        if not start:
            return self._send(200, block[:cut], len(block))
        place = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self._send(206, block[:cut], len(block), Content_Range=place)

    def _cut(self) -> None:
        self.server.cuts -= 1
        self._range(100_000 if self.server.cuts >= 0 else None)

    def _cutplain(self) -> None:
        self.server.cuts -= 1
        body = self.server.body
        self._send(200, body[: 100_000 if self.server.cuts >= 0 else None], len(body))

    def _unsized(self) -> None:
        self._send(200, self.server.body, None)

    def _otherplace(self) -> None:
        """A part that is not the one asked for."""
        start = self._start() and 5
        place = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        self._send(206 if start else 200, BODY[start:], len(BODY) - start, Content_Range=place)

    def _allofit(self) -> None:
        """Everything as a part, whatever was asked for."""
        place = f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
        self._send(206, BODY, len(BODY), Content_Range=place)

    def _missing(self) -> None:
        self._send(404, b"<html>no such file</html>", None)

    def _broken(self) -> None:
        self._send(503, b"later", 5)

    def _moved(self) -> None:
        self._send(302, b"", 0, Location=self.server.url("range"))

    def _page(self) -> None:
        self._send(200, b"<html>log in</html>", 19)

    def _nothing(self) -> None:
        self._send(200, b"", 0)

    def _noise(self) -> None:
        self.wfile.write(b"\0\1\2 this is not HTTP\r\n\r\n")

    def _silent(self) -> None:
        time.sleep(1)

    def _proxied(self) -> None:
        self._send(200, self.server.body, len(self.server.body))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made of the environment, once


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "a.npz"


def part_of(path: Path) -> Path:
    return path.with_name("a.npz.part")


def put_part(path: Path, block: bytes) -> None:
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(block)


def failure(call: Callable[[], object], url: str, path: Path) -> str:
    """The message of the DownloadError: one line with the address and what to do by hand."""
    with pytest.raises(DownloadError) as caught:
        call()
    message = str(caught.value)
    assert url in message
    assert f"run again, or fetch it by hand and put it at {path}" in message
    assert message.isprintable()
    assert not path.exists()
    return message


def assert_fetched(path: Path) -> None:
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("how", ["plain", "range", "unsized", "moved"])
def test_fetch(site: Site, path: Path, how: str) -> None:
    fetch(site.url(how), path, MD5)
    assert_fetched(path)
    assert set(site.ranges) == {None}
    assert site.asked[0][0] == f"/{how}/a.npz?download=1"


def test_fetch_of_more_than_one_block(
    site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_BLOCK", 7001)
    fetch(site.url("range"), path, MD5)
    assert_fetched(path)


def test_file_address(path: Path, tmp_path: Path) -> None:
    (tmp_path / "a mirror").mkdir()
    source = tmp_path / "a mirror" / "a.npz"
    source.write_bytes(BODY)
    fetch(source.as_uri(), path, MD5)
    assert_fetched(path)
    assert source.read_bytes() == BODY


def test_file_address_begins_anew_where_a_part_is_left(path: Path, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(BODY)
    put_part(path, b"x" * 1000)
    fetch((tmp_path / "a.npz").as_uri(), path, MD5)
    assert_fetched(path)


def test_file_address_of_nothing(path: Path, tmp_path: Path) -> None:
    url = (tmp_path / "none.npz").as_uri()
    assert "No such file or directory" in failure(lambda: fetch(url, path, MD5), url, path)


def test_existing_file_is_left_alone(site: Site, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"put here by hand")
    fetch(site.url("plain"), path, MD5)
    assert path.read_bytes() == b"put here by hand"
    assert list(path.parent.iterdir()) == [path]
    assert site.asked == []


# Going on


@pytest.mark.parametrize("how", ["range", "moved"])
@pytest.mark.parametrize("length", [1, 100_000, 299_999])
def test_part_is_gone_on_with(site: Site, path: Path, how: str, length: int) -> None:
    put_part(path, BODY[:length])
    fetch(site.url(how), path, MD5)
    assert_fetched(path)
    assert set(site.ranges) == {f"bytes={length}-"}


def test_whole_part_is_not_fetched_again(site: Site, path: Path) -> None:
    put_part(path, BODY)
    fetch(site.url("range"), path, MD5)
    assert_fetched(path)
    assert site.ranges == ["bytes=300000-"]


@pytest.mark.parametrize("part", [BODY[:100_000], b"x" * 100_000, BODY + b"x"])
def test_server_without_ranges_begins_anew(site: Site, path: Path, part: bytes) -> None:
    put_part(path, part)
    fetch(site.url("plain"), path, MD5)
    assert_fetched(path)


@pytest.mark.parametrize("part", [b"x" * 100_000, b"x" * 300_000, BODY + b"x"])
def test_part_of_another_file_is_thrown_away(site: Site, path: Path, part: bytes) -> None:
    url = site.url("range")
    put_part(path, part)
    assert "gave a file of MD5" in failure(lambda: fetch(url, path, MD5), url, path)
    assert not part_of(path).exists()
    fetch(url, path, MD5)
    assert_fetched(path)
    assert site.ranges == [f"bytes={len(part)}-", None]


def test_server_that_sends_another_part(site: Site, path: Path) -> None:
    url = site.url("otherplace")
    put_part(path, BODY[:100_000])
    failure(lambda: fetch(url, path, MD5), url, path)
    fetch(url, path, MD5)
    assert_fetched(path)


def test_server_that_sends_everything_as_a_part(site: Site, path: Path) -> None:
    put_part(path, BODY[:100_000])
    fetch(site.url("allofit"), path, MD5)
    assert_fetched(path)


def test_connection_that_is_cut_is_gone_on_with(site: Site, path: Path) -> None:
    url, site.cuts = site.url("cut"), 2
    message = failure(lambda: fetch(url, path, MD5), url, path)
    assert "the connection ended after 100,000 of 300,000 bytes" in message
    assert part_of(path).read_bytes() == BODY[:100_000]
    message = failure(lambda: fetch(url, path, MD5), url, path)
    assert "the connection ended after 200,000 of 300,000 bytes" in message
    assert part_of(path).read_bytes() == BODY[:200_000]
    fetch(url, path, MD5)
    assert_fetched(path)
    assert site.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_connection_that_is_cut_without_ranges(site: Site, path: Path) -> None:
    url = site.url("cutplain")
    failure(lambda: fetch(url, path, MD5), url, path)
    assert part_of(path).read_bytes() == BODY[:100_000]
    fetch(url, path, MD5)
    assert_fetched(path)


# What goes wrong


def test_wrong_content(site: Site, path: Path) -> None:
    url, wrong = site.url("page"), hashlib.md5(b"<html>log in</html>").hexdigest()
    message = failure(lambda: fetch(url, path, MD5), url, path)
    assert f"gave a file of MD5 {wrong}, expected {MD5};" in message
    assert not part_of(path).exists()


def test_empty_content(site: Site, path: Path) -> None:
    url = site.url("nothing")
    assert "d41d8cd98f00b204e9800998ecf8427e" in failure(lambda: fetch(url, path, MD5), url, path)
    assert not part_of(path).exists()


@pytest.mark.parametrize(
    ("how", "reason"),
    [("missing", "Not Found"), ("broken", "Service Unavailable"), ("noise", "this is not HTTP")],
)
def test_refusal_keeps_the_part(site: Site, path: Path, how: str, reason: str) -> None:
    url = site.url(how)
    put_part(path, BODY[:9])
    assert reason in failure(lambda: fetch(url, path, MD5), url, path)
    assert part_of(path).read_bytes() == BODY[:9]


def test_nobody_listens(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}/a.npz"
    assert "Connection refused" in failure(lambda: fetch(url, path, MD5), url, path)


def test_server_that_stays_silent(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.1)
    url = site.url("silent")
    assert "timed out" in failure(lambda: fetch(url, path, MD5), url, path)


@pytest.mark.parametrize(
    "url", ["a.npz", "/mirror/a.npz", "gopher://127.0.0.1/a.npz", "http://", "http://[x/a.npz"]
)
def test_address_that_is_none(path: Path, url: str) -> None:
    failure(lambda: fetch(url, path, MD5), url, path)


def test_folder_below_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    url, path = site.url("plain"), tmp_path / "data" / "a.npz"
    with pytest.raises(DownloadError, match=r"cannot write .*data: .*; give another --data"):
        fetch(url, path, MD5)
    assert site.asked == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written(site: Site, path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    url = site.url("plain")
    with pytest.raises(DownloadError, match=r"Permission denied; give another --data"):
        fetch(url, path, MD5)


def test_full_disk_keeps_the_part(site: Site, path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from embedder.download import fetch\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, site.url("range"), str(path), MD5],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "DownloadError: cannot fetch" in run.stderr
    assert "File too large" in run.stderr
    assert 0 < part_of(path).stat().st_size <= 200_000
    fetch(site.url("range"), path, MD5)
    assert_fetched(path)


# Several at once


def test_threads_that_fetch_the_same_file(site: Site, path: Path) -> None:
    site.slow = 0.1
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(fetch, site.url("range"), path, MD5) for _ in range(4)]
        for call in calls:
            call.result()
    assert_fetched(path)
    assert len(site.asked) == 1


def test_processes_that_fetch_the_same_file(site: Site, path: Path) -> None:
    site.slow = 0.5
    code = (
        "import sys; from pathlib import Path; from embedder.download import fetch; "
        "fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", code, site.url("range"), str(path), MD5]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert_fetched(path)
    assert len(site.asked) == 1


def test_lock_that_a_killed_process_left(site: Site, path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "a.npz.lock").touch()
    fetch(site.url("plain"), path, MD5)
    assert_fetched(path)


def test_file_that_comes_while_waiting_is_taken(site: Site, path: Path) -> None:
    path.parent.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(f"{path}.lock"):
            waiting = pool.submit(fetch, site.url("plain"), path, MD5)
            time.sleep(0.2)
            assert not waiting.done()
            path.write_bytes(b"from elsewhere")
        waiting.result(timeout=5)
    assert path.read_bytes() == b"from elsewhere"
    assert site.asked == []


def test_file_that_is_there_is_not_waited_for(site: Site, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(BODY)
    with FileLock(f"{path}.lock"), ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(fetch, site.url("plain"), path, MD5).result(timeout=5)
        finally:
            (path.parent / "a.npz.lock").unlink()  # else a failure here would never end
    assert site.asked == []


# Proxies


def test_proxy_of_the_environment(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.server_address[1]}")
    fetch("http://medmnist.invalid/a.npz", path, MD5)
    assert_fetched(path)
    assert site.asked == [("http://medmnist.invalid/a.npz", None)]


def test_host_that_needs_no_proxy(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    fetch(site.url("plain"), path, MD5)
    assert_fetched(path)


def test_file_md5(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_md5(tmp_path / "a") == "900150983cd24fb0d6963f7d28e17f72"

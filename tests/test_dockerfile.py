"""The container image: built where an engine is present, else its Dockerfile checked by rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from service.settings import Settings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "Dockerfile"
TAG = "casebook-test"

_SECRET = re.compile(r"(?i)(password|passwd|secret|token|credential|api_?key|cb_[0-9a-f]{8}_)")


class Step(NamedTuple):
    """An instruction and its arguments, with continued lines joined."""

    name: str
    text: str


def steps_of(dockerfile: str) -> list[Step]:
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parts = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [Step(name.upper(), text.strip()) for name, text in parts]


def texts(steps: list[Step], name: str) -> list[str]:
    return [step.text for step in steps if step.name == name]


def copied(steps: list[Step]) -> set[str]:
    """What is copied from the repository; all but the last word of each COPY."""
    return {word.rstrip("/") for text in texts(steps, "COPY") for word in text.split()[:-1]}


def complaints(dockerfile: str, root: Path = ROOT) -> Iterator[str]:
    """What is wrong with a Dockerfile, by rules of our own."""
    steps = steps_of(dockerfile)
    yield from _of_base_and_user(steps)
    yield from _of_layers(steps)
    yield from _of_copies(steps, root)
    yield from _of_service(steps)


def _of_base_and_user(steps: list[Step]) -> Iterator[str]:
    for text in texts(steps, "FROM"):
        _, _, tag = text.split()[0].partition(":")
        if not re.search(r"[0-9]", tag) or "latest" in tag:
            yield "base without a version"
    users = texts(steps, "USER") or ["root"]
    if users[-1].split(":")[0] in ("root", "0"):
        yield "runs as root"
    elif not any(f" {users[-1]}" in text for text in texts(steps, "RUN") if "useradd" in text):
        yield "its user is not made"


def _of_layers(steps: list[Step]) -> Iterator[str]:
    for text in texts(steps, "RUN"):
        if "apt-get install" in text and "rm -rf /var/lib/apt/lists" not in text:
            yield "lists of apt are left"
        if "apt-get install" in text and "--no-install-recommends" not in text:
            yield "recommended packages are installed"
        if "pip install" in text and "--no-cache-dir" not in text:
            yield "pip's cache is left"
        if "pip install" in text and "--constraint constraints.txt" not in text:
            yield "dependencies are not pinned"
    if texts(steps, "ADD"):
        yield "ADD fetches or unpacks; use COPY"
    if any(_SECRET.search(f"{name} {text}") for name, text in steps):
        yield "a secret"


def _of_copies(steps: list[Step], root: Path) -> Iterator[str]:
    ignored = [line.removeprefix("**/") for line in (root / ".dockerignore").read_text().split()]
    for name in copied(steps):
        if name == ".":
            yield "copies everything"
        elif not (root / name).exists():
            yield f"{name} is not there"
        elif name in ignored or name.startswith("."):
            yield f"{name} is ignored"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {*wheel, project["project"]["readme"], *project["project"]["license-files"]}
    for name in sorted(needed - copied(steps)):
        yield f"{name} is not copied"


def _of_service(steps: list[Step]) -> Iterator[str]:
    settings = dict(word.split("=", 1) for text in texts(steps, "ENV") for word in text.split())
    known = {f"CASEBOOK_{name.upper()}" for name in Settings.model_fields}
    if unknown := {name for name in settings if name.startswith("CASEBOOK_")} - known:
        yield f"{sorted(unknown)[0]} is no setting"
    volumes = {path for text in texts(steps, "VOLUME") for path in json.loads(text)}
    if settings.get("CASEBOOK_STORE", "./store") not in volumes:
        yield "the store is no volume"
    port = f"{Settings.model_fields['port'].default}"
    if texts(steps, "EXPOSE") != [port]:
        yield f"port {port} is not exposed"
    checks = texts(steps, "HEALTHCHECK")
    if len(checks) != 1 or f"127.0.0.1:{port}/readyz" not in checks[0] or "python" not in checks[0]:
        yield "no health check"
    for name, expected in (("ENTRYPOINT", ["casebook"]), ("CMD", ["serve"])):
        if [json.loads(text) for text in texts(steps, name)] != [expected]:
            yield f"{name} is not {expected}"


GOOD = FILE.read_text()


def test_the_dockerfile_keeps_the_rules() -> None:
    assert list(complaints(GOOD)) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (":3.11-slim-bookworm", "", "base without a version"),
        (":3.11-slim-bookworm", ":latest", "base without a version"),
        ("USER casebook\n", "", "runs as root"),
        ("USER casebook\n", "USER casebook\nUSER root\n", "runs as root"),
        ("USER casebook\n", "USER other\n", "its user is not made"),
        ("USER ", "RUN apt-get update && apt-get install -y x\nUSER ", "lists of apt are left"),
        ("USER ", "RUN apt-get install -y x\nUSER ", "recommended packages are installed"),
        (" --no-cache-dir", "", "pip's cache is left"),
        (" --constraint constraints.txt", "", "dependencies are not pinned"),
        ("COPY index index", "ADD https://example.org/x /x", "ADD fetches or unpacks; use COPY"),
        ("ENV ", "ENV API_KEY=x ", "a secret"),
        ("COPY index index", "COPY . .", "copies everything"),
        ("COPY index index", "COPY indexes index", "indexes is not there"),
        ("COPY index index", "COPY docs docs", "docs is ignored"),
        ("COPY service service\n", "", "service is not copied"),
        ("LICENSE ", "", "LICENSE is not copied"),
        ("CASEBOOK_HOST", "CASEBOOK_HOSTS", "CASEBOOK_HOSTS is no setting"),
        ('"/store", ', "", "the store is no volume"),
        ("EXPOSE 8000\n", "", "port 8000 is not exposed"),
        ("/readyz", "/livez", "no health check"),
        ("HEALTHCHECK", "# HEALTHCHECK", "no health check"),
        ('["serve"]', '["info"]', "CMD is not ['serve']"),
    ],
)
def test_each_rule_finds_what_breaks_it(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    assert complaint in list(complaints(GOOD.replace(old, new)))


class _Service(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_health_check_asks_whether_the_service_is_ready(
    status: int | None, healthy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (check,) = texts(steps_of(GOOD), "HEALTHCHECK")
    python, *arguments = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    with ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server:
        monkeypatch.setattr(_Service, "status", status)
        port = f"{server.server_address[1]}"
        if status is not None:
            threading.Thread(target=server.serve_forever).start()
        else:
            server.socket.close()
        command = [sys.executable, *(word.replace("8000", port) for word in arguments)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if status is not None:
            server.shutdown()
    assert (done.returncode == 0) is healthy


def engine() -> str | None:
    """A container engine that runs."""
    for name in ("docker", "podman"):
        if shutil.which(name):
            asked = [name, "info", "--format", "{{.ID}}" if name == "docker" else "{{.Host.Os}}"]
            if subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0:
                return name
    return None


def runs(*command: str, status: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_image_builds_and_says_what_it_needs() -> None:
    """Without an engine hadolint reads the file."""
    found = engine()
    if found is not None:
        runs(found, "build", "--tag", TAG, str(ROOT))
        assert runs(found, "run", "--rm", "--entrypoint", "id", TAG, "-u").strip() == "1000"
        assert runs(found, "run", "--rm", TAG, "--version").startswith("casebook ")
        assert "casebook keys add NAME" in runs(found, "run", "--rm", TAG, status=2)
        assert runs(found, "run", "--rm", TAG, "keys", "add", "me").startswith("cb_")
    elif shutil.which("hadolint"):
        runs("hadolint", "--failure-threshold", "warning", str(FILE))
    else:
        pytest.skip("neither a container engine nor hadolint is here; the rules above have read it")

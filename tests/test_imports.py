"""Who may import whom: ``embedder <- index <- evaluate, service``; the last two never meet.

The benchmarks may import all of them, and nobody imports the benchmarks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "embedder": {"embedder"},
    "index": {"embedder", "index"},
    "evaluate": {"embedder", "index", "evaluate"},
    "service": {"embedder", "index", "service"},
    "benchmarks": {"embedder", "index", "evaluate", "service", "benchmarks"},
}

ORDER = (
    {"errors", "types"},
    {"registry", "seekable", "pictures", "files", "heap", "processor"},
    {"datasets", "backbones", "inflated"},
    {"console", "prefetch", "download", "npz", "folder", "phantom", "hog", "preprocess", "recipe",
     "fingerprint", "window"},
    {"kernels"},
    {"layers"},
    {"reach"},
    {"store", "sources", "network", "weights"},
    {"image", "catalogue", "selection"},
    {"writer", "erase", "loading"},
    {"encode", "plan"},
    {"engine"},
    {"cli"},
    {"info"},
)  # fmt: skip
"""Modules of the embedder; each imports only from the steps above its own."""


def imports(path: Path, *, local: bool = True) -> Iterator[str]:
    """Dotted names that a file imports; ``local`` includes imports within functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if local else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_one_way(package: str) -> None:
    files = list((ROOT / package).glob("**/*.py"))
    assert files
    for path in files:
        ours = {name.partition(".")[0] for name in imports(path)} & {*ALLOWED, "casebook"}
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def test_faiss_is_loaded_in_one_place() -> None:
    paths = [ROOT / "casebook.py"]
    paths += [path for package in ALLOWED for path in (ROOT / package).glob("**/*.py")]
    found = {
        path.relative_to(ROOT).as_posix() for path in paths
        if any(name.partition(".")[0] == "faiss" for name in imports(path))
    }  # fmt: skip
    assert found == {"index/blas.py"}


def test_the_embedder_is_built_in_steps() -> None:
    steps = {name: step for step, names in enumerate(ORDER) for name in names}
    files = [path for path in (ROOT / "embedder").glob("*.py") if path.stem != "__init__"]
    assert {path.stem for path in files} == set(steps)
    for path in files:
        for name in imports(path):
            package, _, module = name.partition(".")
            module = module.partition(".")[0]
            if package == "embedder" and module in steps:
                assert steps[module] < steps[path.stem], f"{path.stem} imports {module}"


def test_no_module_is_a_drawer_for_everything() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    for package in ALLOWED:
        for path in (ROOT / package).glob("**/*.py"):
            assert path.stem not in forbidden
            assert len(path.read_text().splitlines()) <= 300, path

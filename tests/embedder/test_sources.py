from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedder.datasets import DATASETS, SIZES
from embedder.errors import DatasetError, DownloadError, UnknownNameError, UsageError
from embedder.folder import FolderSource
from embedder.npz import NpzSource
from embedder.phantom import PhantomSource
from embedder.sources import Library, library_from_environment
from embedder.types import Split, Task

NpzMaker = Callable[..., Path]
NAME = "breastmnist"
COUNTS = (546, 78, 156)


@pytest.fixture
def breast(make_npz: NpzMaker) -> NpzMaker:
    """Makes files that stand for BreastMNIST, below ``mirror`` unless told otherwise."""
    return lambda name="mirror/breastmnist.npz", **changes: make_npz(
        name, **{"counts": COUNTS, "classes": 2} | changes
    )


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Makes a file the official one of its size."""
    from medmnist.info import INFO

    def declare(path: Path, size: int = 28) -> None:
        suffix = "" if size == 28 else f"_{size}"
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(INFO[NAME], f"MD5{suffix}", md5)
        monkeypatch.setitem(INFO[NAME], f"url{suffix}", path.as_uri())

    return declare


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "data", (tmp_path / "mirror").as_uri())


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


@pytest.fixture
def said() -> Iterator[list[tuple[int, str]]]:
    logger, kept = logging.getLogger("casebook"), Kept()
    logger.addHandler(kept)
    yield kept.said
    logger.removeHandler(kept)


def images_of(path: Path, split: Split) -> Any:
    with np.load(path) as file:
        return file[f"{split}_images"]


def save_folder(root: Path) -> Path:
    for split in Split:
        for value, name in enumerate("ab"):
            (root / split / name).mkdir(parents=True)
            Image.new("L", (30, 30), value).save(root / split / name / "0.png")
    return root


# MedMNIST+ files


@pytest.mark.parametrize(("size", "name"), [(28, "breastmnist.npz"), (64, "breastmnist_64.npz")])
def test_file_is_fetched_from_the_mirror(
    library: Library, breast: NpzMaker, official: Callable[..., None], size: int, name: str
) -> None:
    there = breast(f"mirror/{name}", size=size)
    official(there, size)
    assert not library.is_here(NAME, size)
    source = library.open(NAME, size)
    assert source.dataset == DATASETS[NAME]
    assert source.size == size
    first = next(source.batches(Split.TRAIN, 5))
    np.testing.assert_array_equal(first[..., 0], images_of(there, Split.TRAIN)[:5])
    assert library.is_here(NAME, size)
    assert list(library.folder.iterdir()) == [library.path(NAME, size)]
    assert library.path(NAME, size) == library.folder / name
    there.unlink()
    assert library.open(NAME, size).checksum == source.checksum


def test_mirror_served_over_http(
    tmp_path: Path, breast: NpzMaker, official: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    official(breast())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serve = functools.partial(Handler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("CASEBOOK_MIRROR", f"http://127.0.0.1:{server.server_port}/mirror/")
        library = library_from_environment(tmp_path / "data")
        assert len(library.open(NAME, 28).labels(Split.VAL)) == 78
        server.shutdown()
        thread.join()
    assert asked == ["/mirror/breastmnist.npz"]


def test_without_a_mirror_the_official_address_is_asked(
    tmp_path: Path, breast: NpzMaker, official: Callable[..., None]
) -> None:
    official(breast("elsewhere/x.npz"))
    source = Library(tmp_path / "data").open(NAME, 28)
    assert source.dataset.name == NAME
    assert (tmp_path / "data" / "breastmnist.npz").exists()


def test_mirror_with_another_file(library: Library, breast: NpzMaker) -> None:
    breast()
    with pytest.raises(DownloadError, match="expected 750601b1f35ba3300ea97c75c52ff8f6;") as caught:
        library.open(NAME, 28)
    assert f"put it at {library.folder / 'breastmnist.npz'}" in str(caught.value)
    assert not library.is_here(NAME, 28)


def test_mirror_without_the_file(library: Library) -> None:
    with pytest.raises(DownloadError, match=r"mirror/breastmnist_128\.npz: .*No such file"):
        library.open(NAME, 128)


def test_file_put_by_hand_is_used_with_a_warning(
    library: Library, breast: NpzMaker, said: list[tuple[int, str]]
) -> None:
    path = breast("data/breastmnist.npz")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    source = library.open(NAME, 28)
    library.check_md5(NAME, 28)
    assert source.dataset == DATASETS[NAME]
    message = (
        f"{path} has MD5 {md5}, the official file 750601b1f35ba3300ea97c75c52ff8f6; "
        "it is used as it is"
    )
    assert said == [(logging.WARNING, message)]


def test_no_warning_of_the_official_file_or_of_others(
    library: Library,
    breast: NpzMaker,
    official: Callable[..., None],
    said: list[tuple[int, str]],
) -> None:
    path = breast("data/breastmnist.npz")
    official(path)
    library.check_md5(NAME, 28)
    library.check_md5("phantom-cells", 28)
    library.check_md5(str(path), 28)
    assert said == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 64}, "holds images of 64 px; expected 28"),
        ({"counts": (546, 78, 155)}, "test has 155 rows; breastmnist has 156"),
        ({"channels": 3}, "images have 3 channels; breastmnist has 1"),
        ({"classes": 3}, "holds 2; labels go from 0 to 1"),
    ],
)
def test_file_put_by_hand_that_is_another(
    library: Library, breast: NpzMaker, changes: dict[str, Any], message: str
) -> None:
    path = breast("data/breastmnist.npz", **changes)
    with pytest.raises(DatasetError, match=message) as caught:
        library.open(NAME, 28)
    assert str(path) in str(caught.value)


def test_file_that_cannot_be_looked_at(tmp_path: Path) -> None:
    library = Library(tmp_path / ("x" * 300))
    with pytest.raises(DatasetError, match=r"breastmnist\.npz: File name too long"):
        library.open(NAME, 28)
    with pytest.raises(DatasetError, match="File name too long"):
        library.sizes("./" + "x" * 300, None)


def test_real_file(real_data: Path, said: list[tuple[int, str]]) -> None:
    library = Library(real_data)
    source = library.open("pneumoniamnist", 28)
    library.check_md5("pneumoniamnist", 28)
    assert source.dataset == DATASETS["pneumoniamnist"]
    assert len(said) == 1


# Others


@pytest.mark.parametrize("size", SIZES)
def test_phantom(library: Library, size: int) -> None:
    source = library.open("phantom-grade", size)
    assert isinstance(source, PhantomSource)
    assert source.dataset == DATASETS["phantom-grade"]
    assert source.size == size
    assert library.is_here("phantom-grade", size)
    assert not library.folder.exists()


def test_npz_given_by_path(library: Library, make_npz: NpzMaker) -> None:
    path = make_npz("moles.npz", size=64)
    source = library.open(str(path), 64)
    assert isinstance(source, NpzSource)
    assert source.dataset.name == "moles"
    assert library.path(str(path), 64) == path
    assert library.is_here(str(path), 64)
    assert library.known(str(path)) is None
    with pytest.raises(DatasetError, match="holds images of 64 px; expected 28"):
        library.open(str(path), 28)


def test_file_of_a_known_name_given_by_path_has_to_be_that_dataset(
    library: Library, make_npz: NpzMaker
) -> None:
    other = make_npz("breastmnist.npz", classes=5)
    with pytest.raises(DatasetError, match="if it is another dataset, rename the file"):
        library.open(str(other), 28)
    real = make_npz("breastmnist.npz", classes=2, counts=(546, 78, 156))
    assert library.open(str(real), 28).dataset is DATASETS["breastmnist"]


def test_folder_of_a_known_name_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has the name of a known dataset; rename it"):
        library.open(str(save_folder(tmp_path / "breastmnist")), 20)
    with pytest.raises(DatasetError, match="gives no name for the store"):
        library.open(str(save_folder(tmp_path / "all")), 20)


def test_folder_given_by_path(library: Library, tmp_path: Path) -> None:
    for name in ("pets", "pets.npz"):
        root = save_folder(tmp_path / name)
        source = library.open(str(root), 20)
        assert isinstance(source, FolderSource)
        assert source.size == 20
        assert source.dataset.name == name


def test_task_is_that_of_paths_only(tmp_path: Path, make_npz: NpzMaker) -> None:
    library = Library(tmp_path, task=Task.ORDINAL)
    assert library.open(str(make_npz()), 28).dataset.task is Task.ORDINAL
    assert library.open(str(save_folder(tmp_path / "pets")), 28).dataset.task is Task.ORDINAL
    assert library.open("phantom-nodule", 28).dataset.task is Task.BINARY


def test_path_of_nothing(library: Library, tmp_path: Path) -> None:
    for name in (f"{tmp_path}/none.npz", f"{tmp_path}/none"):
        with pytest.raises(DatasetError, match=f"no file {name}; check the path"):
            library.open(name, 28)
        with pytest.raises(DatasetError, match=f"no file {name}; check the path"):
            library.sizes(name, None)


def test_unknown_name(library: Library) -> None:
    with pytest.raises(UnknownNameError, match="did you mean pneumoniamnist"):
        library.open("pnemoniamnist", 28)
    with pytest.raises(UnknownNameError, match="did you mean pneumoniamnist"):
        library.known("pnemoniamnist")
    assert library.known(NAME) is DATASETS[NAME]


# Sizes


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, (28,)), ((), (28, 64, 128, 224)), ((224, 64), (224, 64)), ((28,), (28,))],
)
@pytest.mark.parametrize("name", [NAME, "phantom-cells"])
def test_sizes_of_a_known_dataset(
    library: Library, name: str, asked: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert library.sizes(name, asked) == expected


@pytest.mark.parametrize("name", [NAME, "phantom-cells"])
def test_size_that_a_known_dataset_lacks(library: Library, name: str) -> None:
    with pytest.raises(
        UsageError, match=f"{name} exists at 28, 64, 128 and 224 px, not 32"
    ) as caught:
        library.sizes(name, (28, 32))
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, (28,)), ((), (28, 64, 128, 224)), ((32, 28), (32, 28))]
)
def test_sizes_of_a_folder(
    library: Library, tmp_path: Path, asked: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert library.sizes(str(save_folder(tmp_path / "pets")), asked) == expected


@pytest.mark.parametrize("name", ["odd.npz", "odd.zip"])
def test_size_of_a_file_is_its_own(library: Library, make_npz: NpzMaker, name: str) -> None:
    path = str(make_npz("odd.npz", size=50).rename(make_npz().with_name(name)))
    assert library.sizes(path, None) == (50,)
    assert library.sizes(path, ()) == (50,)
    assert library.sizes(path, (28, 50)) == (50,)
    with pytest.raises(UsageError, match="holds images of 50 px; use --res 50, or leave it"):
        library.sizes(path, (28, 224))


# Environment


def test_library_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library_from_environment(None) == Library(Path.home() / ".medmnist", None, None)
    monkeypatch.setenv("CASEBOOK_DATA", str(tmp_path / "a"))
    monkeypatch.setenv("CASEBOOK_MIRROR", "file:///mirror")
    assert library_from_environment(None, Task.ORDINAL) == Library(
        tmp_path / "a", "file:///mirror", Task.ORDINAL
    )
    assert library_from_environment(tmp_path / "b").folder == tmp_path / "b"
    monkeypatch.setenv("CASEBOOK_DATA", "")
    monkeypatch.setenv("CASEBOOK_MIRROR", "")
    assert library_from_environment(None) == Library(Path.home() / ".medmnist", None, None)


def test_a_link_is_named_as_it_is_called(tmp_path: Path, make_npz: NpzMaker) -> None:
    (tmp_path / "linked.npz").symlink_to(make_npz("blobs/deadbeef.npz"))
    assert Library(tmp_path).open(str(tmp_path / "linked.npz"), 28).dataset.name == "linked"


def test_a_file_that_goes_away_is_an_error(tmp_path: Path, make_npz: NpzMaker) -> None:
    library, path = Library(tmp_path), make_npz()
    library.open(str(path), 28)
    path.unlink()
    with pytest.raises(DatasetError, match="cannot read"):
        library.stamp(str(path), 28)

"""What may be served: which cells the settings name, and which of them are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedder.errors import (
    BackboneError,
    CasebookError,
    FingerprintError,
    StoreError,
    UsageError,
)
from embedder.loading import LoadedBackbone, load
from embedder.recipe import Recipe
from embedder.sources import Library
from embedder.store import Store, read_cell
from embedder.types import Pixels, Split, Vectors
from service.served import Served
from service.settings import Settings
from service.startup import check, choose, find_images, recipe_of
from tests.commands import run
from tests.conftest import write_npz


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of two datasets, one of them also at 32 px and by an untrained network."""
    folder = tmp_path_factory.mktemp("startup")
    write_npz(folder / "one.npz")
    with np.load(folder / "one.npz") as arrays:
        labels = {name: arrays[name] for name in arrays if name.endswith("labels")}
    write_npz(folder / "one_32.npz", size=32, **labels)
    write_npz(folder / "two.npz", seed=1)
    for name in ("one.npz", "one_32.npz", "two.npz"):
        run(folder, "embed", "--model", "hog", "--dataset", f"./{name}")
    model = ("--model", "test_vit", "--random-weights", "3")
    run(folder, "embed", "--model", "timm:test_vit.r160_in1k", *model[2:], "--dataset", "./one.npz")
    return folder


VIT = "timm--test_vit.r160_in1k-random3"


def settings(folder: Path, **changes: object) -> Settings:
    return Settings(**{"store": folder / "store", **changes})  # type: ignore[arg-type]


def names(folder: Path, **changes: object) -> list[tuple[str, int, str]]:
    cells = choose(settings(folder, **changes))
    return [(cell.dataset.name, cell.size, cell.header.variant) for cell in cells]


def test_everything_that_is_stored(folder: Path) -> None:
    assert names(folder) == [
        ("one", 28, "hog"), ("one", 28, VIT), ("one", 32, "hog"), ("two", 28, "hog"),
    ]  # fmt: skip


def test_what_is_named(folder: Path) -> None:
    assert names(folder, dataset=("two",)) == [("two", 28, "hog")]
    assert names(folder, dataset=("one",), res=(32,)) == [("one", 32, "hog")]
    assert names(folder, model=("timm:test_vit.r160_in1k",)) == [("one", 28, VIT)]
    assert names(folder, dataset=(str(folder / "one_32.npz"),), model=("hog",)) == [
        ("one", 28, "hog"), ("one", 32, "hog"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": ("tow",)}, "did you mean two?"),
        ({"model": ("hug",)}, "did you mean hog?"),
        ({"res": (64,)}, "nothing is stored at 64 px"),
        ({"dataset": ("one", "two"), "res": (28, 32)}, "two 32 px is not stored; embed it first"),
        ({"dataset": ("one", "two"), "model": (VIT,)}, f"{VIT} two is not stored"),
    ],
)
def test_what_is_not_stored(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CasebookError, match=message.replace("?", r"\?")):
        choose(settings(folder, **changes))


def test_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no embeddings in .*; run embed first"):
        choose(settings(tmp_path))


@pytest.mark.parametrize("beside", [True, False])
def test_an_incomplete_cell(folder: Path, tmp_path: Path, beside: bool) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    path = tmp_path / "store/two/28/hog.h5"
    partial = path.with_name("hog.h5.partial")
    shutil.copy(path, partial)
    if not beside:
        path.unlink()
    for changes in ({}, {"dataset": ("two",)}, {"dataset": ("two",), "model": ("hog",)}):
        with pytest.raises(StoreError, match=r"hog.h5.partial is not complete; run embed again"):
            choose(settings(tmp_path, **changes))
    assert names(tmp_path, dataset=("one",), model=("hog",), res=(28,)) == [("one", 28, "hog")]
    refused = run(tmp_path, "casebook", "serve", "--dataset", "two", "--port", "0", status=1)
    assert "is not complete; run embed again to finish it, then serve" in refused.stderr


def test_an_incomplete_cell_of_another_variant(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    path = tmp_path / "store/two/28/hog.h5"
    shutil.copy(path, path.with_name("hog-float16.h5.partial"))
    assert names(tmp_path, dataset=("two",), model=("hog",)) == [("two", 28, "hog")]
    for changes in ({}, {"model": ("hog-float16",)}, {"model": ("hog", "hog-float16")}):
        with pytest.raises(StoreError, match=r"hog-float16.h5.partial is not complete"):
            choose(settings(tmp_path, dataset=("two",), **changes))


def test_every_model_and_size_that_is_named(folder: Path) -> None:
    """Also without a dataset, less than was asked for is refused."""
    assert names(folder, model=("hog", VIT), res=(28,)) == [
        ("one", 28, "hog"), ("one", 28, VIT), ("two", 28, "hog"),
    ]  # fmt: skip
    with pytest.raises(StoreError, match=f"{VIT} 32 px is not stored"):
        choose(settings(folder, model=("hog", VIT), res=(32,)))


def test_cells_of_different_contents_are_not_served_together(tmp_path: Path) -> None:
    npz = write_npz(tmp_path / "tiny.npz")
    run(tmp_path, "embed", "--model", "hog", "--dataset", str(npz))
    with np.load(npz) as arrays:
        changed = dict(arrays)
    changed["train_labels"] = (changed["train_labels"] + 1) % 3
    np.savez(npz, **changed)
    run(tmp_path, "embed", "--model", "hog", "--storage", "float16", "--dataset", str(npz))
    with pytest.raises(StoreError, match="were made of different states of tiny; delete the"):
        open_served(tmp_path, dataset=("tiny",))
    open_served(tmp_path, dataset=("tiny",), model=("hog",)).close()


def test_recipes_of_cells(folder: Path) -> None:
    store = Store(folder / "store")
    hog = read_cell(store.path("one", 28, "hog"))
    assert recipe_of(hog, None).variant == "hog"
    vit = read_cell(store.path("one", 28, VIT))
    recipe = recipe_of(vit, None)
    assert (recipe.variant, recipe.weights.random_seed) == (VIT, 3)
    loaded = load(recipe, "cpu")
    check(vit, recipe, loaded.weights)
    source = Library(folder).open(str(folder / "one.npz"), 28)
    vectors = loaded.backbone.embed(source.pick(Split.TEST, range(6)))
    assert np.allclose(vectors, vit.embeddings(Split.TEST), atol=1e-5)


def test_a_cell_made_by_other_weights_is_refused(folder: Path) -> None:
    vit = read_cell(Store(folder / "store").path("one", 28, VIT))
    recipe = recipe_of(vit, None)
    with pytest.raises(FingerprintError, match="made in another way: weights is sha256:"):
        check(vit, recipe, "sha256:" + "0" * 64)
    other = Recipe(recipe.backbone, replace(recipe.weights, random_seed=4))
    with pytest.raises(FingerprintError, match="checkpoint is random:3, asked is random:4"):
        check(vit, other, load(recipe, "cpu").weights)


def test_a_cell_whose_fingerprint_was_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    """The command refuses what its backbone would embed in another way."""
    shutil.copytree(folder / "store", tmp_path / "store")
    path = tmp_path / f"store/one/28/{VIT}.h5"
    fingerprint = read_cell(path).header.fingerprint
    wrong = fingerprint.weights.replace(fingerprint.weights[-8:], "00000000")  # type: ignore[union-attr]
    block = path.read_bytes()
    assert fingerprint.weights is not None
    path.write_bytes(block.replace(fingerprint.weights.encode(), wrong.encode()))
    refused = run(tmp_path, "casebook", "serve", "--model", VIT, "--port", "0", status=1)
    assert "was made in another way: weights is sha256:" in refused.stderr


def test_a_cell_of_a_weights_file_needs_it(folder: Path) -> None:
    hog = read_cell(Store(folder / "store").path("one", 28, VIT))
    made = replace(hog.header.fingerprint, checkpoint="file:sha256:00")
    cell = replace(hog, header=replace(hog.header, fingerprint=made))
    with pytest.raises(UsageError, match="made with a weights file; give it by --weights"):
        recipe_of(cell, None)


def test_images_that_are_not_those_embedded(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cell = read_cell(Store(folder / "store").path("one", 28, "hog"))
    library = Library(tmp_path)
    found = find_images(cell, library, [str(folder / "one.npz")])
    assert found is not None
    assert found.image(Split.TEST, 0).shape == (28, 28, 1)
    write_npz(tmp_path / "one.npz", seed=9)
    assert find_images(cell, library, [str(tmp_path / "one.npz")]) is None
    assert find_images(cell, library, ["one"]) is None
    (tmp_path / "one.npz").write_bytes(b"nothing")
    assert find_images(cell, Library(tmp_path), [str(tmp_path / "one.npz")]) is None
    texts = [record.message for record in caplog.records]
    assert "is not what was embedded" in texts[0]
    assert "to have them give --dataset PATH" in texts[1]
    assert "truncated or damaged" in texts[2]


def test_added_cases_of_a_cell_that_was_not_served(folder: Path, tmp_path: Path) -> None:
    """They are embedded from the picture that was kept, exactly as if it had been served."""
    shutil.copytree(folder / "store", tmp_path / "store")
    served = open_served(tmp_path, model=("hog",), res=(28,))
    vector = np.arange(1, 325, dtype=np.float32)
    from service import png
    from tests.service.test_routes import picture

    pixels = picture(5, 224)
    collection = served.collections["one"]
    vectors = dict.fromkeys(collection.state.views, vector)
    collection.add(np.array([1], np.uint8), {224: png.encode(pixels)}, vectors)
    served.close()
    again = open_served(tmp_path)
    for cell in again.cells:
        added = cell.collection.state.views[cell.fingerprint].added
        if cell.cell.dataset.name == "one":
            expected = vector
            if (cell.model, cell.cell.size) != ("hog", 28):
                form = png.decode(png.encode(pixels), cell.cell.size, 1)
                recipe = recipe_of(cell.cell, None)
                expected = load(recipe, "cpu").backbone.embed(form[None])[0]
            assert np.allclose(added[1], expected, atol=1e-6)
    again.close()


def test_each_backbone_embeds_a_blank_image_of_each_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How images of a size are computed is decided by the first of them: not a request's. Nor does
    a request pay for the memory of a pass: what loading took is given back before.
    """
    tried: list[object] = []

    def watched(recipe: Recipe, device: str) -> LoadedBackbone:
        loaded = load(recipe, device)

        class Watched:
            def embed(self, pixels: Pixels) -> Vectors:
                tried.append((recipe.variant, pixels.shape, int(pixels.max())))
                return loaded.backbone.embed(pixels)

        return replace(loaded, backbone=Watched())

    monkeypatch.setattr("service.served.load", watched)
    monkeypatch.setattr("service.served.give_back", lambda: tried.append("given back"))
    reported: list[str] = []
    quiet = settings(folder, dataset=("one", "two"))
    Served(quiet, lambda name, size, seconds: None, reported.append).close()
    assert reported[-3:] == [
        "trying hog at 28 px", f"trying {VIT} at 28 px", "trying hog at 32 px",
    ]  # fmt: skip
    assert tried == [
        "given back",
        ("hog", (1, 28, 28, 1), 0),
        (VIT, (1, 28, 28, 1), 0),
        ("hog", (1, 32, 32, 1), 0),
    ]


def test_a_backbone_that_memory_is_too_small_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy:
        def embed(self, pixels: Pixels) -> Vectors:
            raise MemoryError

    def greedy(recipe: Recipe, device: str) -> LoadedBackbone:
        return replace(load(recipe, device), backbone=Greedy())

    monkeypatch.setattr("service.served.load", greedy)
    with pytest.raises(BackboneError, match="hog cannot be run at 28 px on cpu: out of memory"):
        open_served(folder, model=("hog",))


def open_served(folder: Path, **changes: object) -> Served:
    quiet = settings(folder, **{"dataset": ("one",), **changes})
    return Served(quiet, lambda name, size, seconds: None, lambda text: None)

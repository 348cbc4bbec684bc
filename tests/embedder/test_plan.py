from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest

from embedder.backbones import BACKBONES
from embedder.engine import Engine
from embedder.errors import DamagedCellError, FingerprintError
from embedder.plan import PlannedCell, State, plan
from embedder.recipe import Recipe, Storage, Weights
from embedder.sources import Library
from embedder.store import Store
from embedder.types import Split, Task
from tests.conftest import NpzMaker, write_npz

HOG = Recipe(BACKBONES["hog"])


def make_plan(tmp_path: Path, *names: str, recipe: Recipe = HOG) -> list[PlannedCell]:
    return plan(Store(tmp_path / "store"), Library(tmp_path), names, None, [recipe]).cells


def embed(tmp_path: Path, cell: PlannedCell) -> list[int]:
    return list(Engine(Library(tmp_path), "cpu", 4).embed(cell))


def test_a_cell_goes_from_new_to_complete(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    (cell,) = make_plan(tmp_path, path)
    assert (cell.state, cell.images, cell.bytes) == (State.NEW, 22, 22 * 324 * 4)
    assert embed(tmp_path, cell) == [0, 4, 4, 4, 4, 4, 2]
    (cell,) = make_plan(tmp_path, path)
    assert cell.state is State.COMPLETE
    assert embed(tmp_path, cell) == [22]


def test_float16_takes_half(make_npz: NpzMaker, tmp_path: Path) -> None:
    recipe = Recipe(BACKBONES["hog"], storage=Storage.FLOAT16)
    (cell,) = make_plan(tmp_path, str(make_npz()), recipe=recipe)
    assert cell.bytes == 22 * 324 * 2
    assert cell.path.name == "hog-float16.h5"


def test_an_interrupted_cell_is_to_go_on(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    (cell,) = make_plan(tmp_path, path)
    steps = Engine(Library(tmp_path), "cpu", 4).embed(cell)
    assert [next(steps) for _ in range(3)] == [0, 4, 4]
    steps.close()
    (cell,) = make_plan(tmp_path, path)
    assert cell.state is State.PARTIAL
    first, *rest = embed(tmp_path, cell)
    assert first >= 4
    assert first + sum(rest) == 22


def test_another_dataset_of_the_same_name_is_refused(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = make_npz()
    embed(tmp_path, make_plan(tmp_path, str(path))[0])
    write_npz(path, seed=9)
    (cell,) = make_plan(tmp_path, str(path))
    assert cell.state is State.REFUSED
    with pytest.raises(FingerprintError, match="dataset checksum is npz-crc"):
        embed(tmp_path, cell)


def test_a_damaged_cell_is_refused_and_not_overwritten(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    embed(tmp_path, make_plan(tmp_path, path)[0])
    (cell,) = make_plan(tmp_path, path)
    cell.path.write_bytes(cell.path.read_bytes()[:4000])
    (cell,) = make_plan(tmp_path, path)
    assert isinstance(cell.refusal, DamagedCellError)
    assert cell.path.stat().st_size == 4000


def test_an_older_schema_is_refused(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    embed(tmp_path, make_plan(tmp_path, path)[0])
    (cell,) = make_plan(tmp_path, path)
    with h5py.File(cell.path, "r+") as file:
        file.attrs["schema"] = 0
    (cell,) = make_plan(tmp_path, path)
    assert cell.state is State.REFUSED
    assert "schema 0, of an older casebook" in str(cell.refusal)


def test_a_complete_cell_needs_its_dataset_file_no_more(make_npz: NpzMaker, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    library = Library(tmp_path / "nowhere")
    (cell,) = plan(store, library, ["breastmnist"], None, [HOG]).cells
    assert cell.state is State.NEW
    assert not library.is_here("breastmnist", 28)


def test_recipes_keep_to_cells_of_their_own(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    recipes = [Recipe(BACKBONES["resnet18"], Weights(random_seed=seed)) for seed in (0, 1)]
    cells = plan(Store(tmp_path / "store"), Library(tmp_path), [path], None, recipes).cells
    assert [cell.path.name for cell in cells] == ["resnet18-random0.h5", "resnet18-random1.h5"]


def test_another_task_is_refused(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    embed(tmp_path, make_plan(tmp_path, path)[0])
    library = Library(tmp_path, task=Task.ORDINAL)
    (cell,) = plan(Store(tmp_path / "store"), library, [path], None, [HOG]).cells
    assert "task is multi-class, asked is ordinal" in str(cell.refusal)


def test_images_larger_than_the_canvas_are_refused_before_anything_is_made(
    make_npz: NpzMaker, tmp_path: Path
) -> None:
    path = str(make_npz(size=256, counts=(3, 3, 3)))
    resnet = Recipe(BACKBONES["resnet18"], Weights(random_seed=0))
    hog, net = plan(Store(tmp_path / "store"), Library(tmp_path), [path], None, [HOG, resnet]).cells
    assert hog.state is State.NEW
    assert "256 px do not fit the canvas of 224 px" in str(net.refusal)


def test_a_dataset_that_cannot_be_read_leaves_the_others(
    make_npz: NpzMaker, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"not a zip")
    planned = plan(
        Store(tmp_path / "s"), Library(tmp_path), [str(bad), str(make_npz())], None, [HOG]
    )
    assert [cell.dataset.name for cell in planned.cells] == ["tiny"]
    ((name, error),) = planned.failures
    assert name == str(bad)
    assert "truncated or damaged" in str(error)


@pytest.mark.parametrize("name", ["...npz", ".hidden.npz", "results.npz"])
def test_a_name_that_leads_out_of_its_place_is_refused(
    make_npz: NpzMaker, tmp_path: Path, name: str
) -> None:
    planned = plan(Store(tmp_path / "s"), Library(tmp_path), [str(make_npz(name))], None, [HOG])
    assert not planned.cells
    assert "gives no name for the store" in str(planned.failures[0][1])


def test_a_dataset_file_that_was_exchanged_midway_begins_its_split_anew(
    make_npz: NpzMaker, tmp_path: Path
) -> None:
    """Its first rows were damaged when they were embedded, and an interruption hid it."""
    path = make_npz(compressed=False)
    whole = path.read_bytes()
    pixel = whole.index(Library(tmp_path).open(str(path), 28).pick(Split.TRAIN, [0]).tobytes())
    path.write_bytes(whole[:pixel] + bytes(28) + whole[pixel + 28 :])
    (cell,) = make_plan(tmp_path, str(path))
    steps = Engine(Library(tmp_path), "cpu", 4).embed(cell)
    assert [next(steps) for _ in range(2)] == [0, 4]
    steps.close()
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    (cell,) = make_plan(tmp_path, str(path))
    assert embed(tmp_path, cell)[0] == 0
    resumed = cell.path.read_bytes()
    cell.path.unlink()
    embed(tmp_path, make_plan(tmp_path, str(path))[0])
    assert cell.path.read_bytes() == resumed

from __future__ import annotations

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
from tests.conftest import NpzMaker, write_npz

HOG = Recipe(BACKBONES["hog"])


def make_plan(tmp_path: Path, *names: str, recipe: Recipe = HOG) -> list[PlannedCell]:
    return plan(Store(tmp_path / "store"), Library(tmp_path), names, None, [recipe])


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
    steps.close()  # type: ignore[attr-defined]
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
    (cell,) = plan(store, library, ["breastmnist"], None, [HOG])
    assert cell.state is State.NEW
    assert not library.is_here("breastmnist", 28)


def test_recipes_keep_to_cells_of_their_own(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = str(make_npz())
    recipes = [Recipe(BACKBONES["resnet18"], Weights(random_seed=seed)) for seed in (0, 1)]
    cells = plan(Store(tmp_path / "store"), Library(tmp_path), [path], None, recipes)
    assert [cell.path.name for cell in cells] == ["resnet18-random0.h5", "resnet18-random1.h5"]

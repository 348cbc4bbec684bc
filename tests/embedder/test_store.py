from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from embedder.errors import DamagedCellError, StoreError
from embedder.store import Store, default_root, read_cell
from embedder.types import Split, Task
from embedder.writer import CellWriter
from tests.embedder.cells import COUNTS, DATASET, FINGERPRINT, header, labels, vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny" / "28" / "fake.h5")


def write(path: Path) -> Path:
    with CellWriter(path, header(), labels()) as writer:
        for split in Split:
            writer.append(split, 0, vectors(split))
        writer.finish()
    return path


def test_a_cell_says_what_it_was_made_of(path: Path) -> None:
    cell = read_cell(path)
    assert cell.dataset == DATASET
    assert cell.dataset.task is Task.MULTICLASS
    assert cell.size == 28
    assert cell.header.fingerprint == FINGERPRINT
    assert cell.header.versions == {"numpy": "2.0"}


def test_embeddings_are_mapped_read_only(path: Path) -> None:
    embeddings = read_cell(path).embeddings(Split.TRAIN)
    assert isinstance(embeddings, np.memmap)
    assert not embeddings.flags.writeable


def test_a_file_is_read_with_plain_h5py_from_the_words_of_the_specification(path: Path) -> None:
    """Follows docs/store-format.md and uses nothing of casebook."""
    with h5py.File(path, "r") as file:
        assert file.attrs["format"] == "casebook-cell"
        assert file.attrs["schema"] == 1
        assert file.attrs["variant"] == "fake"
        dataset = json.loads(file.attrs["dataset"])
        assert dataset["name"] == "tiny"
        assert dataset["task"] == "multi-class"
        assert dataset["channels"] == 1
        assert dataset["counts"] == [20, 5, 8]
        assert dataset["classes"] == ["a", "b", "c"]
        assert dataset["licence"] == "CC0"
        fingerprint = json.loads(file.attrs["fingerprint"])
        assert set(fingerprint) == {
            "dataset", "dataset_checksum", "size", "backbone", "checkpoint", "weights",
            "features", "preprocessing", "width", "precision", "storage",
        }  # fmt: skip
        assert json.loads(file.attrs["versions"]) == {"numpy": "2.0"}
        assert set(file) == {"train", "val", "test"}
        for split in Split:
            embeddings = file[split]["embeddings"]
            assert embeddings.dtype == np.dtype("<f4")
            assert embeddings.shape == (dataset["counts"][list(Split).index(split)], 6)
            assert embeddings.chunks is None
            assert embeddings.compression is None
            offset = embeddings.id.get_offset()
            assert offset % 64 == 0
            plain = np.fromfile(path, "<f4", embeddings.size, offset=offset)
            np.testing.assert_array_equal(plain.reshape(embeddings.shape), vectors(split))
            assert file[split]["labels"].dtype == np.uint8
            np.testing.assert_array_equal(file[split]["labels"][:], labels()[split])


@pytest.mark.parametrize(("schema", "age"), [(0, "an older"), (3, "a newer")])
def test_another_schema_is_refused(path: Path, schema: int, age: str) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = schema
    with pytest.raises(DamagedCellError, match=f"schema {schema}, of {age} casebook"):
        read_cell(path)


def test_a_cell_of_schema_1_or_2_may_have_nothing_erased(path: Path) -> None:
    for schema in (1, 2):
        with h5py.File(path, "r+") as file:
            file.attrs["schema"] = schema
        cell = read_cell(path)
        for split, count in zip(Split, COUNTS, strict=True):
            assert cell.erased[split].dtype == np.int64
            assert cell.erased[split].tolist() == []
            assert cell.live(split).tolist() == list(range(count))


def list_erased(path: Path, data: object, schema: int = 2) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = schema
        file.create_dataset("val/erased", data=data)


@pytest.mark.parametrize("rows", [[], [0], [4], [1, 3], [0, 1, 2, 3, 4]])
def test_rows_that_are_erased_are_not_live(path: Path, rows: list[int]) -> None:
    list_erased(path, np.array(rows, np.int64))
    cell = read_cell(path)
    assert cell.erased[Split.VAL].dtype == np.int64
    assert cell.erased[Split.VAL].tolist() == rows
    assert cell.live(Split.VAL).dtype == np.int64
    assert cell.live(Split.VAL).tolist() == [row for row in range(5) if row not in rows]
    assert cell.live(Split.TEST).tolist() == list(range(8))
    assert cell == read_cell(path)


@pytest.mark.parametrize(
    "rows",
    [
        np.array([1, 2], np.int32),
        np.array([1, 2], np.uint64),
        np.array([1, 2], ">i8"),
        np.array([1.0]),
        np.array([[1, 2]]),
        np.array(1),
        np.array([5]),
        np.array([-1]),
        np.array([2, 1]),
        np.array([1, 1]),
        np.arange(6),
        np.array([2**63 - 1, -(2**63)]),
        h5py.Empty("<i8"),
    ],
)
def test_a_list_of_erased_rows_of_another_form_is_refused(path: Path, rows: object) -> None:
    list_erased(path, rows)
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


def test_schema_1_knows_of_nothing_erased(path: Path) -> None:
    list_erased(path, np.array([1]), schema=1)
    with pytest.raises(DamagedCellError, match="it has val/erased, which schema 1 has not"):
        read_cell(path)


def test_a_group_in_place_of_the_erased_rows_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 2
        file.create_group("val/erased")
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 3000, 6000, 8000])
def test_a_truncated_cell_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


@pytest.mark.parametrize("name", ["format", "schema", "dataset", "fingerprint", "versions"])
def test_a_missing_attribute_is_refused(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset": 1}', "null"])
@pytest.mark.parametrize("name", ["dataset", "fingerprint"])
def test_an_unreadable_attribute_is_refused(path: Path, name: str, text: str) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[name] = text
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


def replace(path: Path, name: str, data: object, **options: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, data=data, **options)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train/embeddings", np.zeros((20, 6), np.float64)),
        ("train/embeddings", np.zeros((19, 6), np.float32)),
        ("train/embeddings", np.zeros((20, 5), np.float32)),
        ("train/embeddings", np.zeros((20, 6), np.float16)),
        ("train/embeddings", np.zeros(20, np.float32)),
        ("val/labels", np.zeros((5, 1), np.int64)),
        ("val/labels", np.zeros((4, 1), np.uint8)),
        ("val/labels", np.zeros(5, np.uint8)),
    ],
)
def test_arrays_of_another_form_are_refused(path: Path, name: str, data: object) -> None:
    replace(path, name, data)
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


def test_a_label_that_names_no_class_is_refused(path: Path) -> None:
    replace(path, "val/labels", np.full((5, 1), 3, np.uint8))
    cell = read_cell(path)
    assert cell.labels(Split.TRAIN).max() == 2
    with pytest.raises(DamagedCellError, match="val/labels holds 3, which is no class"):
        cell.labels(Split.VAL)


@pytest.mark.parametrize("field", ["size", "width", "backbone", "weights"])
def test_a_fingerprint_of_another_type_is_refused(path: Path, field: str) -> None:
    with h5py.File(path, "r+") as file:
        facts = json.loads(file.attrs["fingerprint"])
        facts[field] = [facts[field]]
        file.attrs["fingerprint"] = json.dumps(facts)
    with pytest.raises(DamagedCellError, match=f"for {field}"):
        read_cell(path)


def test_a_group_in_place_of_an_array_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["train/embeddings"]
        file.create_group("train/embeddings")
    with pytest.raises(DamagedCellError, match="delete it and embed again"):
        read_cell(path)


def test_a_flipped_byte_of_the_structure_is_refused_or_harmless(path: Path) -> None:
    whole = path.read_bytes()
    messages = []
    for at in range(0, 2000, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            cell = read_cell(path)
            for split in Split:
                cell.labels(split)
        except StoreError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def test_a_cell_that_was_moved_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = write(store.path("tiny", 28, "fake"))
    assert store.read(path).dataset == DATASET
    for place in (store.path("tiny", 64, "fake"), store.path("tiny", 28, "copy")):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
        with pytest.raises(DamagedCellError, match="belongs at"):
            store.read(place)


def test_a_chunked_array_is_refused(path: Path) -> None:
    replace(path, "train/embeddings", np.ones((20, 6), np.float32), chunks=(5, 6))
    with pytest.raises(DamagedCellError, match="not contiguous"):
        read_cell(path)


def test_a_missing_group_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["val"]
    with pytest.raises(DamagedCellError, match="does not follow the cell format"):
        read_cell(path)


def test_another_hdf5_file_is_no_cell(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DamagedCellError, match="no casebook cell"):
        read_cell(tmp_path / "other.h5")


def test_a_cell_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="embed it first"):
        read_cell(tmp_path / "absent.h5")


def test_a_store_lists_cells_in_the_order_of_dataset_size_and_variant(tmp_path: Path) -> None:
    for place in ("b/28/x", "a/128/x", "a/64/y", "a/64/x"):
        write(tmp_path / f"{place}.h5")
    (tmp_path / "a" / "64" / "z.h5.partial").write_bytes(b"")
    (tmp_path / "results" / "x").mkdir(parents=True)
    (tmp_path / "results" / "x" / "no.h5").write_bytes(b"")
    store = Store(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in store.paths()]
    assert found == ["a/64/x.h5", "a/64/y.h5", "a/128/x.h5", "b/28/x.h5"]
    assert [path.name for path in store.partial_paths()] == ["z.h5.partial"]


def test_a_store_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is no folder"):
        list(Store(tmp_path / "file").paths())


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_root() == Path("store")
    monkeypatch.setenv("CASEBOOK_STORE", "/somewhere")
    assert default_root() == Path("/somewhere")

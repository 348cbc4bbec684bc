from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embedder.errors import StoreError
from embedder.store import read_cell
from embedder.types import Split
from tests.commands import run
from tests.conftest import write_npz
from tests.service.conftest import Tiny, TinyMaker
from tests.service.test_routes import add, classify, picture, problem


def holders(store: Path, block: bytes) -> list[str]:
    """Which files of the store hold any 100 of these bytes in a row; a database splits them."""
    parts = [block[first : first + 100] for first in range(0, len(block) - 99, 100)]
    assert parts
    files = [path for path in store.rglob("*") if path.is_file()]
    texts = {path.name: path.read_bytes() for path in files}
    return sorted(name for name, text in texts.items() if any(part in text for part in parts))


def compacted(stored: int, added: int, cells: str) -> str:
    """What the command says of the dataset."""
    return (
        f"tiny: of the cases erased so far, {stored} stored and {added} added, nothing is left; "
        f"{cells}\n"
    )


def close(tiny: Tiny) -> None:
    tiny.client.__exit__(None, None, None)


def test_no_byte_of_an_erased_case_is_left(tiny: Tiny, make_tiny: TinyMaker) -> None:
    path = tiny.store / "tiny/28/hog.h5"
    stored = {
        (split, row): read_cell(path).embeddings(split)[row].tobytes()
        for split, row in ((Split.TRAIN, 7), (Split.TRAIN, 39), (Split.TEST, 3))
    }
    kept = read_cell(path).embeddings(Split.TRAIN)[8].tobytes()
    dropped, lasting = picture(70), picture(71)
    add(tiny, dropped, "1")
    add(tiny, lasting, "2")
    cell = tiny.client.app.state.context.served.cells[0]  # type: ignore[attr-defined]
    vectors = cell.collection.state.views[cell.fingerprint].added
    added = {number: vector.tobytes() for number, vector in vectors.items()}
    images = {number: cell.collection.image(number, 224) or b"" for number in (1, 2)}
    assert "overlay.sqlite-wal" in holders(tiny.store, images[1])
    for name in ("train/7", "train/39", "test/3", "added/1"):
        assert tiny.client.delete(f"/cases/tiny/{name}", headers=tiny.write).status_code == 200
    before = classify(tiny, picture(0), k=30)
    assert before["index_version"] == 6
    close(tiny)
    assert holders(tiny.store, stored[Split.TRAIN, 7]) == ["hog.h5"]

    done = run(tiny.store.parent, "casebook", "compact")
    assert done.stdout == compacted(3, 1, "1 cell rewritten")
    for block in stored.values():
        assert holders(tiny.store, block) == []
    for block in (added[1], images[1]):
        assert holders(tiny.store, block) == []
    assert holders(tiny.store, kept) == ["hog.h5"]
    assert holders(tiny.store, added[2]) == ["overlay.sqlite"]
    assert holders(tiny.store, images[2]) == ["overlay.sqlite"]
    again = run(tiny.store.parent, "casebook", "compact")
    assert again.stdout == compacted(3, 1, "0 cells rewritten")

    tiny = make_tiny()
    after = classify(tiny, picture(0), k=30)
    assert {**after, "timings": None} == {**before, "timings": None}
    for name in ("train/7", "train/39", "test/3", "added/1"):
        problem(tiny.client.get(f"/cases/tiny/{name}"), 404, "no case")
    assert add(tiny, picture(72), "0")["id"] == "tiny/added/3"


def test_evaluation_leaves_them_out(tiny: Tiny) -> None:
    tiny.client.delete("/cases/tiny/train/0", headers=tiny.write)
    tiny.client.delete("/cases/tiny/test/0", headers=tiny.write)
    close(tiny)
    folder = tiny.store.parent
    run(folder, "casebook", "compact")
    text = run(folder, "knn-eval", "--k", "39", "--json").stdout
    assert '"support": 39' in text
    assert '"queries": 11' in text
    assert '"erased": 2' in text
    refused = run(folder, "knn-eval", "--k", "40", status=1)
    assert "has 39 cases to offer" in refused.stderr
    gone = run(folder, "casebook", "neighbours", "--case", "test/0", status=2)
    assert "tiny/test/0 was erased" in gone.stderr
    near = run(folder, "casebook", "neighbours", "--case", "test/1", "--k", "39").stdout
    assert "tiny/train/0 " not in near
    assert "tiny/train/39 " in near


def test_a_cell_embedded_later_is_compacted_too(tiny: Tiny, make_tiny: TinyMaker) -> None:
    """The dataset's file still has the case; what is made of it is served without it."""
    tiny.client.delete("/cases/tiny/train/5", headers=tiny.write)
    close(tiny)
    folder = tiny.store.parent
    shutil.rmtree(tiny.store / "tiny/28")
    run(folder, "embed", "--model", "hog", "--dataset", str(tiny.npz))
    tiny = make_tiny()
    problem(tiny.client.get("/cases/tiny/train/5"), 404, "no case")
    names = [case["id"] for case in classify(tiny, picture(), k=39)["neighbours"]]
    assert "tiny/train/5" not in names
    close(tiny)
    done = run(folder, "casebook", "compact")
    assert done.stdout == compacted(1, 0, "1 cell rewritten")


def test_an_unfinished_cell_is_refused(tiny: Tiny) -> None:
    tiny.client.delete("/cases/tiny/train/5", headers=tiny.write)
    close(tiny)
    path = tiny.store / "tiny/28/hog.h5"
    shutil.copy(path, path.with_name("other.h5.partial"))
    refused = run(tiny.store.parent, "casebook", "compact", status=1)
    assert "failed: " in refused.stderr
    assert "other.h5.partial is not complete" in refused.stderr
    assert "1 of 1 datasets were not compacted" in refused.stderr
    assert read_cell(path).erased[Split.TRAIN].tolist() == []


def test_another_content_of_the_dataset_is_not_touched(tiny: Tiny, make_tiny: TinyMaker) -> None:
    """Row 7 of the new file is another case than the one that was erased."""
    tiny.client.delete("/cases/tiny/train/7", headers=tiny.write)
    close(tiny)
    folder = tiny.store.parent
    shutil.rmtree(tiny.store / "tiny/28")
    write_npz(tiny.npz, counts=(40, 4, 12), seed=5)
    run(folder, "embed", "--model", "hog", "--dataset", str(tiny.npz))
    with pytest.raises(StoreError, match="from another state of tiny at 28 px"):
        make_tiny()
    refused = run(folder, "casebook", "compact", status=1)
    assert "from another state of tiny at 28 px" in refused.stderr
    assert read_cell(tiny.store / "tiny/28/hog.h5").erased[Split.TRAIN].tolist() == []


def test_no_store(tmp_path: Path) -> None:
    refused = run(tmp_path, "casebook", "compact", "--store", "typo", status=1)
    assert "there is no store at typo; check --store" in refused.stderr


def test_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    done = run(tmp_path, "casebook", "compact")
    assert "nothing was added or erased in" in done.stdout


def test_a_served_dataset_is_busy(tiny: Tiny) -> None:
    refused = run(tiny.store.parent, "casebook", "compact", status=1)
    assert "another process serves or compacts tiny" in refused.stderr

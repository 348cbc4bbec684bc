from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedder.cli import main
from embedder.console import size_text
from embedder.store import Store
from embedder.types import Pixels, Vectors
from tests.conftest import NpzMaker


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEBOOK_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CASEBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CASEBOOK_MIRROR", (tmp_path / "mirror").as_uri())


def stored(tmp_path: Path) -> list[str]:
    store = Store(tmp_path / "store")
    return [path.relative_to(store.root).as_posix() for path in store.paths()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "dyno"], "unknown backbone 'dyno'; did you mean dino"),
        (["--dataset", "pnemoniamnist"], "did you mean pneumoniamnist"),
        (["--res", "32"], "exists at 28, 64, 128 and 224 px, not 32"),
        (["--res", "big"], "--res 'big' is no number"),
        (["--batch-size", "0"], "--batch-size '0' is no number from 1 on"),
        (["--batch-size", ""], "an option has an empty value"),
        (["--batch-size", "5,7"], "--batch-size takes one number"),
        (["--model", ""], "an option has an empty value"),
        (["--dataset", "hog,"], "an option has an empty value"),
        (["--random-weights", "9" * 30, "--model", "dino"], "a seed from 0 to 4294967295"),
        (["--batch-size", "many"], "--batch-size 'many' is no number from 1 on"),
        (["--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
        (["--random-weights", "x"], "--random-weights: invalid int value"),
        (["--random-weights", "0"], "hog has no weights"),
        (["--weights", __file__, "--model", "dino,vit"], "--weights fits one backbone"),
        (["--weights", "absent.pth", "--model", "dino"], "no weights at absent.pth"),
        (["--task", "ordinal"], "--task is for datasets given by path"),
        (["--task", "ordinl", "--dataset", "./x.npz"], "did you mean ordinal"),
        (["--mode", "hog"], "unrecognized arguments: --mode hog"),
        (["--model"], "expected one argument"),
        (["--model", "timm:"], "names no checkpoint"),
    ],
)
def test_wrong_use_is_one_line_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors
    assert errors.count("\n") == 1
    assert errors.startswith("error: ")


def test_a_dataset_that_is_not_there_is_one_line_and_status_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--dataset", str(tmp_path / "absent.npz")]) == 1
    assert "check the path of the dataset" in capsys.readouterr().err
    assert main(["--dataset", str(tmp_path / "absent") + "/"]) == 1
    failed, error = capsys.readouterr().err.splitlines()
    assert failed.startswith("failed: ")
    assert error.startswith("error: 1 of 1 cells failed")


def test_names_repeat_and_take_commas(
    make_npz: NpzMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_npz("one.npz"), make_npz("two_64.npz", size=64)
    assert main(["--dataset", f"{one},{two}", "--dataset", str(one), "--model", "hog,hog"]) == 0
    assert stored(tmp_path) == ["one/28/hog.h5", "two/64/hog.h5"]
    assert "2 cells embedded (44 images" in capsys.readouterr().out


def test_a_size_that_the_file_does_not_have_is_refused(
    make_npz: NpzMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", str(make_npz()), "--res", "64"]) == 2
    assert "holds images of 28 px; use --res 28" in capsys.readouterr().err


def test_a_folder_of_images_is_embedded_at_the_sizes_asked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            for number in range(3):
                path = tmp_path / "pets" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8)).save(path)
    assert main(["--dataset", str(tmp_path / "pets"), "--res", "28,64"]) == 0
    assert stored(tmp_path) == ["pets/28/hog.h5", "pets/64/hog.h5"]


def test_a_device_that_is_not_there_is_wrong_use(
    make_npz: NpzMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", str(make_npz()), "--device", "cuda"]) == 2
    assert "hog runs on the CPU only; drop --device cuda" in capsys.readouterr().err


def test_two_datasets_of_one_name_are_not_mixed(
    make_npz: NpzMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = make_npz("own.npz"), make_npz("other/own.npz", seed=5)
    twice = f"{one},{one.parent}/./own.npz"
    assert main(["--dataset", f"{twice},{other}"]) == 1
    output, errors = capsys.readouterr()
    assert "plan: 1 cell to embed" in output
    assert "have one name in the store; rename one" in errors
    assert main(["--dataset", f"{one},{other}", "--dry-run"]) == 1
    assert "have one name in the store; rename one" in capsys.readouterr().err
    assert stored(tmp_path) == ["own/28/hog.h5"]


def test_the_plan_says_what_is_to_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "bloodmnist,phantom", "--res", "28,64", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "to fetch first: 2 dataset files into" in output
    assert "weights" not in output
    networks = ("--model", "hog,vit,resnet18", "--dataset", "bloodmnist", "--dry-run")
    assert main(list(networks)) == 0
    output = capsys.readouterr().out
    assert "to fetch first: 1 dataset file into" in output
    assert "to fetch where no cache has them: the weights of vit, resnet18\n" in output
    assert main(["--model", "vit", "--random-weights", "0", "--dry-run"]) == 0
    assert "weights" not in capsys.readouterr().out


def test_a_path_without_a_slash_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "pets"]) == 2
    assert "write ./pets" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(
    make_npz: NpzMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", str(make_npz()), "--dry-run"]) == 0
    assert "plan: 1 cell to embed" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()


def test_the_whole_benchmark_can_be_planned_without_a_download(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--model", "all", "--res", "all", "--dry-run"]) == 0
    output = capsys.readouterr().out
    # 707,962 images at four sizes, and ten backbones of 14,848 float32 numbers together
    assert "plan: 480 cells to embed, 0 complete; 28,318,480 images, 168.2 GB" in output


def test_an_interruption_keeps_what_is_finished(
    make_npz: NpzMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from embedder.hog import HogBackbone

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HogBackbone, "embed", interrupt)
    assert main(["--dataset", str(make_npz())]) == 130
    assert "error: interrupted; what was finished is kept" in capsys.readouterr().err


def test_a_defect_of_one_cell_leaves_the_others(
    make_npz: NpzMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from embedder.hog import HogBackbone

    embed, calls = HogBackbone.embed, []

    def fail_once(self: HogBackbone, pixels: Pixels) -> Vectors:
        calls.append(len(pixels))
        if len(calls) == 1:
            raise ZeroDivisionError("oops")
        return embed(self, pixels)

    monkeypatch.setattr(HogBackbone, "embed", fail_once)
    assert main(["--dataset", f"{make_npz('one.npz')},{make_npz('two.npz')}"]) == 1
    output, errors = capsys.readouterr()
    assert "failed: hog one 28 px: unexpected ZeroDivisionError: oops; please report" in errors
    assert "1 cell embedded" in output


def test_an_unwritable_store_is_a_clear_error(
    make_npz: NpzMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    asked = ["--dataset", str(make_npz()), "--store", str(tmp_path / "file" / "store")]
    assert main(asked) == 1
    assert "check --store" in capsys.readouterr().err


def test_a_blank_image_is_embedded_and_refused_only_by_the_cosine(
    make_npz: NpzMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evaluate.cli import main as knn_eval

    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
    images[7] = 3
    path = make_npz(train_images=images)
    assert main(["--dataset", str(path)]) == 0
    assert knn_eval(["--k", "1"]) == 1
    assert "tiny/train/7 is a zero vector" in capsys.readouterr().err
    assert knn_eval(["--k", "1", "--distance", "euclidean"]) == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (7_603_504, "7.6 MB"), (2e12, "2.0 TB")],
)
def test_sizes_are_read_at_a_glance(count: float, text: str) -> None:
    assert size_text(count) == text


def test_plain_is_refused_where_there_is_no_canvas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "hog", "--dataset", "phantom-cells", "--plain", "--dry-run"]) == 2
    assert "hog is no network and has no canvas; drop --plain" in capsys.readouterr().err

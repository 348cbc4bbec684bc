"""The commands, as a new user runs them."""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.commands import BIN, environment, run, start
from tests.conftest import write_npz

SMALL = "timm:test_vit.r160_in1k"


def cells(folder: Path) -> list[str]:
    store = folder / "store"
    return sorted(path.relative_to(store).as_posix() for path in store.glob("*/*/*"))


def test_from_images_to_a_table_and_a_picture(tmp_path: Path) -> None:
    dataset = ("--dataset", "phantom-nodule")
    done = run(tmp_path, "embed", "--model", "hog", *dataset, "--res", "28")
    assert "plan: 1 cell to embed, 0 complete; 2,000 images, 2.6 MB" in done.stdout
    assert "done: 1 cell embedded (2,000 images in" in done.stdout
    assert cells(tmp_path) == ["phantom-nodule/28/hog.h5"]

    again = run(tmp_path, "embed", "--model", "hog", *dataset, "--res", "28")
    assert "plan: 0 cells to embed, 1 complete" in again.stdout

    table = run(tmp_path, "knn-eval", "--k", "11").stdout
    assert table.startswith("accuracy (%), k = 11, cosine, majority vote, test split")
    records = json.loads(run(tmp_path, "knn-eval", "--k", "1,11", "--json").stdout)
    assert [record["protocol"]["k"] for record in records] == [1, 11]
    assert 0.6 < records[1]["metrics"]["accuracy"] < 0.95
    assert f"{100 * records[1]['metrics']['accuracy']:.2f}" in table
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "knn-eval", "--csv").stdout)))
    assert float(rows[0]["accuracy"]) == records[1]["metrics"]["accuracy"]
    assert len(list((tmp_path / "store" / "results").glob("*.json"))) == 4

    info = run(tmp_path, "casebook", "info").stdout
    assert "1 cell, 0 incomplete" in info

    picture = tmp_path / "out" / "neighbours.png"
    asked = ("casebook", "neighbours", "--case", "test/3", "--out", str(picture))
    text = run(tmp_path, *asked).stdout
    assert "phantom-nodule/test/3 by hog at 28 px" in text
    assert len([line for line in text.splitlines() if "phantom-nodule/train/" in line]) == 11
    with Image.open(picture) as image:
        assert image.size > (1000, 500)
        assert len(image.convert("L").getcolors() or []) > 50


def test_the_real_pneumoniamnist_by_hog(real_data: Path, tmp_path: Path) -> None:
    data = ("--data", str(real_data))
    done = run(
        tmp_path, "embed", "--model", "hog", "--dataset", "pneumoniamnist", "--res", "28", *data
    )
    assert "1 cell embedded (5,856 images" in done.stdout
    found = {}
    for index in ("faiss", "reference"):
        asked = ("knn-eval", "--k", "1,11", "--index", index, "--json")
        found[index] = [r["metrics"] for r in json.loads(run(tmp_path, *asked).stdout)]
    assert found["faiss"] == found["reference"]
    assert found["faiss"][1]["accuracy"] >= 0.84
    assert round(found["faiss"][1]["accuracy"], 4) == 0.8654


def test_a_cell_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    asked = ("embed", "--model", "hog,resnet18", "--dataset", "pneumoniamnist,phantom-nodule")
    done = run(tmp_path, *asked, status=1)
    assert cells(tmp_path) == ["phantom-nodule/28/hog.h5"]
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: 3 of 4 cells failed: hog pneumoniamnist 28 px")
    failed = [line for line in lines if line.startswith("failed: ")]
    assert len(failed) == 3
    assert "put it at" in failed[0]
    assert all("--weights FILE" in line for line in failed[1:])
    assert "embedded: hog phantom-nodule 28 px: 2,000 images" in done.stderr
    assert "1 cell embedded" in done.stdout
    assert "3 failed" in done.stdout


def test_random_weights_say_so_in_the_store_and_in_every_table(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "tiny.npz", counts=(30, 5, 10))
    asked = ("--model", SMALL, "--dataset", str(path), "--random-weights", "3")
    run(tmp_path, "embed", *asked)
    assert cells(tmp_path) == ["tiny/28/timm--test_vit.r160_in1k-random3.h5"]
    for option in ((), ("--per-dataset",)):
        table = run(tmp_path, "knn-eval", "--k", "3", *option).stdout
        assert "untrained, random weights: timm--test_vit.r160_in1k-random3" in table
    assert "random:3" in run(tmp_path, "casebook", "info").stdout


def test_a_killed_embed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    cell = tmp_path / "store" / "big" / "28" / "timm--test_vit.r160_in1k-random0.h5"
    progress = cell.with_name(f"{cell.name}.progress")
    for count in (1200, 4800, 19200):  # on a fast machine more images, so that it is not too late
        path = write_npz(tmp_path / "big.npz", counts=(count, 40, 40))
        asked = ("embed", "--model", SMALL, "--random-weights", "0", "--dataset", str(path))
        cell.unlink(missing_ok=True)
        with start(tmp_path, *asked) as process:
            while not progress.exists() and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if process.returncode == -signal.SIGKILL:
            break
    assert process.returncode == -signal.SIGKILL
    done = json.loads(progress.read_text())["train"]
    assert 0 < done < count
    assert done % 64 == 0
    assert "% done" in run(tmp_path, "casebook", "info").stdout
    plan = run(tmp_path, *asked, "--dry-run").stdout
    assert "to go on" in plan
    resumed = run(tmp_path, *asked)
    assert f"({count + 80 - done:,} images in" in resumed.stdout
    first = cell.read_bytes()
    cell.unlink()
    run(tmp_path, *asked)
    assert cell.read_bytes() == first
    assert cells(tmp_path) == [cell.relative_to(tmp_path / "store").as_posix()]


def test_two_embeds_of_one_cell_never_mix(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "big.npz", counts=(400, 40, 40))
    asked = ("embed", "--model", SMALL, "--random-weights", "0", "--dataset", str(path))
    both = [start(tmp_path, *asked) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert 0 in [process.returncode for process in both]
    for process, (_, errors) in zip(both, outputs, strict=True):
        assert process.returncode == 0 or "another process is writing" in errors
    cell = tmp_path / "store" / cells(tmp_path)[0]
    first = cell.read_bytes()
    cell.unlink()
    run(tmp_path, *asked)
    assert cell.read_bytes() == first


@contextmanager
def hub(files: Path) -> Iterator[str]:
    """Serves ``files`` as the model hub does: ``/OWNER/NAME/resolve/main/FILE``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(None)

        def answer(self, body: bytes | None) -> None:
            path = files / self.path.rpartition("/")[2]
            if not path.exists():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"0123456789abcdef"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            self.wfile.write(content if body is None else body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_pinned_weights_are_fetched_from_the_hub(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    torch.manual_seed(5)
    state = timm.create_model("test_vit.r160_in1k").state_dict()
    save_file(state, tmp_path / "hub" / "model.safetensors")
    save_file(state, tmp_path / "same.safetensors")
    path = str(write_npz(tmp_path / "tiny.npz"))
    with hub(tmp_path / "hub") as address:
        online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        run(tmp_path, "embed", "--model", SMALL, "--dataset", path, **online)
    run(
        tmp_path, "embed", "--model", SMALL, "--dataset", path,
        "--weights", str(tmp_path / "same.safetensors"),
    )  # fmt: skip
    given, fetched = (tmp_path / "store" / name for name in cells(tmp_path))
    with h5py.File(fetched) as one, h5py.File(given) as other:
        prints = [json.loads(file.attrs["fingerprint"]) for file in (one, other)]
        assert (one["train/embeddings"][:] == other["train/embeddings"][:]).all()
    assert prints[0]["weights"] == prints[1]["weights"]
    assert prints[0]["checkpoint"] == "timm:test_vit.r160_in1k"
    assert prints[1]["checkpoint"].startswith("file:sha256:")


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    path = str(write_npz(tmp_path / "tiny.npz"))
    weights = tmp_path / "mine.safetensors"
    asked = ("embed", "--model", SMALL, "--dataset", path, "--weights", str(weights))
    for seed, status in ((1, 0), (2, 1)):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_vit.r160_in1k").state_dict(), weights)
        done = run(tmp_path, *asked, status=status)
    assert "was made in another way: checkpoint is file:sha256:" in done.stderr
    assert "use another --store" in done.stderr


def test_another_dataset_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "tiny.npz", seed=1)
    run(tmp_path, "embed", "--dataset", str(path))
    write_npz(path, seed=2)
    done = run(tmp_path, "embed", "--dataset", str(path), status=1)
    assert "dataset checksum is npz-crc:sha256:" in done.stderr


@pytest.mark.parametrize("command", ["embed", "knn-eval", "casebook"])
def test_help_answers_in_under_half_a_second(command: str, tmp_path: Path) -> None:
    """Of the processor, which other tests may share."""
    seconds = []
    for _ in range(5):
        began = os.times()
        run(tmp_path, command, "--help")
        ended = os.times()
        seconds.append(
            ended.children_user - began.children_user
            + ended.children_system - began.children_system
        )  # fmt: skip
    assert 0 < min(seconds) < 0.5


@pytest.mark.parametrize(
    "module",
    [
        "embedder.cli",
        "evaluate.cli",
        "embedder.info",
        "evaluate.neighbours",
        "evaluate.probe_cli",
        "evaluate.published_cli",
        "service.cli",
        "service.compact",
        "casebook",
    ],
)
def test_help_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = (
        f"import sys, {module} as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'h5py', 'faiss', 'sklearn', 'skimage', 'medmnist', 'tqdm'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_nothing_is_made_at_import(tmp_path: Path) -> None:
    code = "import embedder.sources, embedder.engine, index.build, evaluate.knn, evaluate.tables"
    subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), check=True)
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("words", [("casebook", "info"), ("casebook", "--help")])
def test_an_output_that_cannot_be_written_is_no_defect(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    command = [str(BIN / words[0]), *words[1:]]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert "unexpected" not in done.stderr
    if "info" in words:
        assert done.stderr == "error: cannot write the output: No space left on device\n"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "unexpected" not in process.stderr.read()


def test_each_command_stands_alone_and_behind_the_door(tmp_path: Path) -> None:
    for name in ("embed", "knn-eval"):
        alone = run(tmp_path, name, "--help").stdout
        assert run(tmp_path, "casebook", name, "--help").stdout == alone
    assert (BIN / "casebook").exists()

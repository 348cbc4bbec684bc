"""Paths run on shapes of a moment, so that their checks hold; no figure is looked at."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, knn, material, precision, probe, reach, reading
from benchmarks.__main__ import main
from benchmarks.machine import facts
from benchmarks.plan import Plan
from benchmarks.results import Findings, Result, read, write
from benchmarks.runs import Bare, Embed, Images, Script
from embedder.errors import EvaluationError, SearchError
from embedder.recipe import Precision
from embedder.types import Split
from index.build import Kind, build
from index.reference import ReferenceIndex
from index.search import SearchIndex, SupportSet
from tests.conftest import FakeIndex

SMALL = "timm:test_vit.r160_in1k"


def plan_of(*only: str) -> Plan:
    return Plan(rounds=2, only=frozenset(only))


def test_three_ways_to_embed_compute_the_same(tmp_path: Path) -> None:
    images = Images(tmp_path / "images", 28, 3, 2)
    images.write()
    recipe = material.recipe(SMALL)
    embed, bare = Embed(images, recipe), Bare(images, recipe)
    script = Script(images, recipe)
    for side in (embed, bare, embed, script):
        spent = side()
        assert spent.wall > 0
    assert embed.vectors().shape == (5, 64)
    np.testing.assert_allclose(embed.vectors(), bare.vectors(), atol=1e-5)
    np.testing.assert_allclose(embed.vectors(), script.vectors(), atol=1e-5)


@pytest.mark.parametrize("precision", list(Precision))
def test_the_device_of_a_gpu_row_may_be_the_cpu(tmp_path: Path, precision: Precision) -> None:
    images = Images(tmp_path / "images", 28, 3, 2)
    name = f"gpu-embed-vit-28-{precision}"
    asked = (Plan(rounds=1), name, SMALL, precision, images)
    assert gpu.embed(*asked, "cpu").ratio is not None
    assert gpu.embed(*asked, None).detail == "no CUDA device"


def test_windows_of_a_gpu_row_may_be_computed_on_the_cpu() -> None:
    asked = (Plan(rounds=1), "gpu-reach-resnet18-28", "resnet18", material.tiles(28, 2))
    row = gpu.windows(*asked, "cpu")
    assert row.ratio is not None
    assert row.shape == "2 colour images at a time"
    assert gpu.windows(*asked, None).detail == "no CUDA device"


def test_both_devices_have_to_find_the_same_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SUPPORT", 300)
    monkeypatch.setattr(gpu, "WIDTH", 16)
    monkeypatch.setattr(gpu, "QUERIES", 20)
    monkeypatch.setattr(gpu, "resolve", lambda kind: kind)
    indexes: dict[Kind, Callable[[SupportSet], SearchIndex]] = {
        Kind.CPU: build, Kind.GPU: ReferenceIndex,
    }  # fmt: skip
    monkeypatch.setattr(gpu, "build", lambda points, kind: indexes[kind](points))
    names = ["gpu-knn-product", "gpu-knn"]
    rows = list(gpu.search(plan_of(), names, "cpu"))
    assert [row.name for row in rows] == names
    assert {(row.shape, row.rounds) for row in rows} == {("20 queries, 300 x 16", 2)}
    assert re.fullmatch(r"search [\d.]+ s, product [\d.]+ s", rows[0].detail)
    (row,) = gpu.search(plan_of(), ["gpu-knn"], "cpu")
    assert re.fullmatch(r"CPU [\d.]+ s, GPU [\d.]+ s", row.detail)
    indexes[Kind.GPU] = lambda points: FakeIndex()
    with pytest.raises(EvaluationError, match="the CPU's neighbours and the GPU's differ"):
        list(gpu.search(plan_of(), names, "cpu"))


def test_without_a_gpu_there_is_no_search_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(kind: Kind) -> Kind:
        raise SearchError("no GPU")

    monkeypatch.setattr(gpu, "resolve", none)
    for device in ("cuda", None):
        (row,) = gpu.search(plan_of(), ["gpu-knn"], device)
        assert (row.ratio, row.detail) == (None, "no CUDA device that torch and FAISS can use")


def test_all_rows_of_a_gpu_are_told_of_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    plan = Plan(full=True, only=frozenset({"gpu"}))
    rows = list(gpu.measure(plan, tmp_path))
    assert [row.name for row in rows] == plan.names()
    assert not any(row.ratio for row in rows)


def test_how_busy_the_gpu_is_comes_from_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    sampler = tmp_path / "nvidia-smi"
    sampler.write_text("#!/bin/sh\necho 40\necho '[N/A]'\necho 80\n: >\"$0.told\"\nexec sleep 60\n")
    sampler.chmod(0o755)

    def wait() -> None:
        end = time.monotonic() + 20
        while not sampler.with_name("nvidia-smi.told").exists() and time.monotonic() < end:
            time.sleep(0.01)

    assert gpu.busy(wait) == [40, 80]
    assert gpu.told([40, 80]) == "embed has the GPU busy for 60 % of its time, and wait for 40 %"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert gpu.busy(lambda: None) == []
    assert gpu.told([]) == "how busy the GPU is, nvidia-smi does not tell"


def test_windows_are_timed_against_the_whole_canvas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "COUNT", 2)
    (row,) = reach.measure(plan_of("reach-resnet18-28"), tmp_path)
    assert row.name == "reach-resnet18-28"
    assert row.ratio is not None
    assert re.search(r"; (the same bits|relative error at most \de-\d\d)$", row.detail)


def test_search_reading_and_probe_check_what_they_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = (
        replace(shape, support=400, width=16, queries=20, brute=7, tree=3)
        for shape in (knn.SHAPES[0], knn.SHAPES[-1])
    )
    monkeypatch.setattr(knn, "SHAPES", (first, last))
    monkeypatch.setattr(reading, "ROWS", 50)
    monkeypatch.setattr(probe, "SHAPE", probe.Shape(70, 20, 2))
    found: list[Result] = []
    for module, path in ((knn, "knn"), (reading, "reading"), (probe, "probe")):
        found += module.measure(replace(plan_of(path), full=True), tmp_path)
    names = [row.name for row in found]
    assert names == [
        "knn-organa-512", "knn-organa-512-brute", "knn-organa-512-tree",
        "knn-tissue-4096", "knn-tissue-4096-brute", "knn-tissue-4096-tree",
        "reading-warm", "reading-cold", "probe",
    ]  # fmt: skip
    assert all(row.rounds == 2 and row.ratio for row in found if row.name != "reading-cold")
    assert [row.shape for row in found[:3]] == [
        "20 queries, 400 x 16",
        "7 queries, 400 x 16, built before",
        "3 queries, 400 x 16, built before",
    ]


def test_cosines_are_those_of_the_definition() -> None:
    one, other = np.array([[3.0, 4.0]], np.float32), np.array([[4.0, 3.0]], np.float32)
    assert precision.cosine(one, other) == pytest.approx([24 / 25])


def test_material_is_the_same_at_every_run(tmp_path: Path) -> None:
    np.testing.assert_array_equal(material.vectors(9, 5), material.vectors(9, 5))
    assert not np.array_equal(material.vectors(9, 5), material.vectors(9, 5, 1))
    assert material.tiles(28, 3).shape == (3, 28, 28, 3)
    cell = material.store_cell(tmp_path, material.recipe(SMALL), "none", (4, 2, 3), "few")
    assert cell.embeddings(Split.TEST).shape == (3, 64)


def test_facts_name_neither_the_host_nor_a_path() -> None:
    found = facts()
    assert {"processor", "cores", "memory", "Python", "torch", "numpy"} <= found.keys()
    assert not any("/" in value for value in found.values())


def test_the_command_measures_writes_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "SHAPE", probe.Shape(70, 20, 2))
    monkeypatch.setattr("benchmarks.__main__.ROOT", tmp_path)
    asked = ["--only", "probe", "--rounds", "2"]
    assert main([*asked, "--json", str(tmp_path / "found.json")]) == 0
    (found,) = read(tmp_path / "found.json").results
    assert found.name == "probe"
    assert found.ratio is not None
    told = capsys.readouterr().out
    assert "**three times a plain PyTorch loop of one head and seed" in told
    assert f"| `probe` | {found.ratio.median:.2f} (" in told
    (tmp_path / "benchmarks").mkdir()
    for share, status in ((0.01, 0), (100.0, 1)):
        ratio = replace(found.ratio, median=found.ratio.median * share)
        committed = Findings("default", {}, (replace(found, ratio=ratio),))
        write(committed, tmp_path / "benchmarks" / "results.json")
        assert main([*asked, "--check"]) == status
        assert ("probe: worse: " in capsys.readouterr().err) == bool(status)
    assert main(["--only", "nothing"]) == 2


@pytest.mark.parametrize("name", ["missing/x.json", "."])
def test_where_nothing_can_be_written_nothing_is_measured(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--json", str(tmp_path / name), "--only", "start-help"]) == 2
    assert "cannot be written; give --json a file in a folder" in capsys.readouterr().err

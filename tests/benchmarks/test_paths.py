"""Paths run on shapes of a moment, so that their checks hold; no figure is looked at."""

from __future__ import annotations

import re
import time
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
from embedder.recipe import Precision
from embedder.types import Split

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


def test_the_device_of_a_gpu_row_may_be_the_cpu(tmp_path: Path) -> None:
    images = Images(tmp_path / "images", 28, 3, 2)
    name = "gpu-embed-vit-fp32"
    asked = (Plan(rounds=1), name, SMALL, Precision.FP32, images)
    assert gpu.embed(*asked, "cpu").ratio is not None
    assert gpu.embed(*asked, None).detail == "no CUDA device"


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
    monkeypatch.setattr(reach, "SHAPE", reach.Shape(2))
    (row,) = reach.measure(plan_of("reach-resnet18-28"), tmp_path)
    assert row.name == "reach-resnet18-28"
    assert row.ratio is not None
    assert re.search(r"; (the same bits|relative error at most \de-\d\d)$", row.detail)


def test_search_reading_and_probe_check_what_they_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tuple(replace(s, support=400, width=16, queries=20) for s in (*knn.SHAPES, *knn.RIVALS))
    monkeypatch.setattr(knn, "SHAPES", small[:1])
    monkeypatch.setattr(knn, "RIVALS", small[-2:])
    monkeypatch.setattr(reading, "ROWS", 50)
    monkeypatch.setattr(probe, "SHAPE", probe.Shape(70, 20, 2))
    found: list[Result] = []
    for module, path in ((knn, "knn"), (reading, "reading"), (probe, "probe")):
        found += module.measure(plan_of(path), tmp_path)
    assert [row.name for row in found] == [
        "knn-organa-512", "knn-brute", "knn-ball-tree", "reading-warm", "reading-cold", "probe",
    ]  # fmt: skip
    assert all(row.rounds == 2 and row.ratio for row in found if row.name != "reading-cold")
    assert found[0].shape == "20 queries, 400 x 16"


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

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import casebook
from embedder.backbones import BACKBONES, BENCHMARK
from embedder.errors import BackboneError
from embedder.loading import describe
from embedder.recipe import Recipe, Weights
from evaluate import profile, profile_cli
from evaluate.profile import Counts, count, measure
from tests.evaluate.conftest import failure

Capture = pytest.CaptureFixture[str]

TINY = "timm:test_vit.r160_in1k"


@torch.inference_mode()
def counts_of(module: nn.Module, *shape: int) -> Counts:
    batch = torch.zeros(shape)
    return count(module.eval().requires_grad_(False), lambda: module(batch))


# Counting.


def test_a_tiny_network_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip
    # Convolution: outputs x (channels in / groups) x 9; linear: in x out.
    first, second = 8 * 16 * 16, 8 * 8 * 8
    assert counts_of(network, 1, 3, 16, 16) == Counts(
        parameters=8 * 3 * 9 + 2 * 8 + 8 * 2 * 9 + 8 + 8 * 5 + 5,
        multiply_adds=first * 3 * 9 + second * 2 * 9 + 8 * 5,
        activations=first + second + 5,
    )


class Attention(nn.Module):
    """As torch has it in one module, whose fast path would hide every product."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.inner = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if not self.fused:
            found: torch.Tensor = self.inner(batch, batch, batch, need_weights=False)[0]
            return found
        query = batch.reshape(1, 7, 3, 4).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(query, query, query)


def test_attention_by_hand() -> None:
    tokens, width, heads = 7, 12, 3
    products = 2 * tokens * tokens * width
    outputs = heads * tokens * tokens + tokens * width
    inner = Attention(fused=True)
    assert counts_of(inner, 1, tokens, width) == Counts(0, products, outputs)
    assert counts_of(Attention(fused=False), 1, tokens, width) == Counts(
        parameters=4 * width * width + 4 * width,
        multiply_adds=4 * tokens * width * width + products,
        activations=4 * tokens * width + outputs,
    )
    assert torch.backends.mha.get_fastpath_enabled()


def on_meta(name: str) -> tuple[Any, torch.Tensor]:
    with torch.device("meta"):
        return timm.create_model(name).eval().requires_grad_(False), torch.zeros(1, 3, 224, 224)


@torch.inference_mode()
def test_resnet18_as_published() -> None:
    module, batch = on_meta("resnet18")
    whole = count(module, lambda: module(batch))
    assert whole == Counts(11_689_512, 1_814_073_344, 2_484_712)  # timm: 11.69 M, 1.82 G, 2.48 M
    features = count(
        module, lambda: module.forward_head(module.forward_features(batch), pre_logits=True)
    )
    assert whole.parameters - features.parameters == 512 * 1000 + 1000
    assert whole.multiply_adds - features.multiply_adds == 512 * 1000
    assert whole.activations - features.activations == 1000


@torch.inference_mode()
def test_vit_base_as_published() -> None:
    """17.58 G and 23.9 M with attention; 16.87 G and 16.49 M without, as model cards have it."""
    module, batch = on_meta("vit_base_patch16_224")
    found = count(module, lambda: module(batch))
    tokens, width, heads, blocks = 197, 768, 12, 12
    products = blocks * 2 * tokens * tokens * width
    outputs = blocks * (heads * tokens * tokens + tokens * width)
    assert found.parameters == 86_567_656
    assert found.multiply_adds / 1e9 == pytest.approx(17.58, rel=2e-3)
    assert found.activations / 1e6 == pytest.approx(23.90, rel=1e-3)
    assert (found.multiply_adds - products) / 1e9 == pytest.approx(16.87, rel=2e-3)
    assert (found.activations - outputs) / 1e6 == pytest.approx(16.49, rel=1e-3)


# Measuring.


def test_measure_a_tiny_backbone() -> None:
    found = measure(Recipe(describe(TINY), Weights(random_seed=0)), "cpu", 2, 3)
    module: Any = timm.create_model("test_vit", num_classes=1000, img_size=224).eval()
    assert found.parameters_built == sum(p.numel() for p in module.parameters())
    assert found.parameters_built - found.parameters == 64 * 1000 + 1000
    assert found.weights_bytes == 4 * found.parameters_built
    assert found.width == 64
    with torch.inference_mode():
        batch = torch.zeros(1, 3, 224, 224)
        whole = count(module, lambda: module(batch))
    assert found.multiply_adds == whole.multiply_adds - 64 * 1000
    assert found.activations == whole.activations - 1000
    assert 0 < found.lower_quartile_ms <= found.median_ms <= found.upper_quartile_ms
    assert (found.batch, found.rounds, found.device) == (2, 3, "cpu")
    assert found.threads == torch.get_num_threads()
    assert found.device_name
    assert found.checkpoint == "random:0"


KNOWN_CALL = """
import json, time
import numpy as np
from embedder.heap import keep_freed
from evaluate.profile import _run
keep_freed()
np.ones(100_000_000, np.float32)  # what is kept of it does not hide what the call takes
def call():
    block = np.ones(50_000_000, np.float32)  # torch's, aligned, may not fit where the last lay
    time.sleep(0.02)
print(json.dumps(_run(call, "cpu", 5)))
"""


def test_latency_and_memory_of_a_known_call() -> None:
    memory, seconds = json.loads(subprocess.check_output([sys.executable, "-c", KNOWN_CALL]))
    assert len(seconds) == 5
    assert all(second >= 0.02 for second in seconds)
    if memory is None:
        pytest.skip("this system does not tell the peak of the resident set")
    assert 190e6 < memory < 260e6


def test_a_system_that_tells_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_RESET", tmp_path / "absent" / "clear_refs")
    monkeypatch.setattr(profile, "_STATUS", tmp_path / "absent" / "status")
    found = measure(Recipe(BACKBONES["hog"]), "cpu", 1, 1)
    assert found.memory_bytes is None
    assert found.median_ms > 0


def test_a_batch_that_no_memory_holds() -> None:
    text = "hog ran out of memory on cpu with --batch 999999999; make it smaller"
    with pytest.raises(BackboneError, match=text):
        measure(Recipe(BACKBONES["hog"]), "cpu", 999_999_999, 1)


def test_a_backbone_without_a_network() -> None:
    found = measure(Recipe(BACKBONES["hog"]), "auto", 1, 2)
    assert (found.parameters, found.parameters_built, found.weights_bytes) == (0, 0, 0)
    assert found.multiply_adds is found.activations is None
    assert (found.width, found.device) == (324, "cpu")


def test_a_checkpoint_that_cannot_be_run() -> None:
    recipe = Recipe(describe("timm:halonet26t.a1h_in1k"), Weights(random_seed=0))
    with pytest.raises(BackboneError, match="cannot be run at 224 px on cpu: AssertionError"):
        measure(recipe, "cpu", 1, 1)


# The command.


def test_the_table(capsys: Capture) -> None:
    assert profile_cli.main(["--model", f"{TINY},hog", "--rounds", "2", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "224 px, batch of 1, 2 rounds"
    assert lines[1].startswith("cpu: ")
    assert "thread" in lines[1]
    assert lines[2] == f"random weights: {TINY}"
    tiny, hog = (line.split() for line in lines[-2:])
    assert tiny[:6] == [TINY, "0.31", "0.38", "0.09", "1.16", "64"]
    assert hog[:6] == ["hog", "0.00", "0.00", "-", "-", "324"]


def test_json_and_csv(capsys: Capture) -> None:
    arguments = ["--model", TINY, "--rounds", "1", "--batch", "2", "--random-weights", "7"]
    assert profile_cli.main([*arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["model"], found["checkpoint"], found["batch"]) == (TINY, "random:7", 2)
    assert set(found["versions"]) == {"torch", "timm"}
    assert profile_cli.main([*arguments, "--csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert set(line) == set(found) - {"versions"}
    assert line["multiply_adds"] == str(found["multiply_adds"])


def test_the_ten_are_the_default(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    asked: list[Recipe] = []

    def refuse(recipe: Recipe, *rest: object) -> None:
        asked.append(recipe)
        raise BackboneError("no")

    monkeypatch.setattr(profile_cli, "measure_apart", refuse)
    assert profile_cli.main([]) == 1
    assert [recipe.backbone.name for recipe in asked] == list(BENCHMARK)
    assert {recipe.checkpoint for recipe in asked} == {"random:0"}
    assert "error: 10 of 10 backbones failed" in capsys.readouterr().err
    assert profile_cli.main(["--pinned", "--model", "vit,hog"]) == 1
    assert [recipe.weights for recipe in asked[10:]] == [Weights(), Weights()]


def test_one_failure_does_not_stop_the_others(capsys: Capture) -> None:
    names = f"timm:halonet26t.a1h_in1k,{TINY}"
    assert profile_cli.main(["--model", names, "--rounds", "1"]) == 1
    out, err = capsys.readouterr()
    assert "failed: timm:halonet26t.a1h_in1k cannot be run at 224 px on" in err
    assert err.endswith("error: 1 of 2 backbones failed\n")
    assert TINY in out


def test_what_was_measured_is_kept_where_the_next_needs_too_much(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    apart = profile_cli.measure_apart

    def measured(recipe: Recipe, device: str, batch: int, rounds: int) -> profile.Profile:
        return apart(recipe, device, 1 if recipe.backbone.name == "hog" else batch, rounds)

    monkeypatch.setattr(profile_cli, "measure_apart", measured)
    words = ["--model", f"hog,{TINY}", "--rounds", "1", "--batch", "999999999", "--device", "cpu"]
    assert profile_cli.main(words) == 1
    out, err = capsys.readouterr()
    assert "hog" in out
    assert err == (
        f"failed: {TINY} ran out of memory on cpu with --batch 999999999; make it smaller\n"
        "error: 1 of 2 backbones failed\n"
    )


def test_pinned_checkpoints_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert profile_cli.main(["--model", TINY, "--pinned", "--rounds", "1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"failed: cannot fetch checkpoint {TINY} of {TINY} (HF_HUB_OFFLINE")
    assert err.splitlines()[0].endswith("; connect to a network, or drop --pinned")
    assert "--weights" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet19"), "unknown backbone 'resnet19'; did you mean resnet18"),
        (("--batch", "0"), "--batch '0' is no number from 1 on"),
        (("--rounds", "1,2"), "--rounds takes one number"),
        (("--pinned", "--random-weights", "1"), "not allowed with"),
        (("--json", "--csv"), "not allowed with"),
        (("--random-weights", "-1"), "--random-weights takes a seed from 0"),
        (("--model", "hog", "--random-weights", "1"), "hog has no weights"),
    ],
)
def test_wrong_use(capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    assert profile_cli.main(list(arguments)) == 2
    assert message in failure(capsys)


def test_through_the_door(capsys: Capture) -> None:
    assert casebook.main(["profile", "--model", "hog", "--rounds", "1"]) == 0
    assert "hog" in capsys.readouterr().out

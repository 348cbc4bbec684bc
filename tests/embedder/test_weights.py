from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from embedder.backbones import BACKBONES, Checkpoint
from embedder.errors import BackboneError, UnknownNameError, WeightsError
from embedder.loading import describe, load
from embedder.recipe import Recipe, Weights
from embedder.weights import build, read_weights

SMALL = "timm:test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def row() -> Checkpoint:
    return describe(SMALL)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return timm.create_model("test_resnet.r160_in1k").state_dict()


def test_safetensors_and_torch_files_give_the_same_backbone(
    row: Checkpoint, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    files = ("a.safetensors", "a.pth", "nested.pth")
    loaded = [load(Recipe(row, Weights(tmp_path / name))) for name in files]
    assert len({found.weights for found in loaded}) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    torch.manual_seed(3)
    direct = timm.create_model("test_resnet.r160_in1k").eval()
    for key, tensor in direct.state_dict().items():
        torch.testing.assert_close(tensor, state[key])
    first = loaded[0].backbone.embed(pixels)
    assert first.shape == (2, 96)
    np.testing.assert_array_equal(first, loaded[1].backbone.embed(pixels))


def fail(row: Checkpoint, state: dict[str, Any], path: Path) -> str:
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        load(Recipe(row, Weights(path)))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_state_dict_that_does_not_fit_names_the_keys(
    row: Checkpoint, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    without = {key: value for key, value in state.items() if key != "conv1.0.weight"}
    assert "conv1.0.weight" in fail(row, without, path)
    assert "extra.bias" in fail(row, {**state, "extra.bias": torch.ones(1)}, path)
    wrong = {**state, "fc.weight": torch.ones(3, 3)}
    message = fail(row, wrong, path)
    assert "fc.weight" in message
    assert "nothing was loaded" in message


def test_weights_of_another_architecture_are_refused(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "w.pth")
    for name in ("alexnet", "openclip", "biomedclip", "resnet18"):
        with pytest.raises(WeightsError, match=f"do not fit {name}"):
            load(Recipe(BACKBONES[name], Weights(tmp_path / "w.pth")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_tensor(
    row: Checkpoint, state: dict[str, torch.Tensor], tmp_path: Path, value: float
) -> None:
    broken = {**state, "fc.bias": torch.full_like(state["fc.bias"], value)}
    assert "NaN or infinity in fc.bias" in fail(row, broken, tmp_path / "w.pth")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_runs_none(row: Checkpoint, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"conv1.0.weight": Payload(trap)}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(trap)))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(WeightsError, match="nothing was loaded"):
            read_weights(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
def test_a_file_that_is_no_weights_is_refused(tmp_path: Path, name: str) -> None:
    for content in (b"", b"hello", b"\x08" + bytes(40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="nothing was loaded"):
            read_weights(tmp_path / name)


def test_a_truncated_file_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for name, save in (("w.safetensors", save_file), ("w.pth", torch.save)):
        save(state, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match="nothing was loaded"):
            read_weights(tmp_path / name)


def test_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    for content in ({}, {"a": 1}, [torch.ones(1)], {"state_dict": {}}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"no state dict of tensors|nothing was loaded"):
            read_weights(tmp_path / "w.pth")


def test_weights_that_are_not_there_are_named(row: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="check --weights"):
        read_weights(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="cannot read the weights"):
        _ = Recipe(row, Weights(tmp_path / "absent.safetensors")).checkpoint


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "openclip", "biomedclip"])
def test_a_download_that_fails_names_the_checkpoint_and_the_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)  # an earlier one has its proxies already
    row = BACKBONES[name]
    with pytest.raises(WeightsError) as caught:
        build(Recipe(row))
    message = str(caught.value)
    assert f"{row.library}:{row.checkpoint}" in message
    # The hub's library was told that there is no network (conftest), torchvision's tries it.
    reason = "[Errno 111] Connection refused" if name == "alexnet" else "HF_HUB_OFFLINE is set"
    assert reason in message
    assert "--weights FILE" in message
    assert "\n" not in message


def test_prefixed_names_are_described_by_their_libraries(row: Checkpoint) -> None:
    assert (row.name, row.library, row.checkpoint) == (SMALL, "timm", "test_resnet.r160_in1k")
    assert (row.width, row.input_size) == (96, 160)
    clip = describe("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert (clip.library, clip.width, clip.input_size) == ("open_clip", 512, 224)
    vgg = describe("timm:vgg16.tv_in1k")
    assert vgg.width == 4096
    assert describe("dino") is BACKBONES["dino"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timm:resnet18.a1_in2k", "resnet18.a1_in1k"),
        ("timm:resnet18", "resnet18.a1_in1k"),
        ("timm:resnit18.a1_in1k", "resnet18.a1_in1k"),
        ("open_clip:ViT-B-16/opnai", "ViT-B-16/openai"),
        ("open_clip:ViT-B-16", "ViT-B-16"),
        ("dyno", "dino"),
    ],
)
def test_an_unknown_checkpoint_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=hint):
        describe(name)


def test_a_checkpoint_that_takes_another_size_is_refused() -> None:
    with pytest.raises(BackboneError, match="takes 336 px, not 224 px"):
        describe("open_clip:ViT-L-14-336/openai")


def test_weights_of_another_patch_size_are_not_resampled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = timm.create_model("vit_tiny_patch16_224", num_classes=21843, img_size=112, patch_size=8)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    row = describe("timm:vit_tiny_patch16_224.augreg_in21k")
    with pytest.raises(WeightsError, match=r"patch_embed.proj.weight is \(192, 3, 8, 8\)"):
        load(Recipe(row, Weights(tmp_path / "w.pth")))


def test_weights_at_the_native_size_are_fitted_to_the_canvas(tmp_path: Path) -> None:
    torch.manual_seed(0)
    native = timm.create_model("test_vit.r160_in1k").state_dict()
    torch.save(native, tmp_path / "w.pth")
    row = describe("timm:test_vit.r160_in1k")
    loaded = load(Recipe(row, Weights(tmp_path / "w.pth")))
    assert loaded.backbone.embed(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 64)


def test_a_checkpoint_that_cannot_be_run_is_refused() -> None:
    name = "timm:crossvit_9_240.in1k"
    with pytest.raises(BackboneError, match="choose another checkpoint"):
        load(Recipe(describe(name), Weights(random_seed=0)))


def test_a_checkpoint_that_takes_one_size_only_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As timm's architectures without ``img_size`` do; none of those it has today is among them."""

    def deit_tiny(
        pretrained: bool, pretrained_cfg: Any, pretrained_cfg_overlay: Any, cache_dir: Any
    ) -> Any:
        return timm.models.deit_tiny_patch16_224(pretrained, pretrained_cfg=pretrained_cfg)

    name = "deit_tiny_patch16_224"
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    row = describe(f"timm:{name}.fb_in1k")
    monkeypatch.setitem(timm.models._registry._model_entrypoints, name, deit_tiny)
    refused = (
        r"timm:deit_tiny_patch16_224.fb_in1k cannot be built for 224 px: .* unexpected keyword "
        "argument 'img_size'; choose another checkpoint"
    )
    with pytest.raises(BackboneError, match=refused):
        describe(row.name)
    for weights in (Weights(random_seed=0), Weights(tmp_path / "w.pth")):
        with pytest.raises(BackboneError, match=refused):
            load(Recipe(row, weights))


TIMM_ROWS = [row for row in BACKBONES.values() if row.library == "timm"]


@pytest.mark.parametrize("row", TIMM_ROWS, ids=lambda row: row.name)
def test_a_state_dict_at_the_native_size_fits_every_timm_row(row: Checkpoint) -> None:
    """As the pinned checkpoints are, which cannot be fetched in a test."""
    from embedder.weights import _build_timm

    torch.manual_seed(0)
    native = timm.create_model(row.checkpoint).state_dict()
    built = _build_timm(row, native, pretrained=False).state_dict()
    assert built.keys() == native.keys()
    same = [key for key in native if native[key].shape == built[key].shape]
    assert len(same) >= len(native) - 1  # but for the positions of another size
    assert all(torch.equal(native[key], built[key]) for key in same)


def test_sam_at_its_native_size_is_sam_built_for_224_with_its_positions_resampled() -> None:
    from timm.layers import resample_abs_pos_embed_nhwc
    from torch.nn import functional

    row = BACKBONES["sam"]
    torch.manual_seed(0)
    native = timm.create_model(row.checkpoint).eval()
    small = timm.create_model(row.checkpoint, img_size=224).eval()
    state = {}
    for key, tensor in native.state_dict().items():
        if "pos_embed" in key or "rel_pos" in key:  # zeros at first
            tensor.normal_(std=0.1)
        state[key] = tensor
        if key == "pos_embed":
            state[key] = resample_abs_pos_embed_nhwc(tensor, [14, 14])
        elif tensor.shape != small.state_dict()[key].shape:
            line = functional.interpolate(tensor.T[None], size=27, mode="linear")
            state[key] = line[0].T
    small.load_state_dict(state)
    batch = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        found, expected = (m.forward_head(m.forward_features(batch), pre_logits=True)
                           for m in (native, small))  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_another_format_is_left_to_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("vit_tiny_patch16_224.augreg_in21k").state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flatten(1)
    torch.save(state, tmp_path / "linear.pth")
    row = describe("timm:vit_tiny_patch16_224.augreg_in21k")
    assert load(Recipe(row, Weights(tmp_path / "linear.pth"))).weights.startswith("sha256:")


def test_a_model_that_asserts_is_refused() -> None:
    with pytest.raises(BackboneError, match="cannot be run at 224 px on cpu: AssertionError"):
        load(Recipe(describe("timm:halonet26t.a1h_in1k"), Weights(random_seed=0)))

"""What is computed by windows is what the whole canvas gives."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from embedder.backbones import BACKBONES, POOLED
from embedder.cli import main
from embedder.loading import load
from embedder.network import Features, NetworkBackbone
from embedder.preprocess import pad
from embedder.reach import Reach
from embedder.recipe import Precision, Recipe, Weights
from embedder.store import Store
from embedder.types import Pixels, Split, Vectors
from embedder.weights import build
from embedder.window import Windowed
from tests.conftest import NpzMaker

CONVOLUTIONAL = ("vgg16", "alexnet", "resnet18", "densenet121", "efficientnet_b4")


def disturb(module: nn.Module) -> nn.Module:
    """Biases and statistics as of a trained network, so that nothing of the background is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
                assert layer.running_var is not None
                layer.running_mean.normal_(0, 0.3, generator=generator)
                layer.running_var.uniform_(0.5, 2, generator=generator)
                layer.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.normal_(0, 0.1, generator=generator)
    return module.requires_grad_(False).eval()


def images(size: int, channels: int, count: int) -> Pixels:
    """Noise within a bright and a dark edge: pixels at the border differ strongly."""
    rng = np.random.default_rng(size)
    found = rng.integers(0, 256, (count, size, size, channels), np.uint8)
    found[:, 0], found[:, -1], found[:, :, 0], found[:, :, -1] = 255, 0, 255, 0
    return found


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_features_are_those_of_the_whole_canvas(name: str) -> None:
    row = BACKBONES[name]
    module = disturb(build(Recipe(row, Weights(random_seed=0))))
    plain = NetworkBackbone(module, row, "cpu", Precision.FP32, plain=True)
    reach = NetworkBackbone(module, row, "cpu", Precision.FP32)
    for size, channels, count in ((28, 1, 2), (64, 3, 1), (128, 1, 1), (224, 3, 1)):
        pixels = images(size, channels, count)
        expected, found = plain.embed(pixels), reach.embed(pixels)
        errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert errors.max() < 1e-5, size
        assert found.dtype == np.float32
        assert reach._reach is not None
        assert reach._reach.pays(torch.zeros(1, 3, size, size)) == (size < 224)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    row = BACKBONES["efficientnet_b4"]  # its backgrounds belong to the images
    module = disturb(build(Recipe(row, Weights(random_seed=0))))
    reach = NetworkBackbone(module, row, "cpu", Precision.FP32)
    pixels = images(28, 1, 3)
    together = reach.embed(pixels)
    pixels[1:] = 255 - pixels[1:]
    tolerance = 1e-5 * np.abs(together).max()
    np.testing.assert_allclose(reach.embed(pixels)[0], together[0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(reach.embed(pixels[:1])[0], together[0], rtol=0, atol=tolerance)
    assert not np.allclose(reach.embed(pixels)[1], together[1], rtol=0, atol=2 * tolerance)


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.5
        found: torch.Tensor = self.branch(x) + self.shortcut(x)
        return found


class Dense(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, *(layer(x) for layer in self.layers)], dim=1)


class Scale(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Gate(nn.Module):
    """Squeeze-and-excitation, the mean taken in one of three ways."""

    def __init__(self, channels: int, way: int) -> None:
        super().__init__()
        self.layer, self.way = nn.Conv2d(channels, channels, 1), way
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == 0:
            mean = x.mean((2, 3), keepdim=True)
        elif self.way == 1:
            mean = torch.mean(x, dim=[2, 3])[:, :, None, None]
        else:
            mean = self.pool(x)
        return x * torch.sigmoid(self.layer(mean))


class Branching(nn.Module):
    """Control flow that depends on values cannot be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() if x.sum() > 0 else x - x.mean()


KNOWN: dict[str, Callable[[], list[nn.Module]]] = {
    "odd kernels": lambda: [nn.Conv2d(3, 4, (5, 3), padding=(2, 1)), nn.Conv2d(4, 2, 7, padding=1)],
    "even kernel": lambda: [nn.Conv2d(3, 4, 4, padding=1), nn.Conv2d(4, 2, 2, padding=1)],
    "strides": lambda: [nn.Conv2d(3, 4, 7, 2, 3), nn.Conv2d(4, 2, 3, (3, 2), 1, bias=False)],
    "stride past the kernel": lambda: [nn.Conv2d(3, 4, 1, 3), nn.Conv2d(4, 2, 2, 3)],
    "dilation": lambda: [nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 2, 3, dilation=3)],
    "groups": lambda: [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Conv2d(6, 6, 5, 2, 2, groups=6)],
    "padding by name": lambda: [
        nn.Conv2d(3, 4, 5, padding="same"), nn.Conv2d(4, 2, 3, padding="valid"),
    ],
    "padding as in TensorFlow": lambda: [Conv2dSame(3, 4, 3, 2), Conv2dSame(4, 2, 5, 2)],
    "maximum": lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, dilation=2)],
    "maximum, rounded up": lambda: [nn.Conv2d(3, 4, 4), nn.MaxPool2d(3, 2, ceil_mode=True)],
    "average": lambda: [nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2)],
    "activations": lambda: [
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.SiLU(inplace=True),
        nn.Conv2d(4, 2, 3), nn.GELU(),
    ],
    "residual": lambda: [
        Residual(
            nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(True), nn.Conv2d(4, 4, 5, padding=2)),
            nn.Conv2d(3, 4, 1, 2),
        ),
        nn.Conv2d(4, 2, 3, padding=1),
    ],
    "dense": lambda: [
        Dense(nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(3, 1, 1)), nn.Conv2d(10, 2, 3, padding=1),
    ],
    "scaled by parameters": lambda: [
        nn.Conv2d(3, 4, 3, 2, 1), Scale((1, 4, 1, 1)), Scale((4, 1, 1)), Scale(()),
        nn.Conv2d(4, 2, 3, padding=1),
    ],
    "gate by mean": lambda: [nn.Conv2d(3, 4, 3, 2, 1), Gate(4, 0), nn.Conv2d(4, 2, 3, padding=1)],
    "gate by function": lambda: [nn.Conv2d(3, 4, 3, 2, 1), Gate(4, 1), nn.Conv2d(4, 2, 5, 2, 2)],
    "gate by pool": lambda: [
        nn.Conv2d(3, 4, 3, 2, 1), Gate(4, 2), nn.MaxPool2d(3, 2, 1), Gate(4, 2), nn.Conv2d(4, 2, 1),
    ],
    "gate beside none": lambda: [
        nn.Conv2d(3, 4, 3, padding=1), Dense(Gate(4, 0), nn.Conv2d(4, 2, 3, padding=1)),
        Residual(Gate(10, 0), nn.Identity()), nn.Conv2d(10, 2, 3, padding=1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONAL[1:])
def test_the_backbones_are_exact_in_double_precision(name: str) -> None:
    row = BACKBONES[name]
    module = build(Recipe(row, Weights(random_seed=0)))
    assert compare(Features(module, row.features), 28, 28) < 0.6


UNKNOWN: dict[str, Callable[[], list[nn.Module]]] = {
    "reflected padding": lambda: [nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")],
    "average, rounded up": lambda: [nn.AvgPool2d(3, 2, ceil_mode=True)],
    "average without padding": lambda: [nn.AvgPool2d(3, 2, 1, count_include_pad=False)],
    "normalised over positions": lambda: [nn.GroupNorm(1, 3)],
    "resampled": lambda: [nn.Upsample(scale_factor=0.5)],
    "mean of parts": lambda: [nn.AdaptiveAvgPool2d((112, 7))],
    "control flow": lambda: [Branching()],
}


def compare(network: nn.Module, height: int, width: int, count: int = 2) -> float:
    """The share that was computed; in float64, so that one wrong number at an edge is seen."""
    network = disturb(network.double())
    generator = torch.Generator().manual_seed(height)
    planes = torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)
    reach = Reach(network)
    with torch.inference_mode():
        expected = network(pad(planes))
        for _ in range(2):  # the second time with the backgrounds of the first
            found, share = reach.windowed(planes.clone())
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        other = planes[:, :, : height // 2 + 1]
        torch.testing.assert_close(reach.windowed(other)[0], network(pad(other)))
    return share


@pytest.mark.parametrize("layers", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("size", [(28, 28), (64, 41), (1, 150)])
def test_each_rule_is_exact(layers: Callable[[], list[nn.Module]], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    assert compare(nn.Sequential(*layers()), *size) < 0.5


@pytest.mark.parametrize("layers", UNKNOWN.values(), ids=UNKNOWN)
def test_what_has_no_rule_is_computed_on_the_whole(layers: Callable[[], list[nn.Module]]) -> None:
    torch.manual_seed(0)
    known = compare(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), 28, 28)
    unknown = compare(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), *layers()), 28, 28)
    assert known < 0.02 < unknown


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(draw(st.integers(1, 5))):
        kernel, stride, dilation = (draw(st.integers(1, most)) for most in (5, 2, 2))
        padding = draw(st.integers(0, kernel // 2))
        kind = draw(st.sampled_from(("conv", "maximum", "average", "residual", "dense", "gate")))
        if kind == "conv":
            groups = channels if draw(st.booleans()) else 1
            layers.append(nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups))
        elif kind == "maximum":
            rounded = draw(st.booleans())
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=rounded))
        elif kind == "average":
            layers.append(nn.AvgPool2d(kernel, stride, padding))
        elif kind == "residual":
            odd = 2 * (kernel // 2) + 1
            same = nn.Conv2d(channels, channels, odd, stride, odd // 2)
            layers.append(Residual(same, nn.Conv2d(channels, channels, 1, stride)))
        elif kind == "dense" and channels < 12:
            layers.append(Dense(nn.Conv2d(channels, channels, 3, 1, dilation, dilation)))
            channels *= 2
        else:
            layers.append(Gate(channels, draw(st.integers(0, 2))))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


@hypothesis_settings(max_examples=60)
@given(networks(), st.integers(1, 90), st.integers(1, 90), st.integers(1, 2))
def test_any_stack_of_layers_is_exact(
    network: nn.Module, height: int, width: int, count: int
) -> None:
    compare(network, height, width, count)


class Overwriting(nn.Module):
    """Reads what it has written over."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.activation(x) + x
        return found


def test_a_network_whose_windows_would_be_wrong_is_computed_on_the_whole() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), Overwriting(), nn.Flatten()).eval()
    network.requires_grad_(False)[0].bias.fill_(-0.5)
    planes = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        reach = Reach(network)
        found, share = reach.windowed(planes)
        assert share < 0.5
        assert not torch.allclose(found, reach.plain(planes))
        assert not reach.pays(planes)
        assert torch.equal(reach(planes), network(pad(planes)))


def test_a_network_that_cannot_be_traced_is_computed_on_the_whole() -> None:
    planes = torch.randn(2, 3, 28, 28)
    network = Branching().eval()
    with torch.inference_mode():
        reach = Reach(network)
        assert not reach.pays(planes)
        assert torch.equal(reach(planes), network(pad(planes)))
        with pytest.raises(ValueError, match="cannot be traced"):
            reach.windowed(planes)


def test_a_vision_transformer_has_nothing_to_leave_out() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2)
    reach = Reach(Features(disturb(vit), POOLED))
    planes = torch.randn(1, 3, 28, 28)
    with torch.inference_mode():
        found, share = reach.windowed(planes)
        torch.testing.assert_close(found, reach.plain(planes))
        assert share > 0.9
        assert not reach.pays(planes)


def test_a_shortage_of_memory_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = disturb(build(Recipe(BACKBONES["resnet18"], Weights(random_seed=0))))
    reach = Reach(Features(module, POOLED))
    planes = torch.zeros(1, 3, 28, 28)

    def fail(_: torch.Tensor) -> tuple[torch.Tensor, float]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(reach, "windowed", fail)
        with pytest.raises(RuntimeError, match="allocate"):
            reach(planes)
    with torch.inference_mode():
        assert reach.pays(planes)


def test_what_is_kept_is_that_of_one_size_at_a_time() -> None:
    module = disturb(build(Recipe(BACKBONES["resnet18"], Weights(random_seed=0))))
    reach = Reach(Features(module, POOLED))
    backgrounds, frames, found = [], [], []
    with torch.inference_mode():
        for size in (28, 64, 128, 28):
            found.append(reach.windowed(torch.zeros(1, 3, size, size))[0])
            assert reach._run is not None
            backgrounds.append(sum(kept.nbytes for kept in reach._run._backgrounds.values()))
            layers = reach._frames[1].values()
            frames.append(sum(kept.nbytes for layer in layers for kept in layer.values()))
    assert len(set(backgrounds)) == 1
    assert backgrounds[0] < 3e6
    assert frames[0] < frames[1] < frames[2] < 2e7
    assert frames[3] == frames[0]
    assert torch.equal(found[0], found[3])


def test_nothing_is_kept_of_a_size_that_does_not_pay() -> None:
    torch.manual_seed(0)
    reach = Reach(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)))
    with torch.inference_mode():
        assert reach.pays(torch.zeros(1, 3, 28, 28))
        assert any(reach._frames[1].values())
        assert not reach.pays(torch.zeros(1, 3, 214, 214))
    assert not reach._frames[1]


def test_threads_may_compute_images_of_different_sizes_at_once() -> None:
    module = disturb(build(Recipe(BACKBONES["resnet18"], Weights(random_seed=0))))
    reach = Reach(Features(module, POOLED))
    planes = [torch.randn(2, 3, size, size) for size in (28, 64) * 8]

    def compute(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return reach.windowed(batch)[0]

    expected = [compute(batch) for batch in planes]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(compute, planes), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b4"])
def test_what_layers_are_given_has_its_channels_last(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []

    def watch(usual: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def watched(*arguments: Any) -> torch.Tensor:
            given.append(usual(*arguments))
            return given[-1]

        return watched

    row = BACKBONES[name]
    backbone = NetworkBackbone(
        build(Recipe(row, Weights(random_seed=0))), row, "cpu", Precision.FP32
    )
    for method in ("region", "spread", "spread_to"):
        monkeypatch.setattr(Windowed, method, watch(getattr(Windowed, method)))
    backbone.embed(images(28, 1, 2))
    assert len(given) > 100
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in given)


def test_plain_on_the_command_line_computes_all_of_the_canvas(
    make_npz: NpzMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[str] = []
    usual = Reach.windowed

    def watched(self: Reach, planes: torch.Tensor) -> tuple[torch.Tensor, float]:
        ways.append("windows")
        return usual(self, planes)

    monkeypatch.setattr(Reach, "windowed", watched)
    path = make_npz(channels=3)
    recipe = Recipe(BACKBONES["resnet18"], Weights(random_seed=0))
    asked = ["--dataset", str(path), "--model", "resnet18", "--random-weights", "0"]
    stored: dict[bool, Vectors] = {}
    for plain in (True, False):
        store = str(tmp_path / f"store-{plain}")
        words = [*asked, "--store", store]
        assert main([*words, "--plain"] if plain else words) == 0
        assert bool(ways) is not plain
        cells = Store(Path(store))
        cell = cells.read(cells.path("tiny", 28, "resnet18-random0"))
        stored[plain] = cell.embeddings(Split.TRAIN)
        with np.load(path) as arrays:
            expected = load(recipe, "cpu", plain=plain).backbone.embed(arrays["train_images"])
        assert np.array_equal(stored[plain], expected)
        assert main([*words, "--dry-run"]) == 0
    np.testing.assert_allclose(stored[True], stored[False], rtol=1e-4, atol=1e-5)


def test_bf16_is_computed_on_the_whole() -> None:
    recipe = Recipe(BACKBONES["resnet18"], Weights(random_seed=0), Precision.BF16)
    pixels = images(28, 1, 1)
    plain, usual = (
        load(recipe, "cpu", plain=plain).backbone.embed(pixels) for plain in (True, False)
    )
    assert np.array_equal(plain, usual)

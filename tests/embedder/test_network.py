from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms

from embedder.backbones import BACKBONES, BENCHMARK, CHECKPOINTS, Checkpoint
from embedder.errors import EncodingError, UsageError
from embedder.loading import LoadedBackbone, load
from embedder.network import NetworkBackbone, choose_device, hash_weights
from embedder.preprocess import prepare
from embedder.recipe import Precision, Recipe, Weights
from embedder.types import Pixels

NETWORKS = tuple(row for row in CHECKPOINTS if row.library != "scikit-image")
IMG_SIZE = {"vit", "clip", "eva02", "dino", "sam", "dinov2", "dinov3"}


def images(size: int, channels: int, count: int = 2) -> Pixels:
    rng = np.random.default_rng(size)
    return rng.integers(0, 256, (count, size, size, channels), np.uint8)


def load_random(row: Checkpoint, **options: Any) -> LoadedBackbone:
    return load(Recipe(row, Weights(random_seed=0), **options), "cpu")


def transform_by_torchvision(pixels: Pixels, row: Checkpoint) -> torch.Tensor:
    """The common script: PIL images through ToTensor, Normalize and Pad, one by one."""
    size = pixels.shape[1]
    left = (224 - size) // 2
    right = 224 - size - left
    steps = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize(row.mean, row.std),
            transforms.Pad([left, left, right, right]),
        ]
    )
    grey = pixels.shape[3] == 1
    pictures = [Image.fromarray(p[..., 0] if grey else p).convert("RGB") for p in pixels]
    return torch.stack([steps(picture) for picture in pictures])


def called_directly(row: Checkpoint) -> Callable[[torch.Tensor], torch.Tensor]:
    """Features without anything of casebook: the library's own calls on the same random weights."""
    torch.manual_seed(0)
    model: Any
    if row.name == "alexnet":
        model = models.alexnet(weights=None).eval()
        model.classifier = model.classifier[:-1]
        return model
    if row.name == "openclip":
        import open_clip

        model = open_clip.create_model("ViT-B-16", force_quick_gelu=True).eval()
        return model.encode_image
    if row.name == "biomedclip":
        from open_clip.timm_model import TimmModel

        model = TimmModel("vit_base_patch16_224", 512, 224, pool="", proj="linear").eval()
        return lambda batch: model.head(model.trunk.forward_features(batch)[:, 0])
    options = {"img_size": 224} if row.name in IMG_SIZE else {}
    model = timm.create_model(row.checkpoint, pretrained=False, **options).eval()
    return lambda batch: model.forward_head(model.forward_features(batch), pre_logits=True)


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: row.name)
@torch.inference_mode()
def test_embeddings_agree_with_the_library_called_directly(row: Checkpoint) -> None:
    loaded, model = load_random(row), called_directly(row)
    assert loaded.weights.startswith("sha256:")
    for pixels in (images(28, 1), images(64, 3, 1), images(128, 1, 1), images(224, 3, 1)):
        found = loaded.backbone.embed(pixels)
        assert found.dtype == np.float32
        assert found.shape == (len(pixels), row.width)
        expected = model(transform_by_torchvision(pixels, row)).numpy()
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-5
    assert np.linalg.norm(found) > 0


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (64, 3), (128, 1), (224, 3), (27, 1)])
def test_preprocessing_is_that_of_torchvision(size: int, channels: int) -> None:
    row, pixels = BACKBONES["clip"], images(size, channels)
    found = prepare(torch.from_numpy(pixels), row.mean, row.std)
    expected = transform_by_torchvision(pixels, row)
    assert found.shape == (2, 3, 224, 224)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 224])
def test_the_channels_of_a_pixel_lie_together(size: int, channels: int) -> None:
    row = BACKBONES["resnet18"]
    pixels = torch.zeros((2, size, size, channels), dtype=torch.uint8)
    assert prepare(pixels, row.mean, row.std).is_contiguous(memory_format=torch.channels_last)


class Volume(nn.Module):
    """Has weights of four and of five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Conv2d(3, 4, 3)
        self.deep = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.deep(self.flat(x)[:, None])[:, 0].mean((2, 3))
        return found


def test_weights_are_laid_out_as_the_images_where_they_can_be() -> None:
    torch.manual_seed(0)
    module = Volume()
    expected = hash_weights(module)
    backbone = NetworkBackbone(module, BACKBONES["openclip"], "cpu", Precision.FP32)
    assert module.flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.deep.weight.is_contiguous()
    assert hash_weights(module) == expected
    assert backbone.embed(images(28, 1)).shape == (2, 4)


def test_the_border_is_the_channel_mean() -> None:
    padded = prepare(torch.zeros(1, 28, 28, 1, dtype=torch.uint8), (0.5,) * 3, (0.25,) * 3)
    assert padded[0, 0, 0, 0] == 0
    assert padded[0, 0, 97, 97] == 0
    assert padded[0, 0, 98, 98] == -2
    assert padded[0, 2, 125, 125] == -2
    assert padded[0, 0, 126, 126] == 0


def test_an_image_larger_than_the_canvas_is_an_error() -> None:
    with pytest.raises(EncodingError, match="225 x 225 px do not fit the canvas of 224 px"):
        prepare(torch.zeros(1, 225, 225, 3, dtype=torch.uint8), (0.5,) * 3, (0.5,) * 3)


def test_the_ten_of_the_benchmark_are_pinned_to_its_checkpoints() -> None:
    assert {name: (BACKBONES[name].checkpoint, BACKBONES[name].width) for name in BENCHMARK} == {
        "vgg16": ("vgg16.tv_in1k", 4096),
        "alexnet": ("AlexNet_Weights.IMAGENET1K_V1", 4096),
        "resnet18": ("resnet18.a1_in1k", 512),
        "densenet121": ("densenet121.ra_in1k", 1024),
        "efficientnet_b4": ("efficientnet_b4.ra2_in1k", 1792),
        "vit": ("vit_base_patch16_224.augreg2_in21k_ft_in1k", 768),
        "clip": ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 768),
        "eva02": ("eva02_base_patch16_clip_224.merged2b", 768),
        "dino": ("vit_base_patch16_224.dino", 768),
        "sam": ("samvit_base_patch16.sa1b", 256),
    }


@pytest.mark.parametrize(
    "row", [row for row in CHECKPOINTS if row.library == "timm"], ids=lambda row: row.name
)
def test_mean_std_and_native_size_are_those_of_timm(row: Checkpoint) -> None:
    config = timm.get_pretrained_cfg(row.checkpoint)
    assert (row.mean, row.std) == (config.mean, config.std)
    assert row.input_size == config.input_size[-1]
    assert row.licence.lower().replace(" ", "-") == config.license.lower()


def test_mean_and_std_of_the_others_are_those_of_their_libraries() -> None:
    import open_clip

    alexnet = models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    row = BACKBONES["alexnet"]
    assert (list(row.mean), list(row.std)) == (alexnet.mean, alexnet.std)
    clip = open_clip.get_pretrained_cfg("ViT-B-16", "openai")
    row = BACKBONES["openclip"]
    assert (row.mean, row.std) == (clip["mean"], clip["std"])


def test_random_weights_are_the_same_for_the_same_seed_only() -> None:
    row = BACKBONES["resnet18"]
    hashes = [load(Recipe(row, Weights(random_seed=s))).weights for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_building_with_a_seed_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_random(BACKBONES["resnet18"])
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_the_batch_an_image_is_in_changes_little() -> None:
    loaded = load_random(BACKBONES["resnet18"])
    pixels = images(28, 1, 5)
    together = loaded.backbone.embed(pixels)
    alone = np.concatenate([loaded.backbone.embed(pixels[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_bf16_is_close_to_fp32() -> None:
    pixels = images(64, 3, 4)
    row = BACKBONES["vit"]
    exact = load_random(row).backbone.embed(pixels)
    rough = load_random(row, precision=Precision.BF16).backbone.embed(pixels)
    assert rough.dtype == np.float32
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.999
    assert not np.array_equal(exact, rough)


def test_the_hash_is_over_names_shapes_and_values() -> None:
    def module(**tensors: torch.Tensor) -> torch.nn.Module:
        found = torch.nn.Module()
        for name, tensor in tensors.items():
            found.register_buffer(name, tensor)
        return found

    plain = hash_weights(module(a=torch.zeros(2, 3), b=torch.ones(1)))
    assert hash_weights(module(b=torch.ones(1), a=torch.zeros(2, 3))) == plain
    others = [
        hash_weights(module(a=torch.zeros(3, 2), b=torch.ones(1))),
        hash_weights(module(c=torch.zeros(2, 3), b=torch.ones(1))),
        hash_weights(module(a=torch.zeros(2, 3), b=torch.zeros(1))),
        hash_weights(module(a=torch.zeros(2, 3, dtype=torch.float64), b=torch.ones(1))),
    ]
    assert len({plain, *others}) == 5


def test_exact_arithmetic_is_asked_for() -> None:
    load_random(BACKBONES["resnet18"])
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic


def test_a_device_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        assert choose_device("auto") == "cuda"
        return
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="use --device cpu"):
        choose_device("cuda")


class Exhausted(torch.nn.Module):
    """Asks the allocator for more than there can be, for any batch above two."""

    def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)
        return batch

    def forward_head(self, features: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return features[:, 0, :1, 0]


def test_an_exhausted_allocator_is_a_memory_error() -> None:
    from embedder.network import NetworkBackbone

    backbone = NetworkBackbone(Exhausted(), BACKBONES["resnet18"], "cpu", Precision.FP32)
    assert backbone.embed(images(28, 1, 2)).shape == (2, 1)
    with pytest.raises(MemoryError, match="out of memory on cpu"):
        backbone.embed(images(28, 1, 3))

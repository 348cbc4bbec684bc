"""The rows of the backbones that casebook knows by name, and the protocol each one answers.

The ten of the published benchmark (Doerrich, Di Salvo, Brockmann, Ledig, Scientific Reports 15,
7669, 2025) are pinned to the checkpoints that the untagged timm names meant there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from embedder.errors import UnknownNameError
from embedder.registry import by_name, find
from embedder.types import Pixels, Vectors

CANVAS = 224
"""Side length, in pixels, of what every backbone with a fixed input is run on."""

RGB = tuple[float, float, float]

_IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_INCEPTION: tuple[RGB, RGB] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP: tuple[RGB, RGB] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
_NONE: tuple[RGB, RGB] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Checkpoint:
    """A backbone with the weights it is pinned to.

    ``width`` is the length of its feature vector; ``input_size`` the side length in pixels that
    the weights were trained at (every one is run on a 224 px canvas; 0: any size, no canvas).
    """

    name: str
    library: str
    checkpoint: str
    width: int
    input_size: int
    mean: RGB
    std: RGB
    licence: str
    features: str
    in_benchmark: bool = False

    @property
    def preprocessing(self) -> str:
        """What is done to the pixels first, as it stands in a fingerprint."""
        if self.input_size == 0:
            return "uint8/255, at its own size"
        return (
            f"uint8/255, grey to RGB, normalise by mean {self.mean} and std {self.std}, "
            f"zero-pad centred to {CANVAS}"
        )


class Backbone(Protocol):
    """Anything that turns images into vectors."""

    def embed(self, pixels: Pixels) -> Vectors:
        """uint8 (B, H, W, C) to float32 (B, D), one row per image, each independent of the others.

        Raises MemoryError where a smaller batch may help.
        """
        ...


POOLED = "forward_head(forward_features(x), pre_logits=True), flattened"
_ALEXNET = "flatten(avgpool(features(x))) through the classifier without its last layer"
IMAGE_TOWER = "image tower, projected"
HOG = "skimage hog, 9 orientations, 4x4 cells, 2x2 blocks, L2-Hys, strongest channel"


def _timm(
    name: str, checkpoint: str, width: int, norm: tuple[RGB, RGB], licence: str,
    input_size: int = 224, *, in_benchmark: bool = True,
) -> Checkpoint:  # fmt: skip
    return Checkpoint(
        name, "timm", checkpoint, width, input_size, *norm, licence, POOLED, in_benchmark
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (
    _timm("vgg16", "vgg16.tv_in1k", 4096, _IMAGENET, "BSD-3-Clause"),
    Checkpoint(
        "alexnet", "torchvision", "AlexNet_Weights.IMAGENET1K_V1", 4096, 224, *_IMAGENET,
        "BSD-3-Clause", _ALEXNET, True,
    ),
    _timm("resnet18", "resnet18.a1_in1k", 512, _IMAGENET, "Apache-2.0"),
    _timm("densenet121", "densenet121.ra_in1k", 1024, _IMAGENET, "Apache-2.0"),
    _timm("efficientnet_b4", "efficientnet_b4.ra2_in1k", 1792, _IMAGENET, "Apache-2.0", 320),
    _timm("vit", "vit_base_patch16_224.augreg2_in21k_ft_in1k", 768, _INCEPTION, "Apache-2.0"),
    _timm("clip", "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 768, _CLIP, "Apache-2.0"),
    _timm("eva02", "eva02_base_patch16_clip_224.merged2b", 768, _CLIP, "MIT"),
    _timm("dino", "vit_base_patch16_224.dino", 768, _IMAGENET, "Apache-2.0"),
    _timm("sam", "samvit_base_patch16.sa1b", 256, _IMAGENET, "Apache-2.0", 1024),
    Checkpoint(
        "openclip", "open_clip", "ViT-B-16/openai", 512, 224, *_CLIP, "MIT", IMAGE_TOWER
    ),
    _timm(
        "dinov2", "vit_base_patch14_dinov2.lvd142m", 768, _IMAGENET, "Apache-2.0", 518,
        in_benchmark=False,
    ),
    _timm(
        "dinov3", "vit_base_patch16_dinov3.lvd1689m", 768, _IMAGENET, "DINOv3 License", 256,
        in_benchmark=False,
    ),
    Checkpoint(
        "biomedclip", "open_clip",
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        512, 224, *_CLIP, "MIT", IMAGE_TOWER,
    ),
    Checkpoint("hog", "scikit-image", "none", 324, 0, *_NONE, "BSD-3-Clause", HOG),
)  # fmt: skip

BACKBONES = by_name(CHECKPOINTS)

BENCHMARK: tuple[str, ...] = tuple(row.name for row in CHECKPOINTS if row.in_benchmark)
"""The ten of the published benchmark; what ``--model all`` means."""

PREFIXES = ("timm:", "open_clip:")
"""``timm:NAME.TAG`` and ``open_clip:ARCH/TAG`` name any other checkpoint of these libraries."""


def expand(names: Sequence[str]) -> list[str]:
    """Backbone names with ``all`` written out, each once, in the given order.

    Raises UnknownNameError for a name that is neither known nor prefixed.
    """
    found: dict[str, None] = {}
    for name in names:
        if name == "all":
            found.update(dict.fromkeys(BENCHMARK))
        elif name.startswith(PREFIXES):
            if not name.partition(":")[2]:
                raise UnknownNameError(f"{name!r} names no checkpoint; write {name}NAME.TAG")
            found[name] = None
        else:
            find({**BACKBONES, "all": None}, name, "backbone")
            found[name] = None
    return list(found)

"""A recipe becomes a frozen backbone; heavy libraries are imported only for what needs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedder.backbones import BACKBONES, CANVAS, PREFIXES, Backbone, Checkpoint
from embedder.errors import BackboneError, UsageError
from embedder.recipe import Recipe
from embedder.registry import find


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready to embed, the hash of its weights, and where it runs (cpu or cuda)."""

    backbone: Backbone
    weights: str
    device: str


def describe(name: str) -> Checkpoint:
    """The row of a known backbone, or one made for ``timm:NAME.TAG`` or ``open_clip:ARCH/TAG``.

    Raises UnknownNameError where the library has no such checkpoint.
    """
    if name.startswith(PREFIXES):
        from embedder import catalogue

        return catalogue.describe(name)
    return find(BACKBONES, name, "backbone")


def load(recipe: Recipe, device: str = "auto", *, plain: bool = False) -> LoadedBackbone:
    """Build the backbone with its weights, ready to embed on ``device`` (auto, cpu or cuda).

    ``plain`` computes all of the canvas for every image; see embedder.reach for what is left out
    otherwise, with features that are the same to 1e-5.

    Raises WeightsError where the weights cannot be fetched or read, do not fit, or are not
    finite; BackboneError where the architecture cannot be built for 224 px, or not be run, which
    one blank image shows; UsageError where there is no such device.
    """
    row = recipe.backbone
    if row.library == "scikit-image":
        from embedder.hog import HogBackbone

        if device == "cuda":
            raise UsageError(f"{row.name} runs on the CPU only; drop --device cuda")
        return LoadedBackbone(HogBackbone(), "none", "cpu")

    from embedder.network import NetworkBackbone, choose_device, hash_weights
    from embedder.weights import build

    chosen = choose_device(device)
    module = build(recipe)
    weights = hash_weights(module)
    try:
        backbone = NetworkBackbone(module, row, chosen, recipe.precision, plain=plain)
        shape = backbone.embed(np.zeros((1, CANVAS, CANVAS, 3), np.uint8)).shape
    except (
        RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
        MemoryError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackboneError(
            f"{row.name} cannot be run at {CANVAS} px on {chosen}: {reason}; choose another "
            "checkpoint or device"
        ) from error
    if shape != (1, row.width):
        raise BackboneError(
            f"{row.name} gives features of shape {shape}, not (1, {row.width}); choose another "
            "checkpoint"
        )
    return LoadedBackbone(backbone, weights, chosen)

"""A recipe becomes a frozen backbone; heavy libraries are imported only for what needs them."""

from __future__ import annotations

from dataclasses import dataclass

from embedder.backbones import BACKBONES, PREFIXES, Backbone, Checkpoint
from embedder.errors import UsageError
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


def load(recipe: Recipe, device: str = "auto") -> LoadedBackbone:
    """Build the backbone with its weights, ready to embed on ``device`` (auto, cpu or cuda).

    Raises WeightsError where the weights cannot be fetched or read, do not fit, or are not
    finite; BackboneError where the architecture cannot be built for 224 px; UsageError where
    there is no such device.
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
    return LoadedBackbone(NetworkBackbone(module, row, chosen, recipe.precision), weights, chosen)

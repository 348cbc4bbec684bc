"""Rows for ``timm:NAME.TAG`` and ``open_clip:ARCH/TAG``, from what these libraries say."""

from __future__ import annotations

import warnings

import timm
import torch

from embedder.backbones import CANVAS, IMAGE_TOWER, POOLED, Checkpoint
from embedder.errors import BackboneError, UnknownNameError
from embedder.registry import find
from embedder.weights import create, size_options


def describe(name: str) -> Checkpoint:
    """Raises UnknownNameError for a checkpoint the library lacks, BackboneError for one that
    cannot be run at 224 px."""
    library, _, checkpoint = name.partition(":")
    if library == "timm":
        return _describe_timm(name, checkpoint)
    return _describe_open_clip(name, checkpoint)


def _describe_timm(name: str, checkpoint: str) -> Checkpoint:
    known = dict.fromkeys(timm.list_pretrained())
    architecture = checkpoint.partition(".")[0]
    if checkpoint not in known and architecture not in timm.list_models():
        find(known, checkpoint, "timm checkpoint")
    if checkpoint not in known:
        raise UnknownNameError(
            f"timm has no checkpoint {checkpoint!r}; of {architecture} it has "
            f"{', '.join(timm.list_pretrained(f'{architecture}.*')) or 'none'}"
        )
    config = timm.get_pretrained_cfg(checkpoint)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = create(name, checkpoint, pretrained=False, **size_options(checkpoint))
    width = int(model.head_hidden_size)
    return Checkpoint(
        name, "timm", checkpoint, width, config.input_size[-1], config.mean, config.std,
        config.license or "unknown", POOLED,
    )  # fmt: skip


def _describe_open_clip(name: str, checkpoint: str) -> Checkpoint:
    import open_clip

    architecture, _, tag = checkpoint.partition("/")
    pairs = dict.fromkeys(f"{arch}/{t}" for arch, t in open_clip.list_pretrained())
    tags = [pair for pair in pairs if pair.startswith(f"{architecture}/")]
    if tags and checkpoint not in pairs:
        raise UnknownNameError(f"open_clip has no {checkpoint!r}; it has {', '.join(tags)}")
    find(pairs, checkpoint, "open_clip checkpoint")
    config = open_clip.get_model_config(architecture)
    weights = open_clip.get_pretrained_cfg(architecture, tag)
    size = config["vision_cfg"].get("image_size", CANVAS)
    if size != CANVAS:
        raise BackboneError(f"{name} takes {size} px, not {CANVAS} px; choose another checkpoint")
    return Checkpoint(
        name, "open_clip", checkpoint, config["embed_dim"], size,
        tuple(weights["mean"]), tuple(weights["std"]), "unknown", IMAGE_TOWER,
    )  # fmt: skip

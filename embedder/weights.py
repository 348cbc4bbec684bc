"""Building a backbone's module with its weights: fetched, from a file, or random.

Weights are read as safetensors or with ``weights_only=True``, and fit key by key or not at all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from embedder.backbones import CANVAS, Checkpoint
from embedder.errors import BackboneError, WeightsError
from embedder.recipe import Recipe

_HUB = "hf-hub:"


def build(recipe: Recipe) -> nn.Module:
    """The recipe's module on the CPU. Raises WeightsError or BackboneError; see load()."""
    row, weights = recipe.backbone, recipe.weights
    builder = _builder(row)
    if weights.random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights.random_seed)
            return builder(row, None, pretrained=False)
    state = read_weights(weights.file) if weights.file is not None else None
    source = f"the weights {weights.file}" if weights.file else f"checkpoint {row.checkpoint!r}"
    with _weights_errors(row, source):
        return builder(row, state, pretrained=state is None)


Builder = Callable[..., nn.Module]


def _builder(row: Checkpoint) -> Builder:
    if row.checkpoint.startswith(_HUB):
        return _build_biomedclip
    return {"timm": _build_timm, "torchvision": _build_alexnet, "open_clip": _build_open_clip}[
        row.library
    ]


def _build_timm(row: Checkpoint, state: dict[str, Any] | None, *, pretrained: bool) -> nn.Module:
    options = size_options(row.checkpoint)
    if state is not None:
        _refuse_other_shapes(row, state, options)
        # With as many classes as the checkpoint has, timm fits a state dict strictly.
        options["pretrained_cfg_overlay"] = {"state_dict": state}
    pretrained = pretrained or state is not None
    model = create(row.name, row.checkpoint, pretrained=pretrained, **options)
    model.pretrained_cfg.pop("state_dict", None)
    built: nn.Module = model
    return built


def create(name: str, checkpoint: str, **options: Any) -> Any:
    """timm's model; raises BackboneError where the architecture refuses these options, mostly the
    canvas's size.
    """
    try:
        return timm.create_model(checkpoint, **options)
    except (TypeError, AssertionError) as error:
        raise BackboneError(
            f"{name} cannot be built for {CANVAS} px: {one_line(error)}; choose another checkpoint"
        ) from error


def size_options(checkpoint: str) -> dict[str, Any]:
    """What timm has to be told so that the checkpoint takes images of the canvas's size.

    SAM's image encoder stays as it is: it resamples its positions to each image as it runs, and
    timm would not do so to weights that are loaded.
    """
    fixed = timm.get_pretrained_cfg(checkpoint).fixed_input_size
    return {"img_size": CANVAS} if fixed and not checkpoint.startswith("samvit_") else {}


def _refuse_other_shapes(row: Checkpoint, state: dict[str, Any], options: dict[str, Any]) -> None:
    """Raise WeightsError where timm would resample weights of another architecture to fit.

    Only what depends on the input's size may differ from the model as it is built here, and then
    has to be as in the model at its native size. A checkpoint of another format (with keys that
    timm renames, or a linear patch embedding that it folds) is left to timm.
    """
    with torch.device("meta"):
        models = [create(row.name, row.checkpoint, **how).state_dict() for how in ({}, options)]
    if not state.keys() <= models[0].keys():
        return
    for key, tensor in state.items():
        shapes = {model[key].shape for model in models}
        folded = any(len(s) != tensor.ndim and s.numel() == tensor.numel() for s in shapes)
        if tensor.shape not in shapes and not folded:
            found, asked = tuple(tensor.shape), " or ".join(str(tuple(s)) for s in shapes)
            raise WeightsError(
                f"the weights do not fit {row.name}: {key} is {found}, expected {asked}; "
                "nothing was loaded"
            )


def _build_alexnet(row: Checkpoint, state: dict[str, Any] | None, *, pretrained: bool) -> nn.Module:
    from torchvision.models import AlexNet_Weights, alexnet

    model: nn.Module = alexnet(weights=None)
    if pretrained:
        pinned = AlexNet_Weights.IMAGENET1K_V1
        state = pinned.get_state_dict(progress=True, check_hash=True, weights_only=True)
    if state is not None:
        model.load_state_dict(state, strict=True)
    return model


def _build_open_clip(
    row: Checkpoint, state: dict[str, Any] | None, *, pretrained: bool
) -> nn.Module:
    import open_clip
    from open_clip.factory import convert_state_dict, resize_pos_embed

    architecture, _, tag = row.checkpoint.partition("/")
    config = open_clip.get_pretrained_cfg(architecture, tag)
    model: Any = open_clip.create_model(
        architecture, force_quick_gelu=config.get("quick_gelu", False), pretrained_text=False
    )
    if pretrained:
        state = read_weights(Path(open_clip.download_pretrained(config)))
    if state is not None:
        state = convert_state_dict(model, state)
        resize_pos_embed(state, model)
        _fit_tower(model.visual, state)
    tower: nn.Module = model.visual
    return tower


def _build_biomedclip(
    row: Checkpoint, state: dict[str, Any] | None, *, pretrained: bool
) -> nn.Module:
    from open_clip.pretrained import download_pretrained_from_hf
    from open_clip.timm_model import TimmModel

    tower: nn.Module = TimmModel(
        "vit_base_patch16_224", embed_dim=row.width, image_size=CANVAS,
        pool="", proj="linear", pretrained=False,
    )  # fmt: skip
    if pretrained:
        state = read_weights(Path(download_pretrained_from_hf(row.checkpoint.removeprefix(_HUB))))
    if state is not None:
        _fit_tower(tower, state)
    return tower


def _fit_tower(tower: nn.Module, state: dict[str, Any]) -> None:
    """Load the image tower's share of a CLIP state dict, all of it or none."""
    mark = "visual."
    share = {key.removeprefix(mark): v for key, v in state.items() if key.startswith(mark)}
    tower.load_state_dict(share, strict=True)


def read_weights(path: Path) -> dict[str, Any]:
    """The state dict of a safetensors file, or of a torch file read with ``weights_only=True``.

    A torch file may keep it under ``state_dict`` or ``model``. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; check --weights")
    try:
        state: object = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes in the reader
        raise WeightsError(
            f"cannot read {path} as safetensors or as a plain torch state dict "
            f"({type(error).__name__}: {one_line(error, 200)}); nothing was loaded"
        ) from error
    tensors = isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values())
    if not isinstance(state, dict) or not state or not tensors:
        raise WeightsError(f"{path} holds no state dict of tensors; check --weights")
    return state


@contextmanager
def _weights_errors(row: Checkpoint, source: str) -> Iterator[None]:
    """Turn what the libraries raise while fetching and fitting weights into WeightsError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RuntimeError as error:
        if "state_dict" in str(error):
            raise WeightsError(
                f"{source} do not fit {row.name}: {one_line(error)}; nothing was loaded"
            ) from error
        raise _missing(row, error) from error
    except (OSError, ValueError) as error:
        raise _missing(row, error) from error


def _missing(row: Checkpoint, error: Exception) -> WeightsError:
    offline = os.environ.get("HF_HUB_OFFLINE") == "1" and row.library != "torchvision"
    reason = " (HF_HUB_OFFLINE is set)" if offline else f": {one_line(_first(error), 150)}"
    return WeightsError(
        f"cannot fetch checkpoint {row.library}:{row.checkpoint} of {row.name}{reason}; "
        "connect to a network, or give the weights as --weights FILE"
    )


def _first(error: BaseException) -> BaseException:
    """What went wrong before the libraries said it in their own, longer words."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def one_line(error: BaseException, limit: int = 400) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."

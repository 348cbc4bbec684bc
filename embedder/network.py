"""A torch module behind the Backbone protocol: preprocessing, features, memory, devices."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import nn

from embedder import preprocess
from embedder.backbones import IMAGE_TOWER, POOLED, Checkpoint
from embedder.errors import UsageError, WeightsError
from embedder.reach import Reach, is_out_of_memory
from embedder.recipe import Precision
from embedder.types import Pixels, Vectors


def choose_device(name: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` to the device that is used; UsageError without a GPU."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UsageError("no CUDA device is visible to torch; use --device cpu")
    return "cuda" if found and name != "cpu" else "cpu"


def choose_exact_arithmetic() -> None:
    """Full float32 products (no TF32) and the same convolution algorithm at every run."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


class NetworkBackbone:
    """A torch module behind the Backbone protocol.

    ``plain`` computes all of the canvas for each image, also what no pixel of it can reach.
    """

    def __init__(
        self, module: nn.Module, row: Checkpoint, device: str, precision: Precision,
        *, plain: bool = False,
    ) -> None:  # fmt: skip
        choose_exact_arithmetic()
        self._features = Features(module.requires_grad_(False).eval().to(device), row.features)
        _put_channels_last(self._features)
        self._row = row
        self._device = torch.device(device)
        self._autocast = precision is Precision.BF16
        self._reach = None if plain or self._autocast else Reach(self._features)

    def embed(self, pixels: Pixels) -> Vectors:
        try:
            return self._forward(pixels)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise MemoryError(f"out of memory on {self._device.type}")

    @torch.inference_mode()
    def _forward(self, pixels: Pixels) -> Vectors:
        batch = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        planes = preprocess.normalise(batch, self._row.mean, self._row.std)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            if self._reach is not None:
                features = self._reach(planes)
            else:
                features = self._features(preprocess.pad(planes))
        vectors: Vectors = features.to(torch.float32).cpu().numpy()
        return vectors


def _put_channels_last(module: nn.Module) -> None:
    """Lay out what convolutions multiply by as the images are; ``Module.to`` fails for 5-D."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def hash_weights(module: nn.Module) -> str:
    """``sha256:`` over every parameter and buffer in key order: name, dtype, shape, bytes.

    Raises WeightsError naming a tensor that holds a value that is not finite.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"the weights hold NaN or infinity in {key}; get an intact file")
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        digest.update(np.asarray(plain.numpy()).data)
    return f"sha256:{digest.hexdigest()}"


class Features(nn.Module):
    """float32 (B, 3, 224, 224) to (B, D) by the rule of a checkpoint's row."""

    def __init__(self, module: nn.Module, rule: str) -> None:
        super().__init__()
        self.module = module
        self.rule = rule

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        if self.rule == POOLED:
            features = module.forward_head(module.forward_features(batch), pre_logits=True)
        elif self.rule == IMAGE_TOWER:
            features = module(batch)
        else:
            features = torch.flatten(module.avgpool(module.features(batch)), 1)
            for layer in list(module.classifier)[:-1]:  # a slice of it could not be traced
                features = layer(features)
        return torch.flatten(features, 1)

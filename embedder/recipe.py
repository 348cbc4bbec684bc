"""How embeddings are made: a backbone, its weights, and whatever departs from the default.

A recipe's ``variant`` names its cells in the store, so that variants live side by side:
``dino``, ``dino-bf16``, ``resnet18-random0``, ``dino-weights-FILE``, ``timm--NAME.TAG``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from embedder.backbones import Checkpoint
from embedder.errors import UsageError, WeightsError


class Precision(StrEnum):
    """What the backbone computes in; embeddings are cast to float32 afterwards."""

    FP32 = "fp32"
    BF16 = "bf16"


class Storage(StrEnum):
    """What embeddings are written as."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class Weights:
    """Where weights come from: the pinned checkpoint, a file, or a seed; never two of them."""

    file: Path | None = None
    random_seed: int | None = None

    def __post_init__(self) -> None:
        if self.file is not None and self.random_seed is not None:
            raise UsageError("--weights and --random-weights exclude each other; give one")
        if self.random_seed is not None and not 0 <= self.random_seed < 2**32:
            raise UsageError("--random-weights takes a seed from 0 to 4294967295")

    @property
    def suffix(self) -> str:
        if self.random_seed is not None:
            return f"-random{self.random_seed}"
        return f"-weights-{_safe(self.file.stem)}" if self.file is not None else ""

    @cached_property
    def origin(self) -> str | None:
        """The source as it stands in a fingerprint; None for the pinned checkpoint.

        A file is named by its SHA-256, not its path. Raises WeightsError if it cannot be read.
        """
        if self.random_seed is not None:
            return f"random:{self.random_seed}"
        if self.file is None:
            return None
        try:
            with self.file.open("rb") as stream:
                return f"file:sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        except OSError as error:
            raise WeightsError(
                f"cannot read the weights {self.file}: {error.strerror}; check --weights"
            ) from error


@dataclass(frozen=True)
class Recipe:
    """One backbone with one set of weights, computed and stored in one way."""

    backbone: Checkpoint
    weights: Weights = Weights()
    precision: Precision = Precision.FP32
    storage: Storage = Storage.FLOAT32

    def __post_init__(self) -> None:
        name = self.backbone.name
        if self.backbone.library == "scikit-image":
            if self.weights != Weights():
                raise UsageError(f"{name} has no weights; drop --weights and --random-weights")
            if self.precision is not Precision.FP32:
                raise UsageError(f"{name} is computed in fp32 only; drop --precision")

    @property
    def variant(self) -> str:
        name = _safe(self.backbone.name.replace(":", "--").replace("/", "--"))
        bf16 = "-bf16" if self.precision is Precision.BF16 else ""
        half = "-float16" if self.storage is Storage.FLOAT16 else ""
        return f"{name}{self.weights.suffix}{bf16}{half}"

    @property
    def checkpoint(self) -> str:
        """``library:checkpoint`` or, where other weights are used, where these come from."""
        return self.weights.origin or f"{self.backbone.library}:{self.backbone.checkpoint}"

    @property
    def pinned(self) -> bool:
        """Whether the weights are those of the checkpoint, which a library fetches and keeps."""
        return self.weights == Weights() and self.backbone.library != "scikit-image"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)

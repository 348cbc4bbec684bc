"""What an embedding depends on; two cells with equal fingerprints hold the same embeddings."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version

from embedder.errors import DamagedCellError

LIBRARIES = (
    "torch", "timm", "torchvision", "open_clip_torch", "scikit-image", "pillow", "numpy", "h5py",
)  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides the bytes of a cell, library versions apart.

    ``weights`` and ``dataset_checksum`` are None in an expectation that has not looked yet.
    """

    dataset: str
    dataset_checksum: str | None
    size: int
    backbone: str
    checkpoint: str
    weights: str | None
    features: str
    preprocessing: str
    width: int
    precision: str
    storage: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Raises DamagedCellError where a field is missing, unknown or of another type."""
        try:
            found = cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise DamagedCellError(f"unreadable fingerprint ({error})") from error
        for name, value in asdict(found).items():
            kind = int if name in ("size", "width") else str
            if type(value) is not kind:
                raise DamagedCellError(f"its fingerprint has {value!r} for {name}")
        return found

    def differences(self, asked: Fingerprint) -> list[str]:
        """A phrase for each field in which ``asked`` differs; what one does not know is equal."""
        pairs = (
            (field.name, getattr(self, field.name), getattr(asked, field.name))
            for field in fields(self)
        )
        return [
            f"{name.replace('_', ' ')} is {_shorten(mine)}, asked is {_shorten(theirs)}"
            for name, mine, theirs in pairs
            if mine != theirs and mine is not None and theirs is not None
        ]


def _shorten(value: object) -> str:
    """Of a hash the first twelve digits tell it from another."""
    return re.sub("([0-9a-f]{12})[0-9a-f]{52}", r"\1…", str(value))


def library_versions() -> dict[str, str]:
    """The versions that may change embeddings in the last digits: recorded, never compared."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

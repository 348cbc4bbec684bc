"""Trained linear heads in the store: what they answer, and the files they are kept in.

The file is specified in docs/store-format.md. NumPy and safetensors suffice to read it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedder.errors import EvaluationError, FingerprintError, StoreError
from embedder.files import write_whole
from embedder.fingerprint import Fingerprint
from embedder.store import Cell, store_errors
from embedder.types import Labels, Scores, Task, Vectors
from index.points import CHUNK

FORMAT = "casebook-head"
SCHEMA = 1

_FOLDER = "heads"
_KEY = "casebook"

_NO_CHANCE = 1e20
"""Beyond this a mean loss has a logit in it that stands for an infinite one, 1e30 or -1e30."""


@dataclass(frozen=True)
class Provenance:
    """What a head was trained on and how; plain JSON values within the dictionaries.

    ``counts`` are the rows of ``train`` and ``val`` that were used, and how many of the cell were
    ``erased``. ``seed`` is None where the solver draws nothing. ``chosen`` is what training or
    validation decided, such as the learning rate and the best epoch, or C.
    """

    dataset: str
    variant: str
    task: Task
    classes: tuple[str, ...]
    fingerprint: Fingerprint
    counts: dict[str, int]
    solver: str
    protocol: dict[str, Any]
    seed: int | None
    chosen: dict[str, Any]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """Raises ValueError where a field is of another type, or they contradict each other."""
        words = (self.dataset, self.variant, self.solver, *self.classes, *self.versions.values())
        if not all(type(word) is str for word in words):
            raise ValueError("a name in its provenance is no string")
        if not self.classes or len(self.classes) < (1 if self.task is Task.MULTILABEL else 2):
            raise ValueError(f"{len(self.classes)} classes are too few for the {self.task} task")
        if self.dataset != self.fingerprint.dataset:
            raise ValueError(f"dataset is {self.dataset}, by the fingerprint another")
        if type(self.seed) not in (int, type(None)):
            raise ValueError(f"seed is {self.seed!r}")
        for facts in (self.counts, self.protocol, self.chosen, self.versions):
            if not isinstance(facts, dict):
                raise ValueError(f"{facts!r} stands where an object should")
        if not self.protocol:
            raise ValueError("its protocol is empty")
        for name in ("train", "val", "erased"):
            count = self.counts.get(name)
            if type(count) is not int or count < 0:
                raise ValueError(f"its counts have {count!r} for {name}")

    def to_json(self) -> str:
        facts = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        return json.dumps(facts, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Raises ValueError where the text is no provenance of this schema."""
        try:
            facts = json.loads(text)
            form, schema = facts.pop("format"), facts.pop("schema")
            if (form, schema) != (FORMAT, SCHEMA):
                raise ValueError(f"it is {form} of schema {schema}, not {FORMAT} of {SCHEMA}")
            if set(facts) != {field.name for field in fields(cls)}:
                raise ValueError(f"its provenance has the fields {', '.join(sorted(facts))}")
            task, classes = Task(facts.pop("task")), facts.pop("classes")
            if not isinstance(classes, list):
                raise ValueError(f"its classes are a {type(classes).__name__}, no list")
            fingerprint = Fingerprint.from_json(json.dumps(facts.pop("fingerprint")))
            return cls(task=task, classes=tuple(classes), fingerprint=fingerprint, **facts)
        except (KeyError, TypeError, AttributeError, RecursionError, StoreError) as error:
            raise ValueError(f"unreadable provenance ({error})") from error


@dataclass(frozen=True, eq=False)
class Head:
    """A linear layer on embeddings: float32 (C, D) and (C,), all finite.

    C is the number of classes, or of labels for the multi-label task; D the width of the cell.
    Raises ValueError where they do not fit the provenance, or a value is not finite.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    provenance: Provenance

    def __post_init__(self) -> None:
        classes, width = len(self.provenance.classes), self.provenance.fingerprint.width
        shapes = {"weight": (classes, width), "bias": (classes,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(
                    f"{name} is {array.dtype} {array.shape}; its provenance asks float32 {shape}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has a value that is not finite")

    def scores(self, vectors: Vectors) -> Scores:
        """A score for each class, as the function ``scores`` gives it."""
        return scores(self.weight, self.bias, self.provenance.task, vectors)

    def loss(self, vectors: Vectors, labels: Labels) -> float:
        """The mean log loss over cases, in float64; for the multi-label task also over labels.

        ``vectors`` is (N, D), ``labels`` uint8 (N, 1) or (N, L). Infinite where a case has what the
        head gives no chance, or where there is no case. Raises EvaluationError where the widths
        differ.
        """
        total = 0.0
        for part, logits in _logits(self.weight, self.bias, vectors):
            truth = labels[part]
            if self.provenance.task is Task.MULTILABEL:
                total += float((np.logaddexp(0, logits) - logits * truth).sum())
                continue
            highest = logits.max(axis=1)
            whole = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
            total += float((whole - logits[np.arange(len(truth)), truth[:, 0]]).sum())
        mean = total / labels.size if labels.size else math.inf
        return mean if mean < _NO_CHANCE else math.inf


def scores(
    weight: NDArray[np.floating[Any]],
    bias: NDArray[np.floating[Any]],
    task: Task,
    vectors: Vectors,
) -> Scores:
    """The softmax of the logits, float64 (N, C); multi-label the sigmoid of each, (N, L).

    ``weight`` is (C, D), ``bias`` (C,), ``vectors`` (N, D); computed in float64, some rows at a
    time. Raises EvaluationError where the widths differ or a score is not finite.
    """
    found = np.empty((len(vectors), len(weight)))
    for part, logits in _logits(weight, bias, vectors):
        with np.errstate(invalid="ignore", over="ignore"):  # what comes of it is refused below
            found[part] = _sigmoid(logits) if task is Task.MULTILABEL else _softmax(logits)
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        raise EvaluationError(f"the head gives row {wrong[0]} no finite score; embed it again")
    return found


def path(root: Path, provenance: Provenance) -> Path:
    """``<root>/heads/<dataset>/<size>/<variant>/<solver>-<protocol>[-<seed>].safetensors``.

    ``<protocol>`` are the first 12 hex digits of the SHA-256 of the protocol as JSON: heads trained
    alike replace each other, others lie side by side.
    """
    text = json.dumps(provenance.protocol, sort_keys=True)
    name = f"{provenance.solver}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if provenance.seed is not None:
        name += f"-{provenance.seed}"
    size = provenance.fingerprint.size
    folder = _folder(root, provenance.dataset, size, provenance.variant)
    return folder / f"{name}.safetensors"


def paths(root: Path, dataset: str, size: int, variant: str) -> list[Path]:
    """The heads of one cell, in order of their names."""
    with store_errors(root):
        return sorted(_folder(root, dataset, size, variant).glob("*.safetensors"))


def prepare(root: Path, dataset: str, size: int, variant: str) -> None:
    """Make the folder of a cell's heads; raises StoreError where none could be written there."""
    folder = _folder(root, dataset, size, variant)
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()


def write(root: Path, head: Head) -> Path:
    """Keep a head in the store: a whole new file takes the place of one trained alike.

    Of several that write the same head at once, the last one's stays. Raises StoreFullError and
    StoreError as the disk demands; the old file is then as it was.
    """
    place = path(root, head.provenance)
    arrays = {"weight": head.weight, "bias": head.bias}
    data = save(
        {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()},
        {_KEY: head.provenance.to_json()},
    )
    with store_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, data)
    return place


def read(place: Path, cell: Cell | None = None) -> Head:
    """The head at ``place``, which must fit ``cell`` where one is given.

    Raises StoreError where the file does not follow docs/store-format.md, FingerprintError where it
    was trained on another cell than this, or on other classes.
    """
    try:
        with safe_open(place, framework="numpy") as file:
            names, facts = sorted(file.keys()), (file.metadata() or {}).get(_KEY)
            if facts is None:
                raise ValueError("it does not say that it is a casebook head")
            if names != ["bias", "weight"]:
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}, not weight and bias")
            provenance = Provenance.from_json(facts)
            head = Head(file.get_tensor("weight"), file.get_tensor("bias"), provenance)
    except FileNotFoundError as error:
        raise StoreError(f"no head at {place}; train it first") from error
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{place} is no head ({reason}); delete it and train again") from error
    if cell is not None:
        _refuse_other(place, head.provenance, cell)
    return head


def _refuse_other(place: Path, provenance: Provenance, cell: Cell) -> None:
    differences = provenance.fingerprint.differences(cell.header.fingerprint)
    if provenance.variant != cell.header.variant:
        differences.append(f"variant is {provenance.variant}, asked is {cell.header.variant}")
    if provenance.task is not cell.dataset.task:
        differences.append(f"task is {provenance.task}, asked is {cell.dataset.task}")
    if provenance.classes != cell.dataset.classes:
        theirs, ours = ", ".join(provenance.classes), ", ".join(cell.dataset.classes)
        differences.append(f"classes are {theirs}, asked are {ours}")
    if differences:
        raise FingerprintError(
            f"{place} was trained on another cell: {'; '.join(differences)}. "
            "Train on this one, or delete the file"
        )


def _logits(
    weight: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]], vectors: Vectors
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Of some rows at a time: which they are, and their logits, float64 (rows, C)."""
    if vectors.ndim != 2 or vectors.shape[1] != weight.shape[1]:
        raise EvaluationError(
            f"embeddings have shape {vectors.shape}; the head needs width {weight.shape[1]}"
        )
    across = weight.T.astype(np.float64)
    for first in range(0, len(vectors), CHUNK):
        part = slice(first, first + CHUNK)
        with np.errstate(invalid="ignore", over="ignore"):
            logits = vectors[part].astype(np.float64) @ across + bias
        yield part, logits


def _folder(root: Path, dataset: str, size: int, variant: str) -> Path:
    return root / _FOLDER / dataset / str(size) / variant


def _softmax(logits: NDArray[np.float64]) -> Scores:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Scores = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _sigmoid(logits: NDArray[np.float64]) -> Scores:
    shares: Scores = np.exp(-np.logaddexp(0, -logits))
    return shares

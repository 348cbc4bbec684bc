"""Many linear heads trained together on the same rows: batches, gradients, AdamW, early stopping.

Nothing here needs autograd. The gradient of the mean cross-entropy by the logits is (softmax -
one-hot) / B, that of the mean binary cross-entropy (sigmoid - label) / (B L); the rest is a matrix
product. AdamW is Algorithm 2 of Loshchilov and Hutter, Decoupled weight decay regularization,
ICLR 2019, with the constants of ``torch.optim.AdamW``, which decays the bias too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from embedder.errors import EvaluationError
from embedder.types import Labels, Task, Vectors

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8

_GATHERED = 4
"""Batches of each seed that are fetched together: they stay in the processor's cache."""

_LOGITS = 1 << 22
"""Validation logits held at a time."""

_ROWS = 8192
"""Rows in order that are looked at together."""


class Examples:
    """The rows of a split on a device, and what a head should answer for each.

    On the CPU the embeddings are used where they lie, be they a mapped file; elsewhere there is one
    copy. Raises EvaluationError as ``evaluate.probe.train`` says.
    """

    def __init__(
        self, vectors: Vectors, labels: Labels, name: str, task: Task, classes: int, device: str
    ) -> None:
        check(vectors, labels, name, task, classes)
        self._multilabel = task is Task.MULTILABEL
        with warnings.catch_warnings():  # that a mapped file cannot be written, which none does
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self.vectors = torch.from_numpy(np.asarray(vectors)).to(device)
        self._labels = torch.from_numpy(labels.T.astype(np.int64)).to(device)
        self._classes = torch.arange(classes, device=device)[:, None]

    def __len__(self) -> int:
        return len(self.vectors)

    def batches(self, orders: list[Tensor], size: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """For each step the next ``size`` rows of each order, the last of them maybe fewer.

        Features are float32 (B, D) per order, targets float32 (orders, C, B).
        """
        order = torch.stack(orders).to(self.vectors.device)
        for rows in torch.split(order, size * _GATHERED, dim=1):
            features = self.vectors.index_select(0, rows.reshape(-1)).to(torch.float32)
            features = features.view(*rows.shape, -1)
            targets = self._targets(self._labels[:, rows].transpose(0, 1))
            for part, wanted in zip(
                torch.split(features, size, dim=1), torch.split(targets, size, dim=2), strict=True
            ):
                yield list(part.unbind()), wanted

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order: features, float32 (B, D), and targets, float32 (C, B)."""
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            yield self.vectors[part].to(torch.float32), self._targets(self._labels[:, part])

    def _targets(self, labels: Tensor) -> Tensor:
        """From labels (..., 1 or L, B) to float32 (..., C, B)."""
        wanted = labels if self._multilabel else labels == self._classes
        return wanted.to(torch.float32, memory_format=torch.contiguous_format)


class _Share(NamedTuple):
    """What belongs to the heads of one seed, as views of the working arrays of all."""

    weights: Tensor  # (heads * C, D), and so on
    bias: Tensor  # (heads * C, 1)
    gradient: Tensor  # (heads * C, D)
    logits: Tensor  # (heads * C, B)
    errors: Tensor  # (heads, C, B)
    flat_errors: Tensor  # (heads * C, B)


class Heads:
    """Heads in training: those of one seed lie together, one for each point.

    A head is float32 (C, D + 1): weights, and in the last column the bias. ``starts`` are where the
    heads of each seed begin, ``points`` pairs of learning rate and weight decay. Heads are numbered
    seed by seed; ``active`` are those that go on. ``best``, (H, C, D + 1), is what each was in the
    epoch ``best_epochs`` of its lowest validation loss; ``losses`` has those of all its epochs.
    """

    def __init__(
        self, starts: list[Tensor], points: list[tuple[float, float]], task: Task, device: str
    ) -> None:
        self._multilabel = task is Task.MULTILABEL
        self._points = points * len(starts)
        self._per_seed = len(points)
        self._state = torch.stack(starts).repeat_interleave(len(points), dim=0).to(device)
        self._mean = torch.zeros_like(self._state)
        self._square = torch.zeros_like(self._state)
        self._steps = 0
        self.active = list(range(len(self._points)))
        self.best = self._state.clone()
        self.best_epochs = [0] * len(self._points)
        self.losses: list[list[float]] = [[] for _ in self._points]
        self._lay_out()

    @property
    def seeds(self) -> list[int]:
        """The places among ``starts`` of the seeds that have an active head."""
        return [seed for seed, _ in groupby(self.active, lambda head: head // self._per_seed)]

    def anneal(self, factor: float) -> None:
        """Begin an epoch: each learning rate is ``factor`` times that of its point."""
        points = [self._points[head] for head in self.active]
        self._rates = self._column([factor * rate for rate, _ in points])
        self._keeps = self._column([1 - factor * rate * decay for rate, decay in points])

    def step(self, features: list[Tensor], targets: Tensor) -> None:
        """One step of every active head, on a batch for each of ``seeds``."""
        classes, rows = targets.shape[1:]
        logits, errors, shares = self._views(rows)
        for batch, share in zip(features, shares, strict=True):
            torch.addmm(share.bias, share.weights, batch.T, out=share.logits)
        if self._multilabel:
            torch.sigmoid(logits, out=errors)
        else:
            torch.softmax(logits, dim=1, out=errors)
        for wanted, share in zip(targets.unbind(), shares, strict=True):
            share.errors.sub_(wanted)
        errors.div_(rows * classes if self._multilabel else rows)
        for batch, share in zip(features, shares, strict=True):
            torch.mm(share.flat_errors, batch, out=share.gradient)
        torch.sum(errors, dim=2, out=self._gradient[:, :, -1])
        self._descend()

    def judge(self, examples: Examples, patience: int) -> None:
        """End an epoch: the validation losses; who has not improved for ``patience`` epochs ends.

        A loss that is not finite is no improvement.
        """
        stay = []
        for place, loss in enumerate(self._losses(examples)):
            head = self.active[place]
            known = self.losses[head]
            known.append(loss)
            best = self.best_epochs[head]
            if loss < (known[best - 1] if best else math.inf):
                self.best_epochs[head] = len(known)
                self.best[head] = self._state[place]
            if len(known) - self.best_epochs[head] < patience:
                stay.append(place)
        if len(stay) < len(self.active):
            self.active = [self.active[place] for place in stay]
            self._state, self._mean, self._square = (
                array[stay] for array in (self._state, self._mean, self._square)
            )
            self._lay_out()

    def _descend(self) -> None:
        """AdamW, of all active heads at once."""
        self._steps += 1
        first, second = (1 - beta**self._steps for beta in _BETAS)
        self._state.mul_(self._keeps)
        self._mean.lerp_(self._gradient, 1 - _BETAS[0])
        self._square.mul_(_BETAS[1]).addcmul_(self._gradient, self._gradient, value=1 - _BETAS[1])
        torch.sqrt(self._square, out=self._scratch)
        # Both sides of m / (sqrt(v / second) + epsilon), times the root of second.
        self._scratch.add_(_EPSILON * math.sqrt(second))
        torch.div(self._mean, self._scratch, out=self._scratch)
        self._state.addcmul_(self._scratch, self._rates, value=-math.sqrt(second) / first)

    def _losses(self, examples: Examples) -> list[float]:
        """The mean loss over all rows, of each active head; summed in float64."""
        heads, classes, columns = self._state.shape
        flat = self._state.view(-1, columns)
        total = torch.zeros(heads, dtype=torch.float64, device=flat.device)
        for batch, wanted in examples.chunks(max(1, min(_ROWS, _LOGITS // len(flat)))):
            logits = torch.addmm(flat[:, -1:], flat[:, :-1], batch.T).view(heads, classes, -1)
            if self._multilabel:
                # log(1 + exp(z)) - y z, in the form that cannot overflow.
                losses = functional.softplus(logits).sub_(logits * wanted).mean(dim=1)
            else:
                losses = torch.logsumexp(logits, dim=1).sub_((logits * wanted).sum(dim=1))
            total += losses.sum(dim=1, dtype=torch.float64)
        return [float(loss) for loss in (total / len(examples)).tolist()]

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self._state.device)[:, None, None]

    def _lay_out(self) -> None:
        """Make the working arrays for the heads that are active."""
        self._gradient = torch.zeros_like(self._state)
        self._scratch = torch.empty_like(self._state)
        self._sized: dict[int, tuple[Tensor, Tensor, list[_Share]]] = {}

    def _views(self, rows: int) -> tuple[Tensor, Tensor, list[_Share]]:
        """Logits and errors, float32 (H, C, B), and the share of each seed in all; made once."""
        if rows not in self._sized:
            heads, classes, columns = self._state.shape
            logits, errors = self._state.new_empty(2, heads, classes, rows)
            counts = [
                len(list(group))
                for _, group in groupby(self.active, lambda head: head // self._per_seed)
            ]
            flat = [count * classes for count in counts]
            states = torch.split(self._state.view(-1, columns), flat)
            gradients = torch.split(self._gradient.view(-1, columns), flat)
            arrays = (
                states,
                gradients,
                torch.split(logits.view(-1, rows), flat),
                torch.split(errors, counts),
                torch.split(errors.view(-1, rows), flat),
            )
            shares = [
                _Share(state[:, :-1], state[:, -1:], gradient[:, :-1], *rest)
                for state, gradient, *rest in zip(*arrays, strict=True)
            ]
            self._sized[rows] = logits, errors, shares
        return self._sized[rows]


def check(vectors: Vectors, labels: Labels, name: str, task: Task, classes: int) -> None:
    """Raise EvaluationError, naming the split, where these cannot train or judge a head."""
    if vectors.ndim != 2 or vectors.dtype not in (np.float32, np.float16):
        raise EvaluationError(
            f"{name} embeddings are {vectors.dtype} of shape {vectors.shape}; "
            "give float32 or float16 (rows, width)"
        )
    rows, width = vectors.shape
    if rows == 0 or width == 0:
        raise EvaluationError(f"{name} has {rows} rows of width {width}; a probe needs some")
    columns = classes if task is Task.MULTILABEL else 1
    if labels.shape != (rows, columns) or labels.dtype.kind not in "ui":
        raise EvaluationError(
            f"{name} labels are {labels.dtype} of shape {labels.shape}; the {task} task with "
            f"these embeddings needs uint8 {(rows, columns)}"
        )
    highest = 1 if task is Task.MULTILABEL else classes - 1
    wrong = np.flatnonzero(((labels < 0) | (labels > highest)).any(axis=1))
    if len(wrong):
        raise EvaluationError(
            f"{name} row {wrong[0]} has a label outside 0 to {highest}; check the classes"
        )
    for first in range(0, rows, _ROWS):
        finite = np.isfinite(vectors[first : first + _ROWS]).all(axis=1)
        if not finite.all():
            raise EvaluationError(
                f"{name} row {first + int(finite.argmin())} is not finite; embed it again"
            )

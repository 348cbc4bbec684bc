"""Logistic regression on stored embeddings, as another way to a linear head: ``--solver lbfgs``.

scikit-learn's LogisticRegression (L-BFGS: Byrd, Lu, Nocedal, Zhu, SIAM J. Sci. Comput. 16, 1995),
multinomial, or one for each label. C, one over the strength of the L2 penalty on the weights, is
chosen by the mean log loss on val; per label for the multi-label task, whose labels are problems of
their own. The chosen model is not trained again on val.

Features are standardised with the mean and standard deviation of the training rows. The penalty and
L-BFGS both depend on the scale of features, which differs between backbones by orders of magnitude:
only so does one grid of C suit them all, and converge. The head that comes out has both folded in,
and takes embeddings as they are.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from embedder.errors import EvaluationError, UsageError
from embedder.types import Labels, Task, Vectors
from evaluate.batched import check

CS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)

NEVER = -1e30
"""The logit of a class that no training row has: its probability is 0, and float32 holds it."""

_CHUNK = 8192

_FEW = 1 << 26
"""Training values, rows by width, up to which one thread fits: the threads of so short products
wait for each other longer than they work. On two busy cores one was faster by 15 to 24 times for
1,400 x 324, 3 to 8 for 20,000 x 768, and 2 to 5 for 60,000 x 768."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LogisticProtocol:
    """The Cs tried, in ascending order, and when L-BFGS stops.

    That is when no part of the gradient of the mean loss exceeds ``tolerance``. scikit-learn's own
    1e-4 is met so early that the largest Cs would give one and the same head. After the loss on val
    has risen for ``rises`` values of C in a row no larger one is tried: they take the longest.
    """

    cs: tuple[float, ...] = CS
    tolerance: float = 1e-6
    iterations: int = 1000
    rises: int = 2

    def __post_init__(self) -> None:
        if not self.cs or not all(math.isfinite(c) and c > 0 for c in self.cs):
            raise UsageError(f"C {self.cs} are not all above 0; give one or more")
        if any(one >= other for one, other in pairwise(self.cs)):
            raise UsageError(f"C {self.cs} are not in ascending order, each once")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0) or self.iterations < 1:
            raise UsageError("tolerance must be above 0, iterations 1 or more")
        if self.rises < 1:
            raise UsageError(f"rises {self.rises} is not 1 or more")

    def describe(self) -> dict[str, object]:
        """As it stands in records and saved heads; plain JSON values."""
        return {
            "solver": "lbfgs",
            "cs": list(self.cs),
            "tolerance": self.tolerance,
            "iterations": self.iterations,
            "rises": self.rises,
            "standardised": True,
        }


@dataclass(frozen=True, eq=False)
class LogisticHead:
    """A linear layer on embeddings as stored, float32 (C, D) and (C,), and how it was chosen.

    ``c`` is the chosen C, for the multi-label task one per label, None where a label is the same in
    every training row. ``losses`` has for each of these the mean log losses on val of the Cs that
    were tried: the first ones of the protocol, in its order (none for None). ``notes`` say what a
    reader of its figures should know.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    c: tuple[float | None, ...]
    losses: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...]


Watch = Callable[[float], object]
"""Told after each fit its C."""


def fit(
    train: Vectors,
    train_labels: Labels,
    val: Vectors,
    val_labels: Labels,
    task: Task,
    classes: int,
    protocol: LogisticProtocol | None = None,
    *,
    watch: Watch | None = None,
) -> LogisticHead:
    """Try one C after the other and keep the best of those tried, as the protocol has it.

    Arguments and errors are those of ``evaluate.probe.train``; EvaluationError also where float32
    does not hold the weights, as of embeddings that differ by 1e-38 or so. There is a float64 copy
    of the training rows. A class without training rows is never predicted; rows of val that have it
    are left out of the choice. Each C begins where the one before ended, which within the tolerance
    changes nothing but the time. Nothing is drawn: the same data give the same head.
    """
    protocol = protocol or LogisticProtocol()
    check(train, train_labels, "train", task, classes)
    check(val, val_labels, "val", task, classes)
    if train.shape[1] != val.shape[1]:
        raise EvaluationError(
            f"train has width {train.shape[1]}, val {val.shape[1]}; give one cell's"
        )
    features = np.array(train, np.float64, order="C")
    scale = _standardise(features)
    problem = _Problem(features, scale, val, protocol, watch)
    with threadpool_limits(1 if features.size <= _FEW else None):
        return _solve(problem, train_labels, val_labels, task, classes)


def _solve(
    problem: _Problem, train_labels: Labels, val_labels: Labels, task: Task, classes: int
) -> LogisticHead:
    if task is not Task.MULTILABEL:
        best = problem.solve(train_labels[:, 0], val_labels[:, 0], classes)
        return _head([best.weight], [best.bias], [best])
    found = [
        problem.solve(train_labels[:, label], val_labels[:, label], 2) for label in range(classes)
    ]
    # Of two logits only the difference counts: that is the label's own.
    return _head(
        [best.weight[1:] - best.weight[:1] for best in found],
        [best.bias[1:] - best.bias[:1] for best in found],
        [replace(best, notes=_of_label(label, best)) for label, best in enumerate(found)],
    )


@dataclass(frozen=True)
class _Scale:
    mean: _Floats
    deviation: _Floats


def _standardise(features: _Floats) -> _Scale:
    """In place, (N, D); a feature that varies by no more than float32 rounding is only centred."""
    mean = features.mean(axis=0)
    features -= mean
    deviation = np.sqrt(np.einsum("nd,nd->d", features, features) / len(features))
    deviation[deviation <= np.finfo(np.float32).eps * np.abs(mean)] = 1
    features /= deviation
    return _Scale(mean, deviation)


@dataclass(frozen=True)
class _Solution:
    weight: _Floats
    bias: _Floats
    c: float | None
    losses: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Problem:
    """Standardised training rows, float64 (N, D), and val as it is stored."""

    features: _Floats
    scale: _Scale
    val: Vectors
    protocol: LogisticProtocol
    watch: Watch | None

    def solve(self, labels: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> _Solution:
        """The best C for labels (N,) below ``classes``."""
        present = np.unique(labels)
        notes = [
            f"class {absent} has no training row: it is never predicted"
            for absent in np.setdiff1d(np.arange(classes), present)
        ]
        if len(present) == 1:
            weight, bias = np.zeros((classes, len(self.scale.mean))), np.full(classes, NEVER)
            bias[present] = 0
            return _Solution(weight, bias, None, (), tuple(notes))
        known = np.isin(truth, present)
        if not known.any():
            raise EvaluationError("no row of val has a class of train; C cannot be chosen")
        tried, losses = [], []
        for one in self._fits(labels, present, classes):
            _, weight, bias, note = one
            tried.append(one)
            losses.append(self._loss(weight, bias, truth, known))
            notes += [note] if note else []
            if _has_risen(losses, self.protocol.rises):
                break
        c, weight, bias, _ = tried[int(np.argmin(losses))]
        return _Solution(weight, bias, c, tuple(losses), tuple(notes))

    def _fits(
        self, labels: NDArray[np.uint8], present: NDArray[np.uint8], classes: int
    ) -> Iterator[tuple[float, _Floats, _Floats, str]]:
        """For each C weights (C, D) and bias (C,) for embeddings as stored, and a note or none."""
        model = LogisticRegression(
            tol=self.protocol.tolerance, max_iter=self.protocol.iterations, warm_start=True
        )
        for c in self.protocol.cs:
            model.C = c
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(self.features, labels)
            note = _stopped(caught, c, int(model.n_iter_.max()))
            # With two classes scikit-learn has one logit, that of the second.
            one = len(present) == 2
            coefficients = np.vstack([0 * model.coef_, model.coef_]) if one else model.coef_
            intercepts = np.append(0, model.intercept_) if one else model.intercept_
            weight, bias = np.zeros((classes, coefficients.shape[1])), np.full(classes, NEVER)
            weight[present] = coefficients / self.scale.deviation
            bias[present] = intercepts - weight[present] @ self.scale.mean
            if self.watch:
                self.watch(c)
            yield c, weight, bias, note

    def _loss(
        self, weight: _Floats, bias: _Floats, truth: NDArray[np.uint8], known: NDArray[np.bool_]
    ) -> float:
        """The mean log loss over the known rows of val."""
        total = 0.0
        for first in range(0, len(truth), _CHUNK):
            part = slice(first, first + _CHUNK)
            logits = self.val[part].astype(np.float64) @ weight.T + bias
            highest = logits.max(axis=1)
            whole = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
            own = logits[np.arange(len(logits)), truth[part]]
            total += float((whole - own)[known[part]].sum())
        return total / int(known.sum())


def _has_risen(losses: list[float], times: int) -> bool:
    """Whether each of the last so many is higher than the one before it."""
    last = losses[-times - 1 :]
    return len(last) > times and all(a < b for a, b in pairwise(last))


def _stopped(caught: list[warnings.WarningMessage], c: float, iterations: int) -> str:
    """A note in place of what scikit-learn warns of, or none; other warnings are given again."""
    note = ""
    for one in caught:
        if issubclass(one.category, ConvergenceWarning):
            note = f"C = {c:g}: L-BFGS stopped after {iterations} iterations, not yet converged"
        else:
            warnings.warn(one.message, one.category, stacklevel=2)
    return note


def _of_label(label: int, best: _Solution) -> tuple[str, ...]:
    if best.c is None:
        value = int(best.bias[1] == 0)
        return (f"label {label} is {value} in every training row, and so in every prediction",)
    return tuple(f"label {label}: {note}" for note in best.notes)


def _head(weights: list[_Floats], biases: list[_Floats], found: list[_Solution]) -> LogisticHead:
    with np.errstate(over="ignore"):  # what comes of it is refused
        weight = np.concatenate(weights).astype(np.float32)
        bias = np.concatenate(biases).astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise EvaluationError(
            "the weights of the head are not finite in float32; the embeddings hardly differ, "
            "embed them again"
        )
    return LogisticHead(
        weight,
        bias,
        tuple(best.c for best in found),
        tuple(best.losses for best in found),
        tuple(note for best in found for note in best.notes),
    )

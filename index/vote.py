"""From neighbours to a score per class; evaluation and the service vote by the same rules.

For a single-label task the scores of a query sum to 1 and the prediction is the highest, a tie
going to the lowest class. For a multi-label task each label has the (weighted) share of the
neighbours that carry it, and is present above one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.errors import UsageError
from embedder.registry import find
from embedder.types import Distance, Labels, Scores, Task
from index.search import Neighbours

Weights = NDArray[np.float64]

_THRESHOLD = 0.5


class Vote(Protocol):
    """A rule by which neighbours decide: how much each of them counts."""

    @property
    def weighted(self) -> bool:
        """Whether scores rank queries finely enough for an AUC; a plain majority's do not."""
        ...

    def weights(self, similarities: NDArray[np.float32], distance: Distance) -> Weights:
        """float32 (Q, k) to float64 (Q, k), not negative, with a positive sum for each query."""
        ...


@dataclass(frozen=True)
class MajorityVote:
    """Every neighbour counts alike: the published protocol."""

    weighted = False

    def weights(self, similarities: NDArray[np.float32], distance: Distance) -> Weights:
        return np.ones(similarities.shape)


@dataclass(frozen=True)
class DistanceVote:
    """A neighbour counts by its cosine (none below 0), or by one over its Euclidean distance.

    At distance zero the others do not count, as in scikit-learn's ``weights="distance"``. Where
    no neighbour counts, all count alike.
    """

    weighted = True

    def weights(self, similarities: NDArray[np.float32], distance: Distance) -> Weights:
        exact = similarities.astype(np.float64)
        if distance is Distance.COSINE:
            weights = np.maximum(exact, 0)
        else:
            same = exact == 0
            weights = 1 / np.where(same, 1, -exact)
            weights = np.where(same.any(axis=1, keepdims=True), same, weights).astype(np.float64)
        weights[weights.sum(axis=1) == 0] = 1
        return weights


@dataclass(frozen=True)
class SoftmaxVote:
    """A neighbour counts as exp(similarity / temperature).

    Z. Wu, Y. Xiong, S. Yu, D. Lin, Unsupervised feature learning via non-parametric instance
    discrimination, CVPR 2018; 0.07 is their temperature, and DINO's.
    """

    temperature: float = 0.07
    weighted = True

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"--temperature {self.temperature} is no number above 0")

    def weights(self, similarities: NDArray[np.float32], distance: Distance) -> Weights:
        exact = similarities.astype(np.float64)
        shifted = exact - exact.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            weights: Weights = np.exp(shifted / self.temperature)
        return weights


VOTES = ("majority", "distance", "softmax")


def vote_of(name: str, temperature: float | None = None) -> Vote:
    """The vote called ``name``. Raises UsageError for a temperature that it does not have."""
    find(dict.fromkeys(VOTES), name, "vote")
    if name == "softmax":
        return SoftmaxVote() if temperature is None else SoftmaxVote(temperature)
    if temperature is not None:
        raise UsageError("--temperature belongs to --vote softmax")
    return DistanceVote() if name == "distance" else MajorityVote()


def decide(scores: Scores, task: Task) -> Labels:
    """Scores, float64 (Q, C) or (Q, L), to predictions in the form of the labels.

    Binary: class 1 where its score is above 0.5. Multi-class and ordinal: the highest score, a tie
    to the lowest class. Multi-label: 1 where a label's score is above 0.5. As
    ``medmnist.evaluator.getACC`` has it.
    """
    if task is Task.MULTILABEL:
        return (scores > _THRESHOLD).astype(np.uint8)
    if task is Task.BINARY:
        return (scores[:, 1:] > _THRESHOLD).astype(np.uint8)
    best: NDArray[np.intp] = scores.argmax(axis=1, keepdims=True)
    return best.astype(np.uint8)


def agrees(labels: Labels, predicted: Labels, task: Task) -> NDArray[np.bool_]:
    """Of each case, uint8 (N, 1) or (N, L), whether it has what is predicted, uint8 (1,) or (L,):
    the class or every label that is. Bool (N,).

    Where no label is predicted, a case agrees that has none.
    """
    every = task is Task.MULTILABEL and predicted.any()
    has = np.greater_equal(labels, predicted) if every else np.equal(labels, predicted)
    agreeing: NDArray[np.bool_] = np.all(has, axis=1)
    return agreeing


def count_votes(
    neighbours: Neighbours,
    labels: Labels,
    task: Task,
    class_count: int,
    vote: Vote,
    distance: Distance,
) -> Scores:
    """The scores of each query, float64 (Q, C), or (Q, L) for a multi-label task.

    ``labels`` are the support set's, uint8 (N, 1) or (N, L). Weights are added one after another,
    nearest first, so that equal votes have equal sums and a tie is a tie.
    """
    weights = vote.weights(neighbours.similarities, distance)
    lines, count = np.arange(len(weights)), weights.shape[1]
    voted = labels[neighbours.rows]
    if task is Task.MULTILABEL:
        present, absent = np.zeros((2, len(lines), labels.shape[1]))
        for column in range(count):
            present += weights[:, column, None] * (voted[:, column] == 1)
            absent += weights[:, column, None] * (voted[:, column] == 0)
        shares: Scores = present / (present + absent)
        return shares
    scores: Scores = np.zeros((len(lines), class_count))
    for column in range(count):
        scores[lines, voted[:, column, 0]] += weights[:, column]
    scores /= scores.sum(axis=1, keepdims=True)
    return scores

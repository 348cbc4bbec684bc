from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from embedder.errors import EvaluationError, UsageError
from embedder.types import Labels, Task, Vectors
from evaluate.probe import SEEDS, Grid, ProbeProtocol, TrainedHead, choose, train

WIDTH = 12
GRID = Grid((3e-2, 1e-3), (0.0, 0.3))
QUICK = ProbeProtocol(SEEDS, Grid((3e-2,), (0.01,)), batch=16, epochs=25, patience=3)

Splits = tuple[Vectors, Labels, Vectors, Labels]


def splits(task: Task, classes: int, rows: int = 75, seed: int = 0) -> Splits:
    """Noisy linear classes: a probe learns them, and begins to overfit after some epochs."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((classes, WIDTH))
    pairs: list[NDArray[np.generic]] = []
    for count in (rows, 40):
        vectors = rng.standard_normal((count, WIDTH)).astype(np.float32)
        logits = vectors @ truth.T + 4 * rng.standard_normal((count, classes))
        best = logits.argmax(axis=1, keepdims=True)
        labels = logits > 1 if task is Task.MULTILABEL else best
        pairs += [vectors, labels.astype(np.uint8)]
    return tuple(pairs)  # type: ignore[return-value]


def loss_of(task: Task) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if task is Task.MULTILABEL:
        return lambda z, y: functional.binary_cross_entropy_with_logits(z, y.to(z.dtype))
    return lambda z, y: functional.cross_entropy(z, y[:, 0].long())


def plain(
    data: Splits, task: Task, classes: int, protocol: ProbeProtocol, seed: int, lr: float, wd: float
) -> tuple[torch.nn.Linear, int, list[float]]:
    """One head, one seed, as PyTorch's documentation would have it; nothing of evaluate is used."""
    x, y, x_val, y_val = (torch.tensor(array) for array in data)
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(x.shape[1])
    torch.nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=wd)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=protocol.epochs)
    criterion = loss_of(task)
    best, best_epoch, losses = layer, 0, [math.inf]
    for epoch in range(1, protocol.epochs + 1):
        order = torch.randperm(len(x), generator=generator)
        for rows in torch.split(order, protocol.batch):
            optimiser.zero_grad()
            criterion(layer(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        with torch.no_grad():
            loss = float(criterion(layer(x_val).double(), y_val))
        if loss < min(losses):
            best, best_epoch = copy.deepcopy(layer), epoch
        losses.append(loss)
        if epoch - best_epoch == protocol.patience:
            break
    return best, best_epoch, losses[1:]


def agree(head: TrainedHead, other: tuple[torch.nn.Linear, int, list[float]]) -> None:
    layer, epoch, losses = other
    assert head.best_epoch == epoch
    assert len(head.losses) == len(losses)
    np.testing.assert_allclose(head.weight, layer.weight.detach().numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(head.bias, layer.bias.detach().numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(head.losses, losses, rtol=0, atol=1e-5)


TASKS = pytest.mark.parametrize(
    ("task", "classes"),
    [(Task.BINARY, 2), (Task.MULTICLASS, 5), (Task.ORDINAL, 3), (Task.MULTILABEL, 4)],
)


@TASKS
@pytest.mark.parametrize("grid", [QUICK.grid, GRID], ids=["alone", "sweep"])
def test_each_head_is_that_of_a_plain_loop(task: Task, classes: int, grid: Grid) -> None:
    data = splits(task, classes)  # 75 rows: four batches of 16, and one of 11
    protocol = replace(QUICK, grid=grid)
    heads = train(*data, task, classes, protocol)
    assert len(heads) == len(SEEDS) * len(grid.points())
    asked = [(seed, *point) for seed in SEEDS for point in grid.points()]
    assert [(h.seed, h.learning_rate, h.weight_decay) for h in heads] == asked
    for head in heads:
        assert head.weight.dtype == head.bias.dtype == np.float32
        assert head.weight.shape == (classes, WIDTH)
        assert head.bias.shape == (classes,)
        agree(head, plain(data, task, classes, protocol, *asked.pop(0)))
    # The data make some stop early and some not begin with their best, or the test says little.
    assert min(len(head.losses) for head in heads) < QUICK.epochs
    assert max(head.best_epoch for head in heads) > 1


@TASKS
@pytest.mark.parametrize("grid", [QUICK.grid, GRID], ids=["alone", "sweep"])
def test_seeds_together_are_seeds_alone(task: Task, classes: int, grid: Grid) -> None:
    data, protocol = splits(task, classes), replace(QUICK, grid=grid)
    together = train(*data, task, classes, protocol)
    alone = [h for s in SEEDS for h in train(*data, task, classes, replace(protocol, seeds=(s,)))]
    if grid is GRID:  # some go on without the others
        assert len({len(head.losses) for head in together}) > 1
    for one, other in zip(together, alone, strict=True):
        assert (one.seed, one.best_epoch) == (other.seed, other.best_epoch)
        np.testing.assert_allclose(one.losses, other.losses, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.weight, other.weight, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.bias, other.bias, rtol=0, atol=1e-6)


def test_the_published_protocol_is_the_default() -> None:
    assert ProbeProtocol().describe() == {
        "solver": "adamw", "seeds": [9930641, 115149041, 252139603], "learning_rates": [1e-4],
        "weight_decays": [0.01], "batch": 64, "epochs": 100, "patience": 5, "schedule": "cosine",
    }  # fmt: skip
    data = splits(Task.MULTICLASS, 3, rows=150)
    protocol = ProbeProtocol()
    head = train(*data, Task.MULTICLASS, 3)[0]
    agree(head, plain(data, Task.MULTICLASS, 3, protocol, SEEDS[0], 1e-4, 0.01))
    assert len(head.losses) == 100


def test_features_so_small_that_epsilon_counts() -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 3)
    scale = np.float32(10) ** -np.arange(WIDTH, dtype=np.float32)  # gradients down to 1e-12
    data = (x * scale, y, x_val * scale, y_val)
    head = train(*data, Task.MULTICLASS, 3, QUICK)[0]
    agree(head, plain(data, Task.MULTICLASS, 3, QUICK, SEEDS[0], 3e-2, 0.01))


def test_the_first_step_by_hand() -> None:
    # One row x = 2 of class 1. AdamW's first step is the learning rate against the gradient's sign
    # (but for epsilon), after the decay: w (1 - 0.1 * 0.5) -+ 0.1.
    generator = torch.Generator().manual_seed(7)
    weight = torch.empty(2, 1).uniform_(-1, 1, generator=generator)
    bias = torch.empty(2).uniform_(-1, 1, generator=generator)
    one, label = np.array([[2.0]], np.float32), np.array([[1]], np.uint8)
    protocol = ProbeProtocol((7,), Grid((0.1,), (0.5,)), epochs=1)
    (head,) = train(one, label, one, label, Task.BINARY, 2, protocol)
    step = np.array([-0.1, 0.1])
    np.testing.assert_allclose(head.weight[:, 0], weight[:, 0].numpy() * 0.95 + step, atol=1e-6)
    np.testing.assert_allclose(head.bias, bias.numpy() * 0.95 + step, atol=1e-6)
    logits = head.weight[:, 0] * 2.0 + head.bias
    assert head.loss == pytest.approx(math.log(1 + math.exp(logits[0] - logits[1])), abs=1e-6)


def test_rows_in_float16_and_in_a_mapped_file(tmp_path: Path) -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 3)
    half = x.astype(np.float16)
    half.tofile(tmp_path / "half")
    mapped = np.memmap(tmp_path / "half", np.float16, "r", shape=half.shape)
    found = train(mapped, y, x_val, y_val, Task.MULTICLASS, 3, QUICK)  # type: ignore[arg-type]
    same = train(half.astype(np.float32), y, x_val, y_val, Task.MULTICLASS, 3, QUICK)
    for one, other in zip(found, same, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        assert one.losses == other.losses


def test_training_leaves_everything_as_it_was() -> None:
    data = splits(Task.MULTICLASS, 3)
    copies = [array.copy() for array in data]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train(*data, Task.MULTICLASS, 3, QUICK)
    again = train(*data, Task.MULTICLASS, 3, QUICK)
    for array, kept in zip(data, copies, strict=True):
        np.testing.assert_array_equal(array, kept)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)


def test_patience_and_watch() -> None:
    # Labels of val are the opposite of train's: every epoch is worse than the first.
    x = np.array([[1.0], [-1.0]] * 8, np.float32)
    y = np.array([[1], [0]] * 8, np.uint8)
    seen: list[tuple[int, int]] = []
    protocol = replace(QUICK, patience=4)
    heads = train(
        x,
        y,
        x,
        1 - y,
        Task.BINARY,
        2,
        protocol,
        watch=lambda epoch, left: seen.append((epoch, left)),
    )
    assert [head.best_epoch for head in heads] == [1, 1, 1]
    assert [len(head.losses) for head in heads] == [5, 5, 5]
    assert seen == [(1, 3), (2, 3), (3, 3), (4, 3), (5, 0)]
    assert all(head.loss == min(head.losses) == head.losses[0] for head in heads)


def test_a_head_that_diverges_does_not_disturb_the_others() -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 3)
    huge = (np.float32(1e30) * x, y, np.float32(1e30) * x_val, y_val)
    heads = train(*huge, Task.MULTICLASS, 3, replace(QUICK, grid=Grid((1e10, 3e-2))))
    lost = [head for head in heads if head.learning_rate == 1e10]
    assert [(head.best_epoch, head.loss) for head in lost] == [(0, math.inf)] * 3
    assert [len(head.losses) for head in lost] == [QUICK.patience] * 3
    assert all(np.isfinite(head.weight).all() for head in heads)
    assert {head.learning_rate for head in choose(heads)} == {3e-2}
    with pytest.raises(EvaluationError, match="no head has a finite validation loss"):
        choose(lost)


def head(seed: int, rate: float, loss: float, epoch: int = 1) -> TrainedHead:
    nothing = np.zeros((2, 1), np.float32)
    return TrainedHead(seed, rate, 0.0, nothing, nothing[:, 0], epoch, (loss,))


def test_the_point_is_chosen_by_its_mean_over_seeds() -> None:
    # Means 0.5, 0.4 and 0.4: the best single head is of the first, and the tie goes to the second.
    table = {1.0: (0.1, 0.9), 2.0: (0.5, 0.3), 3.0: (0.3, 0.5)}
    heads = [head(s, rate, losses[s]) for s in (0, 1) for rate, losses in table.items()]
    assert choose(heads) == [heads[1], heads[4]]
    worst = [*heads, head(0, 4.0, 0.0), head(1, 4.0, math.nan, epoch=0)]
    assert choose(worst) == [heads[1], heads[4]]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Grid(()), "not all above 0"),
        (lambda: Grid((0.0,)), "not all above 0"),
        (lambda: Grid((math.nan,)), "not all above 0"),
        (lambda: Grid((1.0,), (-1.0,)), "not all 0 or more"),
        (lambda: Grid((1.0,), ()), "not all 0 or more"),
        (lambda: Grid((1.0, 1.0)), "given twice"),
        (lambda: ProbeProtocol(()), "one or more"),
        (lambda: ProbeProtocol((1, 1)), "each once"),
        (lambda: ProbeProtocol((-1,)), "between 0"),
        (lambda: ProbeProtocol(batch=0), "batch 0"),
        (lambda: ProbeProtocol(epochs=0), "epochs 0"),
        (lambda: ProbeProtocol(patience=0), "patience 0"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(made: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made()


X, Y = np.zeros((3, 2), np.float32), np.array([[0], [1], [1]], np.uint8)
TWO = np.array([[0, 1], [1, 0], [1, 1]], np.uint8)
BAD = X.copy()
BAD[1, 1] = np.nan


@pytest.mark.parametrize(
    ("data", "task", "words"),
    [
        ((X[:0], Y[:0], X, Y), Task.BINARY, "train has 0 rows"),
        ((X, Y, X[:0], Y[:0]), Task.BINARY, "val has 0 rows"),
        ((X, Y, X[:, :1], Y), Task.BINARY, "train has width 2, val 1"),
        ((X.astype(np.float64), Y, X, Y), Task.BINARY, "train embeddings are float64"),
        ((X, Y[:2], X, Y), Task.BINARY, "train labels are uint8 of shape (2, 1)"),
        ((X, Y, X, Y + 1), Task.BINARY, "val row 1 has a label outside 0 to 1"),
        ((X, TWO, X, Y), Task.MULTILABEL, "val labels are uint8 of shape (3, 1)"),
        ((X, TWO, X, TWO * 2), Task.MULTILABEL, "val row 0 has a label outside 0 to 1"),
        ((BAD, Y, X, Y), Task.BINARY, "train row 1 is not finite"),
        ((X, Y, BAD, Y), Task.BINARY, "val row 1 is not finite"),
    ],
)
def test_wrong_data_are_refused(data: Splits, task: Task, words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        train(*data, task, 2, QUICK)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

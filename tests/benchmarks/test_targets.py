"""Every row of the measured table is registered, once, and belongs to a module that measures it."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest

from benchmarks.plan import KEEPING, Plan
from benchmarks.targets import BY_NAME, PATHS, QUICK, TARGETS, Bound, Unit
from embedder.errors import UnknownNameError
from embedder.registry import by_name

EXPECTED = {
    "embed-resnet18-28-bare": ("at least", 0.95),
    "embed-resnet18-28-script": ("at least", 1.0),
    "embed-resnet18-224-bare": ("at least", 0.95),
    "embed-resnet18-224-script": ("at least", 1.0),
    "embed-vit-28-bare": ("at least", 0.95),
    "embed-vit-28-script": ("at least", 1.0),
    "embed-vit-224-bare": ("at least", 0.95),
    "embed-vit-224-script": ("at least", 1.0),
    **{
        f"reach-{model}-{size}": ("at least", 1.0)
        for model in ("vgg16", "alexnet", "resnet18", "densenet121", "efficientnet_b4")
        for size in (28, 64, 128)
    },
    "precision-resnet18": ("at least", None),
    "precision-vit": ("at least", None),
    **{
        f"knn-{name}-{width}{rival}": target
        for name in ("organa", "tissue")
        for width in (512, 768, 4096)
        for rival, target in (
            ("", ("at most", 1.25)),
            ("-brute", ("at least", 1.0)),
            ("-tree", ("at least", 1.0)),
        )
    },
    "reading-warm": ("at most", 1.5),
    "reading-cold": ("at most", 1.5),
    "probe": ("at least", 3.0),
    "classify-one-resnet18": ("at most", 1.15),
    "classify-32-resnet18": ("at least", 0.9),
    "classify-one-vit": ("at most", 1.15),
    "classify-32-vit": ("at least", 0.9),
    "start-help": ("at most", 0.5),
    "start-serve": ("at most", 5.0),
    "memory-embed": ("at most", 1.05),
    "memory-knn": ("at most", 1.2),
    "memory-serve": ("at most", 1.2),
    "gpu-embed-resnet18-28-fp32": ("at least", None),
    "gpu-embed-resnet18-28-bf16": ("at least", None),
    "gpu-embed-resnet18-224-fp32": ("at least", None),
    "gpu-embed-resnet18-224-bf16": ("at least", None),
    "gpu-embed-vit-28-fp32": ("at least", None),
    "gpu-embed-vit-28-bf16": ("at least", None),
    "gpu-embed-vit-224-fp32": ("at least", None),
    "gpu-embed-vit-224-bf16": ("at least", None),
    "gpu-reach-vgg16-28": ("at least", None),
    "gpu-reach-resnet18-28": ("at least", None),
    "gpu-knn-product": ("at most", None),
    "gpu-knn": ("at least", None),
}


def test_the_rows_are_those_of_the_issue() -> None:
    assert {row.name: (str(row.bound), row.target) for row in TARGETS} == EXPECTED
    absolute = {row.name for row in TARGETS if row.unit is Unit.SECONDS}
    assert absolute == {"start-help", "start-serve"}
    assert {row.name for row in TARGETS if row.tolerance is None} == absolute


def test_a_row_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate registry name 'probe'"):
        by_name((*TARGETS, replace(BY_NAME["probe"], target=2.0)))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_a_module(path: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{path}").measure)


def test_a_target_judges_what_is_printed() -> None:
    most, least = BY_NAME["knn-organa-512"], BY_NAME["embed-vit-28-bare"]
    assert most.bound is Bound.AT_MOST
    assert [most.meets(figure) for figure in (0.9, 1.2549, 1.2551)] == [True, True, False]
    assert [least.meets(figure) for figure in (0.9449, 0.9451, 1.2)] == [False, True, True]
    assert BY_NAME["precision-vit"].meets(0.1)


def test_a_plan_measures_what_it_is_asked_for() -> None:
    assert Plan(full=True).names() == [row.name for row in TARGETS]
    assert BY_NAME.keys() >= QUICK
    assert Plan().names() == [row.name for row in TARGETS if row.name in QUICK]
    assert sorted(Plan().paths()) == sorted(PATHS)
    keeps = [path in KEEPING for path in Plan().paths()]
    assert keeps == sorted(keeps)
    assert set(PATHS) > KEEPING
    assert Plan(only=frozenset({"reading", "knn-organa-768"})).names() == [
        "knn-organa-768", "reading-warm", "reading-cold",
    ]  # fmt: skip
    assert Plan(only=frozenset({"startup"})).names() == ["start-help"]
    assert Plan(True, only=frozenset({"startup"})).names() == ["start-help", "start-serve"]
    modes = [Plan(full, only=frozenset(only)).mode for full, only in (
        (False, ()), (True, ()), (False, {"startup"}), (True, {"startup"}), (False, {"start-serve"})
    )]  # fmt: skip
    assert modes == ["default", "full", "default", "full", "full"]
    with pytest.raises(UnknownNameError, match="unknown benchmark 'readin'; did you mean reading"):
        Plan(only=frozenset({"readin"}))
    with pytest.raises(UnknownNameError, match=r"unknown benchmark 'nothing'; known: embed, .*gpu"):
        Plan(only=frozenset({"nothing"}))
    with pytest.raises(UnknownNameError, match="did you mean start-help"):
        Plan(only=frozenset({"start-hlp"}))

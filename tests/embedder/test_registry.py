from __future__ import annotations

from dataclasses import dataclass

import pytest

from embedder.errors import UnknownNameError, UsageError
from embedder.registry import by_name, find


@dataclass(frozen=True)
class Animal:
    name: str
    legs: int


ANIMALS = (Animal("spider", 8), Animal("beetle", 6), Animal("horse", 4))


def test_rows_are_found_by_name_in_the_given_order() -> None:
    table = by_name(ANIMALS)
    assert list(table) == ["spider", "beetle", "horse"]
    assert find(table, "beetle", "animal") is ANIMALS[1]


def test_empty() -> None:
    assert by_name(()) == {}
    with pytest.raises(UnknownNameError, match="unknown animal 'cat'"):
        find({}, "cat", "animal")


def test_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate registry name 'horse'"):
        by_name((*ANIMALS, Animal("horse", 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spidre", "unknown animal 'spidre'; did you mean spider?"),
        ("HORSE", "unknown animal 'HORSE'; did you mean horse?"),
        ("zzz", "unknown animal 'zzz'; known: spider, beetle, horse"),
        ("", "unknown animal ''; known: spider, beetle, horse"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find(by_name(ANIMALS), name, "animal")
    assert str(caught.value) == message
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_status == 2


def test_several_near_names_are_all_suggested() -> None:
    table = dict.fromkeys(("vit_s", "vit_b", "vit_l", "resnet"), 0)
    with pytest.raises(UnknownNameError, match="did you mean") as caught:
        find(table, "vit_x", "backbone")
    suggestion = str(caught.value).partition("did you mean ")[2].rstrip("?")
    assert sorted(suggestion.split(" or ")) == ["vit_b", "vit_l", "vit_s"]

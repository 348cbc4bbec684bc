from __future__ import annotations

import logging
import sys

import pytest

from embedder import console
from embedder.errors import CasebookError, UsageError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CasebookError("a\n  b"), 1, "error: a b\n"),
        (UsageError("wrong"), 2, "error: wrong\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; what was finished is kept, "),
        (ZeroDivisionError("oops"), 1, "error: unexpected ZeroDivisionError: oops; please report"),
    ],
)
def test_every_error_ends_as_one_line(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert console.boundary(fail) == status
    errors = capsys.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_a_defect_shows_where_it_happened_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEBOOK_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        console.boundary(lambda: 1 // 0)


def test_warnings_are_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> int:
        logging.getLogger("casebook").warning("mind %s", "this")
        return 0

    assert console.boundary(warn) == 0
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", "warning: mind this\n")


def test_a_boundary_within_a_boundary_survives_a_closed_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert console.boundary(lambda: console.boundary(lambda: 0)) == 0

    def write_to_nobody() -> int:
        raise BrokenPipeError

    assert console.boundary(lambda: console.boundary(write_to_nobody)) == 141
    assert capsys.readouterr().err == ""


def test_lists_repeat_and_take_commas() -> None:
    assert console.words(["a,b", " c "]) == ["a", "b", "c"]
    assert console.words(None) == []
    assert console.numbers(["11,1", "11"], "--k") == [11, 1]
    assert console.sizes(None) is None
    assert console.sizes(["28", "all"]) == ()
    assert console.sizes(["28,64"]) == (28, 64)


def test_an_empty_word_is_refused() -> None:
    for values in ([""], ["a,"], [","]):
        with pytest.raises(UsageError, match="empty value"):
            console.words(values)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "²", "9" * 5000])
def test_a_number_is_from_one_on(value: str) -> None:
    with pytest.raises(UsageError, match="is no number from 1 on"):
        console.numbers([value], "--k")

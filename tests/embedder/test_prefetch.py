from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.prefetch import Prefetch


class Source:
    """Counts to ``last``; remembers how far it was taken, where, and whether it was closed."""

    def __init__(self, last: int = 10**9, error: BaseException | None = None) -> None:
        self.last, self.error = last, error
        self.taken = 0
        self.closed = threading.Event()
        self.thread = ""

    def items(self) -> Iterator[int]:
        self.thread = threading.current_thread().name
        try:
            while self.taken < self.last:
                self.taken += 1
                yield self.taken
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "casebook-reader"]


@given(items=st.lists(st.integers()), depth=st.integers(1, 4))
def test_same_items_in_the_same_order(items: list[int], depth: int) -> None:
    with Prefetch(iter(items), depth) as found:
        assert list(found) == items


def test_items_may_be_none() -> None:
    with Prefetch(iter([None, 0, None]), 2) as found:
        assert list(found) == [None, 0, None]


def test_iterator_runs_in_a_thread_of_its_own() -> None:
    source = Source(3)
    with Prefetch(source.items(), 1) as found:
        assert list(found) == [1, 2, 3]
    assert source.thread == "casebook-reader"


def test_exhausted_iterator_stays_so() -> None:
    with Prefetch(iter([1]), 1) as found:
        assert list(found) == [1]
        with pytest.raises(StopIteration):
            next(found)


@pytest.mark.parametrize("error", [ValueError("bad row"), MemoryError(), KeyboardInterrupt()])
def test_error_comes_at_its_place(error: BaseException) -> None:
    source = Source(3, error)
    with Prefetch(source.items(), 8) as found:
        assert [next(found), next(found), next(found)] == [1, 2, 3]
        with pytest.raises(type(error)) as caught:
            next(found)
    assert caught.value is error
    assert readers() == []


def test_error_before_any_item() -> None:
    with pytest.raises(OSError, match="gone"), Prefetch(Source(0, OSError("gone")).items(), 1) as f:
        next(f)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_lookahead_is_bounded(depth: int) -> None:
    source = Source()
    with Prefetch(source.items(), depth) as found:
        for used in range(1, 4):
            assert next(found) == used
            wait_for(lambda used=used: source.taken == used + depth + 1)
            time.sleep(0.02)
            assert source.taken == used + depth + 1


@pytest.mark.parametrize("used", [0, 1, 5])
def test_leaving_early_stops_the_thread_and_closes_the_iterator(used: int) -> None:
    source = Source()
    with Prefetch(source.items(), 2) as found:
        for _ in range(used):
            next(found)
        time.sleep(0.01)
    assert source.closed.is_set()
    assert readers() == []
    taken = source.taken
    time.sleep(0.15)
    assert source.taken == taken


def test_error_of_the_consumer_stops_the_thread() -> None:
    source = Source()
    with pytest.raises(ZeroDivisionError), Prefetch(source.items(), 2) as found:
        raise ZeroDivisionError(next(found))
    assert source.closed.is_set()
    assert readers() == []


def test_leaving_after_the_end_closes_the_iterator() -> None:
    source = Source(2)
    with Prefetch(source.items(), 5) as found:
        next(found)
    assert source.closed.is_set()


def test_error_that_nobody_waits_for_is_dropped() -> None:
    source = Source(1, ValueError("unseen"))
    with Prefetch(source.items(), 1) as found:
        assert next(found) == 1
    assert source.closed.is_set()
    assert readers() == []

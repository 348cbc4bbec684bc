"""Work that is shared out among threads."""

from __future__ import annotations

import threading

import pytest

from index import threads
from index.threads import each

each_count = pytest.mark.parametrize("count", [1, 2, 3])


@each_count
@pytest.mark.parametrize("parts", [0, 1, 2, 10])
def test_every_part_once(monkeypatch: pytest.MonkeyPatch, count: int, parts: int) -> None:
    monkeypatch.setattr(threads, "COUNT", count)
    done: list[int] = []
    each(done.append, range(parts))
    assert sorted(done) == list(range(parts))


def test_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "COUNT", 3)
    together = threading.Barrier(3)
    each(lambda _: together.wait(10), range(3))


def test_alone_in_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    here = threading.current_thread()
    found: list[threading.Thread] = []
    each(lambda _: found.append(threading.current_thread()), [0])
    monkeypatch.setattr(threads, "COUNT", 1)
    each(lambda _: found.append(threading.current_thread()), [0, 1])
    assert found == [here] * 3


@each_count
def test_the_first_failure_in_order_is_told(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(threads, "COUNT", count)
    late = threading.Event()

    def work(part: int) -> None:
        if part == 1:
            late.wait(0.2 if count > 1 else 0)
            raise ValueError("one")
        if part == 2:
            late.set()
            raise ValueError("two")

    with pytest.raises(ValueError, match="one"):
        each(work, range(4))

from __future__ import annotations

import asyncio
import gc
import math
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batcher import Batcher
from service.errors import OverloadedError, UnavailableError


class Work:
    """Ten times each number; -n fails whatever batch it is in. A batch waits to be let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._entered: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._turns = threading.Semaphore(0)

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self._entered.put(None)
        assert self._turns.acquire(timeout=20)
        for item in items:
            if item < 0:
                raise ValueError(f"bad {item}")
        return [10 * item for item in items]

    async def begun(self) -> None:
        """The worker is in a batch that was not waited for yet."""
        await asyncio.to_thread(self._entered.get, timeout=20)

    def let(self, count: int = 100) -> None:
        self._turns.release(count)


Many = Batcher[int, int]


@contextmanager
def batcher(
    process: Callable[[list[int]], Sequence[int]],
    *,
    batch_limit: int = 8,
    capacity: int = 16,
    **options: Any,
) -> Iterator[Many]:
    made = Batcher("embed", process, batch_limit=batch_limit, capacity=capacity, **options)
    try:
        yield made
    finally:
        made.close(20)


async def submit(made: Many, *items: int) -> list[asyncio.Task[Any]]:
    """A task per item, in their order, each waiting in the queue."""
    tasks = [asyncio.create_task(result(made, item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def result(made: Many, item: int) -> int:
    return (await made.submit(item)).result


async def outcomes(tasks: list[asyncio.Task[Any]]) -> list[object]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*tasks, return_exceptions=True)


def played(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story

    asyncio.run(limited())


def test_a_lone_item_is_worked_on_at_once() -> None:
    seen: list[tuple[int, float]] = []
    work = Work()
    work.let()

    async def story(made: Many) -> None:
        before = time.monotonic()
        done = await made.submit(4)
        assert done.result == 40
        assert 0 <= done.waited < 10
        assert 0 < done.worked < 10
        assert seen == [(1, done.worked)]
        assert made.last_success is not None
        assert before <= made.last_success <= time.monotonic()

    with batcher(work, batch_limit=64, observe=lambda *run: seen.append(run)) as made:
        assert (made.failure, made.last_success, made.depth, made.waiting) == (None, None, 0, 0)
        played(story(made))
    assert work.batches == [[4]]


def test_what_waits_makes_batches_in_order_up_to_the_limit() -> None:
    work = Work()
    sizes: list[int] = []

    async def story(made: Many) -> None:
        first = await submit(made, 1)
        await work.begun()
        rest = await submit(made, 2, 3, 4, 5, 6)
        assert made.waiting == 5
        work.let()
        assert await outcomes(first + rest) == [10, 20, 30, 40, 50, 60]
        assert made.waiting == 0

    with batcher(work, batch_limit=3, observe=lambda size, _: sizes.append(size)) as made:
        played(story(made))
    assert work.batches == [[1], [2, 3, 4], [5, 6]]
    assert sizes == [1, 3, 2]


def test_a_batch_is_of_one_group_and_takes_its_items_from_behind_others() -> None:
    work = Work()

    async def story(made: Many) -> None:
        first = await submit(made, 1)
        await work.begun()
        rest = await submit(made, 2, 3, 4, 5, 7, 6)
        work.let()
        assert await outcomes(first + rest) == [10, 20, 30, 40, 50, 70, 60]

    with batcher(work, batch_limit=3, group=lambda item: item % 2) as made:
        played(story(made))
    assert work.batches == [[1], [2, 4, 6], [3, 5, 7]]


def test_a_rare_group_is_next_however_many_of_another_come() -> None:
    work = Work()

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 3, 2)
        work.let(1)
        await work.begun()
        tasks += await submit(made, 5, 7, 9)
        work.let()
        assert await outcomes(tasks) == [10, 30, 20, 50, 70, 90]

    with batcher(work, group=lambda item: item % 2) as made:
        played(story(made))
    assert work.batches == [[1], [3], [2], [5, 7, 9]]


def test_a_group_that_cannot_be_told_fails_only_its_submitter() -> None:
    work = Work()
    work.let()

    async def story(made: Many) -> None:
        with pytest.raises(ZeroDivisionError):
            await made.submit(0)
        assert await result(made, 5) == 50

    with batcher(work, group=lambda item: 1 // item) as made:
        played(story(made))
    assert work.batches == [[5]]


def test_what_is_cancelled_leaves_the_queue_before_any_work() -> None:
    work = Work()

    async def story(made: Many) -> None:
        first = await submit(made, 1)
        await work.begun()
        rest = await submit(made, 2, 3, 4)
        rest[1].cancel()
        await asyncio.wait([rest[1]])
        assert made.waiting == 2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await made.submit(5)
        assert made.waiting == 2
        work.let()
        assert await outcomes([*first, rest[0], rest[2]]) == [10, 20, 40]

    with batcher(work) as made:
        played(story(made))
    assert work.batches == [[1], [2, 4]]


def test_what_is_cancelled_during_its_batch_hinders_nobody() -> None:
    work = Work()

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 2, 3)
        work.let(1)
        await work.begun()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        work.let()
        one, two, three = await outcomes(tasks)
        assert (one, three) == (10, 30)
        assert isinstance(two, asyncio.CancelledError)

    with batcher(work) as made:
        played(story(made))
    assert work.batches == [[1], [2, 3]]


def test_one_bad_item_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    sizes: list[int] = []

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 2, -3, 4)
        work.let()
        one, two, bad, four = await outcomes(tasks)
        assert (one, two, four) == (10, 20, 40)
        assert isinstance(bad, ValueError)
        assert str(bad) == "bad -3"
        assert bad.__traceback__ is not None
        assert made.failure is None
        assert await result(made, 6) == 60

    with batcher(work, observe=lambda size, _: sizes.append(size)) as made:
        played(story(made))
    assert work.batches == [[1], [2, -3, 4], [2], [-3], [4], [6]]
    assert sizes == [1, 3, 1, 1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "embed: a batch of 3 failed: ValueError('bad -3')"
    ]


def test_what_is_cancelled_while_its_batch_fails_is_not_tried_again() -> None:
    work = Work()

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 2, -3, 4)
        work.let(1)
        await work.begun()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        work.let()
        assert (await outcomes(tasks))[3] == 40

    with batcher(work) as made:
        played(story(made))
    assert work.batches == [[1], [2, -3, 4], [-3], [4]]


def test_an_item_that_fails_alone_does_not_end_the_worker() -> None:
    error = OSError("no")
    answers: list[Any] = [error, [7]]

    def process(items: list[int]) -> list[int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def story(made: Many) -> None:
        with pytest.raises(OSError, match="no") as caught:
            await made.submit(1)
        assert caught.value is error
        assert (made.failure, made.last_success) == (None, None)
        assert await result(made, 1) == 7
        assert made.last_success is not None

    with batcher(process) as made:
        played(story(made))


def test_a_batch_too_large_for_the_memory_is_worked_on_in_single_items() -> None:
    work = Work()

    def process(items: list[int]) -> list[int]:
        results = work(items)
        if len(items) > 1:
            raise MemoryError
        return results

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 2, 3)
        work.let()
        assert await outcomes(tasks) == [10, 20, 30]
        assert made.failure is None

    with batcher(process) as made:
        played(story(made))
    assert work.batches == [[1], [2, 3], [2], [3]]


def test_a_failed_batch_frees_what_it_held_before_its_items_are_tried() -> None:
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    gate = threading.Event()

    class Stack(list[int]):
        pass

    def process(items: list[int]) -> list[int]:
        if items == [1]:
            assert gate.wait(20)
        elif len(items) > 1:
            stack = Stack(items)
            held.append(weakref.ref(stack))
            raise MemoryError
        else:
            alive.append(held[0]() is not None)
        return items

    async def story(made: Many) -> None:
        tasks = await submit(made, 1, 2, 3)
        gate.set()
        assert await outcomes(tasks) == [1, 2, 3]

    with batcher(process, batch_limit=2, group=lambda item: item == 1) as made:
        played(story(made))
    assert alive == [False, False]


def leave(items: list[int]) -> list[int]:
    raise SystemExit(3)


def interrupt(items: list[int]) -> list[int]:
    raise KeyboardInterrupt


def cancel(items: list[int]) -> list[int]:
    raise asyncio.CancelledError


DEADLY = {
    "SystemExit": leave,
    "KeyboardInterrupt": interrupt,
    "CancelledError": cancel,
    "RuntimeError": lambda items: [*items, 1],
    "TypeError": lambda items: None,
}


@pytest.mark.parametrize("kind", [*DEADLY, "too few", "ZeroDivisionError"])
def test_nobody_waits_for_a_worker_that_has_failed(kind: str) -> None:
    work = Work()

    def process(items: list[int]) -> Sequence[int]:
        if work(items) == [10]:
            return [10]
        if kind == "too few":
            return []
        return DEADLY[kind](items) if kind in DEADLY else items

    def observe(size: int, seconds: float) -> None:
        if kind == "ZeroDivisionError" and size > 1:
            raise ZeroDivisionError

    async def story(made: Many) -> None:
        first = await submit(made, 1)
        await work.begun()
        with made.slot():
            hopeful = asyncio.create_task(enter(made))
            doomed = await submit(made, 2, 4, 3)
            work.let()
            assert await outcomes(first) == [10]
            for error in await outcomes([*doomed, hopeful]):
                assert isinstance(error, UnavailableError)
                assert error.__cause__ is made.failure
                name = "RuntimeError" if kind == "too few" else kind
                assert str(error) == f"the embed worker has failed ({name}); restart the service"
        assert made.failure is not None
        assert (made.depth, made.waiting) == (0, 0)
        await refuses(made, "has failed")

    with batcher(process, capacity=1, group=lambda item: item % 2, observe=observe) as made:
        played(story(made))
        assert made.close(20)
    assert work.batches == [[1], [2, 4]]


async def enter(made: Many) -> int:
    async with made.wait_for_slot():
        return made.depth


async def refuses(made: Many, message: str) -> None:
    with pytest.raises(UnavailableError, match=message):
        await made.submit(1)
    with pytest.raises(UnavailableError, match=message):
        await enter(made)
    with pytest.raises(UnavailableError, match=message), made.slot():
        pass
    assert made.depth == 0


def test_closing_answers_what_was_submitted() -> None:
    work = Work()

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 2, 3)
        closing = asyncio.create_task(asyncio.to_thread(made.close, 20))
        while not made._closed:
            await asyncio.sleep(0)
        await refuses(made, "embed is shutting down; try again later")
        work.let()
        assert await outcomes(tasks) == [10, 20, 30]
        assert await closing is True
        assert made.failure is None

    with batcher(work) as made:
        assert "embed-worker" in {thread.name for thread in threading.enumerate()}
        played(story(made))
        assert "embed-worker" not in {thread.name for thread in threading.enumerate()}
        assert made.close() is True
    assert work.batches == [[1], [2, 3]]


def test_closing_does_not_wait_for_ever_for_a_run_that_hangs() -> None:
    work = Work()

    async def story(made: Many) -> None:
        tasks = await submit(made, 1)
        await work.begun()
        tasks += await submit(made, 2)
        with made.slot():
            leaving = asyncio.create_task(enter(made))
            tasks.append(asyncio.create_task(enter(made)))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert await asyncio.to_thread(made.close, 0.01) is False
            assert [type(error) for error in await outcomes(tasks)] == [UnavailableError] * 3

    with batcher(work, capacity=1) as made:
        played(story(made))
        work.let()
    assert work.batches == [[1]]


def test_a_run_that_hangs_does_not_hold_up_the_exit() -> None:
    code = """
import asyncio, threading
from service.batcher import Batcher

async def main():
    hangs = Batcher("embed", lambda items: threading.Event().wait(), batch_limit=1, capacity=1)
    await asyncio.wait_for(hangs.submit(1), 0.05)

try:
    asyncio.run(main())
except TimeoutError:
    print("left")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("left\n", "")


def test_what_is_beyond_the_capacity_is_refused_at_once() -> None:
    work = Work()
    tally = {"answered": 0, "refused": 0}
    refusals: list[tuple[int, int, str]] = []

    async def client(made: Many, item: int) -> None:
        try:
            with made.slot():
                assert await result(made, item) == 10 * item
                tally["answered"] += 1
        except OverloadedError as error:
            refusals.append((error.status, error.retry_after, str(error)))
            tally["refused"] += 1

    async def story(made: Many) -> None:
        clients = [asyncio.create_task(client(made, item)) for item in range(64)]
        await work.begun()
        assert tally == {"answered": 0, "refused": 48}
        assert made.depth == 16
        work.let()
        await outcomes(clients)
        assert made.depth == 0

    with batcher(work, capacity=16) as made:
        played(story(made))
    assert tally == {"answered": 16, "refused": 48}
    assert set(refusals) == {(429, 1, "embed: queue full; try again in 1 s")}


def test_how_long_to_stay_away_follows_from_the_pace() -> None:
    def process(items: list[int]) -> list[int]:
        time.sleep(0.06)
        return items

    def refusal(made: Many, places: int) -> int:
        with ExitStack() as held:
            for _ in range(places):
                held.enter_context(made.slot())
            with pytest.raises(OverloadedError) as caught, made.slot():
                pass
        return caught.value.retry_after

    async def story(made: Many, places: int) -> None:
        done = await made.submit(1)
        seconds = refusal(made, places)
        assert seconds == min(math.ceil(places * done.worked), 60)
        assert seconds >= min(places * 0.06, 60)

    for places in (20, 1000):
        with batcher(process, capacity=places) as made:
            played(story(made, places))


def test_a_place_is_given_back_whatever_happens() -> None:
    with batcher(Work(), capacity=1) as made:
        for _ in range(3):
            with suppress(KeyError), made.slot():
                assert made.depth == 1
                raise KeyError
            assert made.depth == 0


def test_places_are_waited_for_in_order_and_pass_on() -> None:
    order: list[int] = []

    async def hopeful(made: Many, number: int) -> None:
        async with made.wait_for_slot():
            order.append(number)
            assert made.depth == 1

    async def story(made: Many) -> None:
        with made.slot():
            tasks = [asyncio.create_task(hopeful(made, number)) for number in range(5)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            assert order == []
        with pytest.raises(OverloadedError), made.slot():  # a place passes on, it is not free
            pass
        await asyncio.gather(tasks[0], *tasks[2:])
        assert order == [0, 2, 3, 4]
        assert made.depth == 0

    with batcher(Work(), capacity=1) as made:
        played(story(made))


def test_a_place_that_comes_to_who_has_left_passes_on() -> None:
    async def story(made: Many) -> None:
        with made.slot():
            leaving = asyncio.create_task(enter(made))
            staying = asyncio.create_task(enter(made))
            await asyncio.sleep(0)
        leaving.cancel()  # the place is on its way
        assert await staying == 1
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert made.depth == 0

    with batcher(Work(), capacity=1) as made:
        played(story(made))


def test_several_event_loops_share_one_worker() -> None:
    answers: dict[int, list[int]] = {}

    async def story(made: Many, start: int) -> None:
        async def client(item: int) -> int:
            async with made.wait_for_slot():
                return await result(made, item)

        answers[start] = await asyncio.gather(*map(client, range(start, start + 50)))

    with batcher(lambda items: [10 * item for item in items], capacity=5) as made:
        threads = [
            threading.Thread(target=asyncio.run, args=(story(made, start),))
            for start in (0, 50, 100, 150)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert made.depth == 0
    assert sorted(answers) == [0, 50, 100, 150]
    for start, found in answers.items():
        assert found == [10 * item for item in range(start, start + 50)]


def test_an_event_loop_that_is_gone_hinders_no_other() -> None:
    work = Work()
    with batcher(work) as made:
        gone = asyncio.new_event_loop()
        task = gone.create_task(result(made, 1))
        gone.run_until_complete(work.begun())
        gone.close()

        async def story() -> None:
            tasks = await submit(made, 2)
            work.let()
            assert await outcomes(tasks) == [20]
            assert made.failure is None

        played(story())
        assert not task.done()
        task.get_coro().close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert work.batches == [[1], [2]]


@pytest.mark.parametrize("fails", [False, True])
def test_an_idle_worker_holds_no_item(fails: bool) -> None:
    class Image:
        pass

    def process(items: list[Image]) -> list[int]:
        if fails:
            raise ValueError
        return [1] * len(items)

    async def story(made: Batcher[Image, int]) -> list[weakref.ref[Image]]:
        found = []
        for _ in range(3):
            image = Image()
            found.append(weakref.ref(image))
            try:
                await made.submit(image)
            except ValueError:
                assert fails
            del image
        return found

    made = Batcher("embed", process, batch_limit=4, capacity=4)
    gc.disable()
    try:
        references = asyncio.run(story(made))
        until = time.monotonic() + 20
        while any(reference() for reference in references) and time.monotonic() < until:
            time.sleep(0.001)  # the worker may be on its way back to the queue
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()
        made.close(20)


def test_a_batch_of_nothing_is_refused() -> None:
    for batch_limit, capacity in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one item"):
            Batcher("embed", Work(), batch_limit=batch_limit, capacity=capacity)


@given(
    st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from(["fine", "fine", "bad", "cancelled"])),
        max_size=20,
    ),
    st.integers(1, 5),
)
def test_each_answer_is_the_items_own(plan: list[tuple[str, str]], limit: int) -> None:
    gate = threading.Event()
    batches: list[list[int]] = []

    def process(items: list[int]) -> list[str]:
        assert gate.wait(20)
        batches.append(items)
        if any(plan[item][1] == "bad" for item in items if item >= 0):
            raise ValueError(str(items))
        return [f"result {item}" for item in items]

    async def story(made: Batcher[int, str]) -> list[object]:
        tasks = [asyncio.create_task(made.submit(item)) for item in range(-1, len(plan))]
        await asyncio.sleep(0)
        for task, (_, fate) in zip(tasks[1:], plan, strict=True):
            if fate == "cancelled":
                task.cancel()
        await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(20):
            return await asyncio.gather(*tasks, return_exceptions=True)

    made = Batcher(
        "embed", process, batch_limit=limit, capacity=100,
        group=lambda item: plan[item][0] if item >= 0 else "",
    )  # fmt: skip
    try:
        _, *answers = asyncio.run(story(made))
        assert made.failure is None
    finally:
        made.close(20)
    for item, ((_, fate), answer) in enumerate(zip(plan, answers, strict=True)):
        if fate == "fine":
            assert answer.result == f"result {item}"  # type: ignore[attr-defined]
        elif fate == "bad":
            assert repr(answer) == f"ValueError('[{item}]')"
        else:
            assert isinstance(answer, asyncio.CancelledError)
    for batch in batches:
        assert len(batch) <= limit
        assert batch == sorted(batch)
        assert len({plan[item][0] for item in batch if item >= 0}) <= 1
    worked_on = {item for batch in batches for item in batch}
    assert worked_on == {-1} | {item for item, row in enumerate(plan) if row[1] != "cancelled"}

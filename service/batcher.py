"""Dynamic batching: one worker thread that takes what waits, and never waits for more.

A *place*, one of ``capacity``, is reserved before an upload is decoded and held until its answer;
the item is *submitted* in between and waits for the worker.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service.errors import OverloadedError, UnavailableError

log = logging.getLogger("casebook")

T = TypeVar("T")
R = TypeVar("R")
_LONGEST = 60  # seconds that a client is told to stay away


@dataclass(frozen=True)
class Done(Generic[R]):
    """``waited`` and ``worked`` are seconds: in the queue, and that the item's batch took."""

    result: R
    waited: float
    worked: float


class Batcher(Generic[T, R]):
    """Answers items from any thread and event loop, in batches of at most ``batch_limit``.

    ``process`` gives a result for each item of a batch, in order, and runs in the worker thread.
    A batch holds items of one ``group`` only, such as images of one shape. ``observe`` is told the
    size and the seconds of each run of ``process``, failed ones too.

    ``failure`` is what ended the worker, ``last_success`` the ``time.monotonic()`` of the last run
    that gave results; both are None where there is none. Once the worker has failed or was closed,
    every method but ``close`` raises UnavailableError.
    """

    def __init__(
        self,
        name: str,
        process: Callable[[list[T]], Sequence[R]],
        *,
        batch_limit: int,
        capacity: int,
        group: Callable[[T], Hashable] = lambda item: None,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        if batch_limit < 1 or capacity < 1:
            raise ValueError(f"{name}: a batch and a queue hold at least one item")
        self.name = name
        self.failure: BaseException | None = None
        self.last_success: float | None = None
        self._process = process
        self._limit = batch_limit
        self._group = group
        self._observe = observe
        self._places = _Places(capacity)
        self._pace = 0.0  # seconds per item of the last run
        self._queue: deque[_Entry[T, R]] = deque()
        self._running: list[_Entry[T, R]] = []
        self._closed = False
        self._changed = threading.Condition()
        # A daemon, so that a forward pass that hangs cannot hold up the exit.
        self._thread = threading.Thread(target=self._run, name=f"{name}-worker", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Places that are taken."""
        return self._places.taken

    @property
    def waiting(self) -> int:
        """Items in the queue, without those being worked on."""
        return len(self._queue)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a place, taken at once; raises OverloadedError where all are taken."""
        self._refuse_if_stopped()
        if not self._places.take():
            seconds = min(max(math.ceil(self._pace * self.depth), 1), _LONGEST)
            raise OverloadedError(f"{self.name}: queue full; try again in {seconds} s", seconds)
        try:
            yield
        finally:
            self._places.give_back()

    @asynccontextmanager
    async def wait_for_slot(self) -> AsyncIterator[None]:
        """Hold a place, waiting for one: first come, first served.

        Who waits must hold no other place, or all could wait for each other.
        """
        self._refuse_if_stopped()
        if not await self._places.wait():
            raise self._unavailable() from self.failure
        try:
            yield
        finally:
            self._places.give_back()

    async def submit(self, item: T) -> Done[R]:
        """Queue an item, for which the caller holds a place, and wait for its result.

        Cancelling drops the item if it still waits. Raises whatever ``process`` raises for this
        item alone.
        """
        loop = asyncio.get_running_loop()
        entry: _Entry[T, R] = _Entry(item, self._group(item), loop, loop.create_future())
        with self._changed:
            self._refuse_if_stopped()
            self._queue.append(entry)
            self._changed.notify()
        try:
            outcome = await entry.answer
        except BaseException:
            with self._changed, suppress(ValueError):  # unless the worker has it
                self._queue.remove(entry)
            raise
        if isinstance(outcome, Done):
            return outcome
        if outcome is None:
            raise self._unavailable() from self.failure
        raise outcome.pop()  # its traceback leads back here: keep no cycle

    def close(self, timeout: float | None = None) -> bool:
        """Answer what was submitted, then end the worker; True where it ended in time.

        What is unanswered after ``timeout`` seconds fails with UnavailableError. Blocks the caller.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._places.close()
        self._thread.join(timeout)
        self._abandon()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._take():
                self._answer(self._running)
        except BaseException as error:
            with self._changed:
                self.failure = error
            self._places.close()
            self._abandon()
            log.critical("the %s worker has failed", self.name, exc_info=error)

    def _take(self) -> bool:
        """Take the first item that waits and others of its group; False where none will come."""
        with self._changed:
            self._running = []
            while not self._queue and not self._closed:
                self._changed.wait()
            others: deque[_Entry[T, R]] = deque()
            for entry in self._queue:
                fits = len(self._running) < self._limit and entry.group == self._queue[0].group
                (self._running if fits else others).append(entry)
            self._queue = others
            return bool(self._running)

    def _answer(self, batch: list[_Entry[T, R]]) -> None:
        """Answer each entry; those that fail together are tried one by one."""
        entries = [entry for entry in batch if not entry.answer.done()]
        if not entries:
            return
        started = time.perf_counter()
        try:
            results = self._process([entry.item for entry in entries])
        except Exception as error:
            self._observe(len(entries), time.perf_counter() - started)
            if len(entries) == 1:
                _deliver([(entries[0], [error])])
                return
            reason = repr(error)  # a record that is kept must not keep the error
            log.warning("%s: a batch of %d failed: %s", self.name, len(entries), reason)
        else:
            self._succeed(entries, results, started)
            return
        for entry in entries:  # beyond the handler, whose error holds memory of the failed run
            self._answer([entry])

    def _succeed(self, entries: list[_Entry[T, R]], results: Sequence[R], started: float) -> None:
        worked = time.perf_counter() - started
        if len(results) != len(entries):
            raise RuntimeError(f"{len(entries)} items gave {len(results)} results")
        self._pace = worked / len(entries)
        self._observe(len(entries), worked)
        self.last_success = time.monotonic()
        _deliver(
            (entry, Done(result, started - entry.submitted, worked))
            for entry, result in zip(entries, results, strict=True)
        )

    def _abandon(self) -> None:
        with self._changed:
            left = [*self._running, *self._queue]
            self._queue.clear()
        _deliver((entry, None) for entry in left)

    def _refuse_if_stopped(self) -> None:
        if self._closed or self.failure is not None:
            raise self._unavailable() from self.failure

    def _unavailable(self) -> UnavailableError:
        if self.failure is None:
            return UnavailableError(f"{self.name} is shutting down; try again later")
        kind = type(self.failure).__name__
        return UnavailableError(f"the {self.name} worker has failed ({kind}); restart the service")


@dataclass(eq=False)
class _Entry(Generic[T, R]):
    """An item, and who waits for its result, a list of one error, or None: the worker stopped."""

    item: T
    group: Hashable
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Done[R] | list[Exception] | None]
    submitted: float = field(default_factory=time.perf_counter)


def _deliver(outcomes: Iterable[tuple[_Entry[T, R], Done[R] | list[Exception] | None]]) -> None:
    """Hand over answers, waking each event loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], object]]] = {}
    for entry, outcome in outcomes:
        loops.setdefault(entry.loop, []).append((entry.answer, outcome))
    for loop, answers in loops.items():
        with suppress(RuntimeError):  # a closed loop: nobody waits any more
            loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: list[tuple[asyncio.Future[Any], object]]) -> None:
    for future, outcome in answers:
        if not future.done():
            future.set_result(outcome)


class _Places:
    """A number of places; one that is given back goes to who has waited longest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._turns: deque[Future[bool]] = deque()
        self._closed = False
        self._lock = threading.RLock()

    def take(self) -> bool:
        with self._lock:
            free = self.taken < self.capacity
            self.taken += free
            return free

    async def wait(self) -> bool:
        """True once a place is the caller's, False where there is nothing left to wait for."""
        turn: Future[bool] = Future()
        with self._lock:
            if self._closed or self.take():
                return not self._closed
            self._turns.append(turn)
        try:
            return await asyncio.wrap_future(turn)
        except BaseException:
            if not turn.cancel() and turn.result():  # the place came all the same
                self.give_back()
            raise

    def give_back(self) -> None:
        with self._lock:
            while self._turns:
                turn = self._turns.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(True)
                    return
            self.taken -= 1

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for turn in self._turns:
                if turn.set_running_or_notify_cancel():
                    turn.set_result(False)
            self._turns.clear()

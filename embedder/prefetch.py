"""An iterator that a thread of its own runs ahead of whoever consumes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _End:
    """Follows the last item; ``error`` is what the iterator raised, if it did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Prefetch(Generic[T]):
    """The same items in the same order, ``depth`` of them ready ahead of time and one under way.

    What the iterator raises is raised in its place. Leaving the context stops the thread and
    closes the iterator.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._ready: queue.Queue[T | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="casebook-reader", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._take()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if isinstance(self._items, Generator):
            self._items.close()

    def _take(self) -> Iterator[T]:
        while not isinstance(item := self._ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
            self._put(_End())
        except BaseException as error:  # handed over, and raised by the consumer
            self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        """Wait for room; False once nobody wants more."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

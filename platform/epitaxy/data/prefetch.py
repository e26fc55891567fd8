"""Work done ahead by threads: order kept, errors raised in their turn, nothing left behind."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from epitaxy.errors import ConfigError, StreamError

CLOSE_TIMEOUT_S = 30.0
"""How long closing waits for threads that are stuck in a read; they die with the process."""

A = TypeVar("A")
B = TypeVar("B")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to wait for an item.

    Attributes:
        warn_s: Seconds after which a warning names what is waited for, again after twice as many,
            and so on; 0 never warns.
        limit_s: Seconds after which waiting ends in an error; 0 waits for ever.
        source: Says where items come from, in warnings and errors.
    """

    warn_s: float = 0.0
    limit_s: float = 0.0
    source: str = "the stream"


FOREVER = Patience()


def prefetch(
    items: Iterable[A],
    depth: int,
    work: Callable[[A], B] | None = None,
    *,
    threads: int = 1,
    patience: Patience = FOREVER,
) -> Iterator[B]:
    """Yields ``work`` of each item in order, prepared up to ``depth`` ahead by threads.

    One thread at a time takes the next item, so ``items`` needs no lock; ``work`` runs in all of
    them at once. An exception of either is raised here, with its traceback, after everything
    before it was yielded. Closing the generator ends the threads once the items they work on are
    done, and closes ``items``.

    Args:
        items: What to work on.
        depth: Results made ahead, or in the making; 0 works in the calling thread.
        work: By default items are yielded as they are.
        threads: Never more than ``depth`` of them have something to do.
        patience: Does not apply with ``depth`` 0.

    Raises:
        ConfigError: If ``depth`` is negative or there is no thread.
        StreamError: If an item takes longer than ``patience.limit_s``.
    """
    if depth < 0 or threads < 1:
        raise ConfigError(
            f"prefetch depth must be at least 0 and its threads at least 1, got {depth}, {threads}"
        )
    line = _Line(iter(items), work or _same, depth)
    if depth == 0:
        yield from line.alone()
        return
    line.start(min(threads, depth))
    try:
        yield from line.results(patience)
    finally:
        line.stop()


def _same(item: Any) -> Any:
    return item


_END = object()


@dataclass
class _Line(Generic[A, B]):
    """Items in work. A promise is queued when its item is taken, so results come in order."""

    items: Iterator[A]
    work: Callable[[A], B]
    depth: int
    promises: queue.SimpleQueue[Future[Any]] = field(default_factory=queue.SimpleQueue)
    taking: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    crew: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room = threading.Semaphore(self.depth)

    def alone(self) -> Iterator[B]:
        """Yields the results without any thread."""
        try:
            for item in self.items:
                yield self.work(item)
        finally:
            _close(self.items)

    def start(self, threads: int) -> None:
        """Sets the threads to work."""
        for _ in range(threads):
            thread = threading.Thread(target=self._toil, name="prefetch", daemon=True)
            self.crew.append(thread)
            thread.start()

    def results(self, patience: Patience) -> Iterator[B]:
        """Yields the results; one taken makes room for another."""
        began = time.monotonic()
        while True:
            promise = _wait(self.promises.get, began, patience)
            result = _wait(partial(_settled, promise), began, patience).result()
            if result is _END:
                return
            self.room.release()
            yield result
            began = time.monotonic()

    def stop(self) -> None:
        """Ends the threads and closes the items."""
        self.done.set()
        for _ in self.crew:
            self.room.release()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in self.crew:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self.crew):
            logger.warning(
                "a prefetch thread is still reading after %g s; it is left behind, and ends with "
                "this process",
                CLOSE_TIMEOUT_S,
            )
            return
        _close(self.items)

    def _toil(self) -> None:
        while self.room.acquire() and not self.done.is_set():
            promise: Future[Any] = Future()
            taken = self._take(promise)
            if not taken:
                return
            try:
                promise.set_result(self.work(taken[0]))
            except BaseException as error:  # whatever it is, the consumer must see it
                promise.set_exception(error)

    def _take(self, promise: Future[Any]) -> tuple[A] | None:
        """Returns the next item, or ``None`` when there is no more to take."""
        with self.taking:
            if self.done.is_set():
                return None
            self.promises.put(promise)
            try:
                return (next(self.items),)
            except StopIteration:
                promise.set_result(_END)
            except BaseException as error:
                promise.set_exception(error)
            self.done.set()
            return None


def _settled(promise: Future[Any], timeout: float | None) -> Future[Any]:
    """Returns ``promise`` once it holds a result or an error."""
    if not wait([promise], timeout).done:
        raise queue.Empty
    return promise


def _wait(get: Callable[..., Any], began: float, patience: Patience) -> Any:
    """Returns what ``get(timeout=…)`` gives, warning and giving up as ``patience`` says."""
    while True:
        waited = time.monotonic() - began
        if patience.limit_s and waited >= patience.limit_s:
            raise StreamError(
                f"nothing came from {patience.source} for {patience.limit_s:g} s "
                "(compute.stall_timeout); look at that storage and at the cluster's nodes, then "
                "start the run again to resume it"
            )
        try:
            return get(timeout=_pause(waited, patience))
        except queue.Empty:
            waited = time.monotonic() - began
            if patience.warn_s and waited >= patience.warn_s * 0.999:
                logger.warning("waiting for %s since %.3g s", patience.source, waited)


def _pause(waited: float, patience: Patience) -> float | None:
    """Returns the seconds until something is due: a warning at 1, 2, 4, … times ``warn_s``."""
    pauses = []
    if patience.limit_s:
        pauses.append(patience.limit_s - waited)
    if patience.warn_s:
        due = patience.warn_s
        while due <= waited:
            due *= 2
        pauses.append(due - waited)
    return min(pauses, default=None)


def _close(items: Iterator[Any]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()

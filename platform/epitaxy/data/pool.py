"""Work on batches in several processes, results in order, nothing lost and nobody left behind."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from epitaxy.errors import SourceError

In = TypeVar("In")
Out = TypeVar("Out")

logger = logging.getLogger(__name__)

_WARM_UP = 4
"""Batches done here before processes are started: small sources are not worth the start."""
_AHEAD = 3
"""Batches in flight for each process: bounds memory and keeps everyone busy."""
_PATIENCE = 900.0
"""Seconds after which a batch is given up: something in it makes a parser run forever."""

_function: Callable[[Any], Any] | None = None


def ordered_map(
    function: Callable[[In], Out], batches: Iterable[In], workers: int
) -> Iterator[tuple[In, Out]]:
    """Yields every batch with what ``function`` makes of it, in the order of the batches.

    Args:
        function: Plain data that can be sent to other processes.
        batches: Read in this process, a few ahead.
        workers: Processes; 1 works here.

    Raises:
        SourceError: If a process dies or a batch takes forever.
    """
    stream = iter(batches)
    for batch in islice(stream, _WARM_UP) if workers > 1 else stream:
        yield batch, function(batch)
    first = next(stream, None)
    if first is None:
        return
    executor = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(function,)
    )
    try:
        yield from _in_order(executor, first, stream, workers * _AHEAD)
    finally:
        executor.shutdown(cancel_futures=True)


def _in_order(
    executor: ProcessPoolExecutor, first: In, stream: Iterator[In], ahead: int
) -> Iterator[tuple[In, Any]]:
    pending: deque[tuple[In, Future[Any]]] = deque()
    try:
        pending.append((first, executor.submit(_work, first)))
        while pending:
            while len(pending) < ahead and (batch := next(stream, None)) is not None:
                pending.append((batch, executor.submit(_work, batch)))
            batch, future = pending.popleft()
            yield batch, future.result(_PATIENCE)
    except BrokenProcessPool as error:
        raise SourceError(
            "a reader process died: out of memory, killed, or started from a script without "
            "`if __name__ == '__main__':`; workers=1 reads in this process"
        ) from error
    except TimeoutError as error:
        for process in executor._processes.values():
            process.kill()
        raise SourceError(
            f"reading a batch took more than {_PATIENCE:.0f} s, from {batch!s:.200}; workers=1 "
            "shows where it hangs"
        ) from error


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the parent


def _work(batch: Any) -> Any:
    if _function is None:
        raise RuntimeError("a worker was not initialised")
    return _function(batch)

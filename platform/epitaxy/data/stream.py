"""Shares of a plan as a stream of encoded records: read directly, or shipped by Ray Data.

Both routes give the same bytes. Ray Data carries no correctness: every row says which
(epoch, step, micro-batch) it is, and one that does not come next is an error.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from epitaxy.data.codec import pack, unpack
from epitaxy.data.plan import Cursor, Plan
from epitaxy.errors import ConfigError, StreamError

if TYPE_CHECKING:
    from epitaxy.data.mixture import Data

WINDOW_BYTES = 8 * 2**20
"""Records read at once, and one read task's output: cheap per share, and little memory."""
WINDOWS_PER_EXECUTION = 256
"""2 GiB of shares. Planning is linear in the read tasks; the next execution starts in 0.3 s."""
LOOK_AHEAD_BYTES = 8 * WINDOW_BYTES
"""Object store that one rank's execution may fill; without a limit each would take half of it."""
CONCURRENT_TASKS = 2
"""Read tasks of one rank at a time: they outrun any training step, and ranks share the CPUs."""
PROBE_TIMEOUT_S = 60.0
"""How long a task of one CPU may wait for its turn before the stream gives up."""

CHATTY = {
    "ray.data._internal.execution.streaming_executor": logging.WARNING,  # "execution finished"
    "ray.data._internal.progress": logging.ERROR,  # "progress bars disabled", as asked below
}
"""Loggers of Ray Data that would write a line per execution, rank and validation."""

T = TypeVar("T")
Row = tuple[int, int, int, Any]
COLUMNS = ("epoch", "step", "micro_batch", "records")
"""A row of the stream: which micro-batch of which step, and its records packed into one value."""


@dataclass(frozen=True)
class Share:
    """What one rank computes in one step.

    Attributes:
        cursor: The step.
        micro_batches: Encoded records of each micro-batch; a micro-batch may be empty.
    """

    cursor: Cursor
    micro_batches: tuple[list[bytes], ...]


@dataclass(frozen=True)
class _Seat:
    """Whose shares a stream carries."""

    rank: int
    world: int
    micro_batches: int


def direct_shares(
    plan: Plan,
    dataset: Data,
    *,
    rank: int,
    world: int,
    micro_batches: int,
    cursor: Cursor,
    epochs: int,
) -> Iterator[Share]:
    """Yields this rank's shares from ``cursor`` to the end of epoch ``epochs - 1``, in order.

    Raises:
        PlanError: If ``cursor`` does not belong to the plan.
        ShardError: If a shard is damaged.
    """
    seat = _Seat(rank, world, micro_batches)
    for start, count in _windows(plan, cursor, epochs, world):
        yield from _read_window(plan, dataset, seat, start, count)


def ray_shares(
    plan: Plan,
    dataset: Data,
    *,
    rank: int,
    world: int,
    micro_batches: int,
    cursor: Cursor,
    epochs: int,
) -> Iterator[Share]:
    """Yields what ``direct_shares`` yields, read by Ray tasks anywhere in the cluster.

    Works in a driver and in a Ray Train worker. Closing the generator stops the reading.

    Raises:
        StreamError: If Ray is not running, has no CPU left for read tasks, fails to read, or
            delivers anything but the next share.
        PlanError: If ``cursor`` does not belong to the plan.
    """
    import ray

    _require_free_cpu(world)
    seat = _Seat(rank, world, micro_batches)
    source = ray.put((plan, dataset))
    windows = _windows(plan, cursor, epochs, world)
    while tasks := list(islice(windows, WINDOWS_PER_EXECUTION)):
        steps = (step for start, count in tasks for step in _steps(plan, start, count))
        rows = _ray_rows([partial(_read_task, source, seat, *task) for task in tasks])
        try:
            yield from assemble_shares(rows, steps, micro_batches)
        finally:
            rows.close()


def assemble_shares(
    rows: Iterable[Row], steps: Iterable[Cursor], micro_batches: int
) -> Iterator[Share]:
    """Yields the shares that ``rows`` hold, checking that they are those of ``steps``, in order.

    Raises:
        StreamError: If a row is missing, repeated, out of order or left over.
    """
    source = iter(rows)
    for step in steps:
        payloads = []
        for micro_batch in range(micro_batches):
            wanted = (step.epoch, step.step, micro_batch)
            row = next(source, None)
            if row is None or tuple(row[:3]) != wanted:
                found = "the end" if row is None else f"(epoch, step, micro-batch) {row[:3]}"
                raise StreamError(
                    f"the stream delivered {found} where {wanted} comes next; no record was lost, "
                    "because the step was not run: start the run again to resume it"
                )
            payloads.append([bytes(blob) for blob in unpack(row[3])])
        yield Share(step, tuple(payloads))
    extra = next(source, None)
    if extra is not None:
        raise StreamError(f"the stream goes on with {extra[:3]} after its last step")


def prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yields ``items`` in order, prepared up to ``depth`` ahead by a thread; 0 uses no thread.

    An exception in ``items`` is raised here, with its traceback. Closing the generator ends the
    thread once the item it works on is done, and closes ``items``.

    Raises:
        ConfigError: If ``depth`` is negative.
    """
    if depth < 0:
        raise ConfigError(f"prefetch depth must be at least 0, got {depth}")
    if depth == 0:
        yield from items
        return
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    free, stop = threading.Semaphore(depth), threading.Event()
    arguments = (iter(items), ready, free, stop)
    thread = threading.Thread(target=_produce, args=arguments, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            free.release()
            yield value
    finally:
        stop.set()
        free.release()
        thread.join()


def _produce(
    items: Iterator[Any],
    ready: queue.SimpleQueue[tuple[str, Any]],
    free: threading.Semaphore,
    stop: threading.Event,
) -> None:
    try:
        while free.acquire() and not stop.is_set():
            ready.put(("item", next(items)))
    except StopIteration:
        ready.put(("end", None))
    except BaseException as error:  # whatever it is, the consumer must see it
        ready.put(("error", error))
    finally:
        if isinstance(items, Iterator) and hasattr(items, "close"):
            items.close()


def _require_free_cpu(world: int) -> None:
    import ray

    if not ray.is_initialized():
        raise StreamError("no Ray is running; call ray.init() first, or set compute.stream=direct")
    remedy = (
        "give the cluster more CPUs (ray.init(num_cpus=…), more nodes), lower "
        "compute.cpus_per_worker, or set compute.stream=direct"
    )
    total = ray.cluster_resources().get("CPU", 0.0)
    own = 0.0
    with contextlib.suppress(AssertionError):  # Ray's answer to a driver, which holds no CPU
        own = ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)
    if total - own * world < 1:
        raise StreamError(
            f"Ray Data needs a free CPU to read, but {world} workers with {own:g} CPUs each take "
            f"all {total:g} of the cluster; {remedy}"
        )
    probe = ray.remote(_nothing).options(num_cpus=1, scheduling_strategy="SPREAD").remote()
    if not ray.wait([probe], timeout=PROBE_TIMEOUT_S)[0]:
        ray.cancel(probe)
        raise StreamError(
            f"Ray Data needs a free CPU to read, and none of the cluster's {total:g} came free "
            f"within {PROBE_TIMEOUT_S:g} s; {remedy}"
        )


def _nothing() -> None:
    """Runs as soon as the cluster has a free CPU."""


def _windows(plan: Plan, cursor: Cursor, epochs: int, world: int) -> Iterator[tuple[Cursor, int]]:
    """Yields (first step, number of steps) of what is read at once; small at first."""
    # A record is some 200 bytes and, per atom, a position, a force and a number: 37 bytes or more.
    epoch_bytes = 256 * plan.num_records + 48 * plan.num_atoms
    share_bytes = epoch_bytes / max(plan.num_steps(0), 1) / world
    largest = max(1, int(WINDOW_BYTES / max(share_bytes, 64.0)))
    size, start, count = 1, cursor, 0
    for step in plan.steps_from(cursor, epochs):
        start = step if count == 0 else start
        count += 1
        if count == size:
            yield start, count
            size, count = min(2 * size, largest), 0
    if count:
        yield start, count


def _steps(plan: Plan, start: Cursor, count: int) -> Iterator[Cursor]:
    return islice(plan.steps_from(start, sys.maxsize), count)


def _read_window(plan: Plan, dataset: Data, seat: _Seat, start: Cursor, count: int) -> list[Share]:
    dealt = [
        (step, plan.share(step.epoch, step.step, seat.rank, seat.world, seat.micro_batches))
        for step in _steps(plan, start, count)
    ]
    # One read in storage order: a compressed block is decoded once per window, not once per share.
    wanted = np.unique(np.concatenate([rows for _, parts in dealt for rows in parts]))
    blobs = dict(zip(wanted.tolist(), dataset.read(wanted), strict=True))
    return [
        Share(step, tuple([blobs[row] for row in rows.tolist()] for rows in parts))
        for step, parts in dealt
    ]


@lru_cache(maxsize=2)
def _load(reference: Any) -> tuple[Plan, Data]:
    """Plan and data set in a read task's process, which serves many tasks."""
    import ray

    loaded: tuple[Plan, Data] = ray.get(reference)
    return loaded


def _read_task(reference: Any, seat: _Seat, start: Cursor, count: int) -> Iterator[Any]:
    """Yields one Arrow table with a row per micro-batch of ``count`` steps."""
    import pyarrow

    shares = _read_window(*_load(reference), seat, start, count)
    rows = [
        (share.cursor.epoch, share.cursor.step, index, pack(blobs))
        for share in shares
        for index, blobs in enumerate(share.micro_batches)
    ]
    types = (pyarrow.int64(), pyarrow.int64(), pyarrow.int64(), pyarrow.large_binary())
    columns = [pyarrow.array(*pair) for pair in zip(zip(*rows, strict=True), types, strict=True)]
    yield pyarrow.table(columns, names=COLUMNS)


@cache
def _plan_source() -> Any:
    """Returns the ``PlanSource`` class; made on demand, since direct reading needs no Ray."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class PlanSource(Datasource):
        """Shares of a plan as a Ray Data source; read tasks in the order of the plan."""

        def __init__(self, tasks: list[Any]) -> None:
            super().__init__()
            self._tasks = tasks

        def estimate_inmemory_data_size(self) -> int:
            """Returns an upper estimate in bytes."""
            return WINDOW_BYTES * len(self._tasks)

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[Any]:
            """Returns the read tasks; how many there are is settled by the plan."""
            del parallelism, data_context
            metadata = BlockMetadata(
                num_rows=None, size_bytes=WINDOW_BYTES, input_files=None, exec_stats=None
            )
            return [ReadTask(task, metadata, None, per_task_row_limit) for task in self._tasks]

    return PlanSource


def _ray_rows(tasks: list[Any]) -> Generator[Row, None, None]:
    from ray.data import ExecutionResources, read_datasource
    from ray.exceptions import RayError

    for name, level in CHATTY.items():
        logging.getLogger(name).setLevel(level)
    data = read_datasource(
        _plan_source()(tasks), override_num_blocks=len(tasks), concurrency=CONCURRENT_TASKS
    )
    options = data.context.execution_options
    options.preserve_order = True
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=LOOK_AHEAD_BYTES)
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    tables = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for table in tables:
            columns = [table.column(name).to_pylist() for name in COLUMNS[:3]]
            records = (value.as_buffer() for value in table.column(COLUMNS[3]))
            yield from zip(*columns, records, strict=True)
    except RayError as error:
        cause = getattr(error, "cause", error)  # without the traceback, which stays in the chain
        raise StreamError(f"Ray Data failed to read the shares: {cause}") from error
    finally:
        tables.close()

"""The stream's route through Ray Data: read tasks anywhere in the cluster, one row per part.

Ray Data is told to keep the order and how much of the object store it may fill. What it delivers
is checked by whoever consumes it (``stream.check_shares``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from epitaxy.data.codec import pack, unpack
from epitaxy.data.plan import Cursor, Plan
from epitaxy.data.stream import (
    WINDOW_BYTES,
    Dealt,
    Part,
    Seat,
    deal,
    read,
    record_bytes,
    share_bytes,
    windows,
)
from epitaxy.errors import StreamError

if TYPE_CHECKING:
    from epitaxy.data.mixture import Data

WINDOWS_PER_EXECUTION = 64
"""Half a gigabyte of shares, dealt beforehand; the next execution starts in about a second."""
LOOK_AHEAD_WINDOWS = 8
"""Windows of object store that one rank may fill; without a limit each would take half of it."""
STORE_FRACTION = 0.5
"""Of the object store for all ranks' look-ahead; the rest is for what is being read and copied."""
CONCURRENT_TASKS = 2
"""Read tasks of one rank at a time: they outrun any training step, and ranks share the CPUs."""
PROBE_TIMEOUT_S = 60.0
"""How long a task of one CPU may wait for its turn before the stream gives up."""

CHATTY = {
    "ray.data._internal.execution.streaming_executor": logging.WARNING,  # "execution finished"
    "ray.data._internal.progress": logging.ERROR,  # "progress bars disabled", as asked below
}
"""Loggers of Ray Data that would write a line per execution, rank and validation."""

COLUMNS = ("epoch", "step", "micro_batch", "records")
"""A row of the stream: which micro-batch of which step, and its records packed into one value."""


@dataclass(frozen=True)
class _Budget:
    """Bytes of object store: of one window, and of one rank's execution as a whole."""

    window: int
    look_ahead: int


def ray_parts(
    plan: Plan, data: Data, seat: Seat, cursor: Cursor, epochs: int
) -> Generator[Part, None, None]:
    """Yields what ``direct_parts`` yields, read by Ray tasks. Closing it stops the reading.

    Raises:
        StreamError: If Ray is not running, has no CPU or no object store for read tasks, or fails
            to read.
    """
    import ray

    _require_free_cpu(seat.world)
    source = ray.put(data)
    budget = _budget(plan, data, seat.world)
    steps = int(budget.window / share_bytes(plan, data, seat.world))
    ahead = windows(plan, cursor, epochs, steps)
    while chunk := list(islice(ahead, WINDOWS_PER_EXECUTION)):
        # Rows travel, not the plan: one of ten million records would fill a small store.
        tasks = [partial(_read_task, source, deal(plan, seat, window)) for window in chunk]
        parts = _execute(tasks, budget)
        try:
            yield from parts
        finally:
            parts.close()


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


def _budget(plan: Plan, data: Data, world: int) -> _Budget:
    """Returns how much of the cluster's object store one rank may fill.

    Raises:
        StreamError: If the store cannot hold the largest share that is being read while another
            waits and a third is computed, for every rank.
    """
    store = _smallest_store()
    look_ahead = min(STORE_FRACTION * store / world, LOOK_AHEAD_WINDOWS * WINDOW_BYTES)
    largest = largest_share_bytes(plan, data, world)
    if largest * (CONCURRENT_TASKS + 2) > store / world:
        needed = largest * (CONCURRENT_TASKS + 2) * world
        raise StreamError(
            f"Ray's object store of {store / 1e6:.0f} MB is too small: a worker's share of a step "
            f"takes up to {largest / 1e6:.1f} MB, and {world} workers with {CONCURRENT_TASKS} read "
            f"tasks each need {needed / 1e6:.0f} MB. Give Ray more (ray start "
            "--object-store-memory=BYTES, or ray.init(object_store_memory=…)), make steps smaller "
            "(batch.graphs), or set compute.stream=direct"
        )
    return _Budget(int(look_ahead / LOOK_AHEAD_WINDOWS), int(look_ahead))


def _smallest_store() -> float:
    """Returns the bytes of the smallest object store that a node of the cluster has."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return float(min(node.get("object_store_memory", np.inf) for node in nodes))


def largest_share_bytes(plan: Plan, data: Data, world: int) -> float:
    """Returns about how many bytes a share may take in any epoch.

    The largest records in one step, dealt to the ranks: at most the mean and one record more.
    """
    per_record, per_atom = record_bytes(data)
    atoms = data.num_atoms[plan.rows]
    count = min(len(atoms), -(-plan.num_records // max(plan.num_steps(0), 1)))
    largest = np.partition(atoms, len(atoms) - count)[len(atoms) - count :]
    step = per_record * count + per_atom * int(largest.sum())
    return step / world + (world > 1) * (per_record + per_atom * int(largest.max(initial=0)))


@lru_cache(maxsize=2)
def _load(reference: Any) -> Data:
    """The data set in a read task's process, which serves many tasks."""
    import ray

    data: Data = ray.get(reference)
    return data


def _read_task(reference: Any, dealt: list[Dealt]) -> Iterator[Any]:
    """Yields one Arrow table with a row per part."""
    import pyarrow

    parts = read(_load(reference), dealt)
    rows = [(epoch, step, index, pack(blobs)) for epoch, step, index, blobs in parts]
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

        def __init__(self, tasks: list[Any], window: int) -> None:
            super().__init__()
            self._tasks, self._window = tasks, window

        def estimate_inmemory_data_size(self) -> int:
            """Returns an upper estimate in bytes."""
            return self._window * len(self._tasks)

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[Any]:
            """Returns the read tasks; how many there are is settled by the plan."""
            del parallelism, data_context
            metadata = BlockMetadata(
                num_rows=None, size_bytes=self._window, input_files=None, exec_stats=None
            )
            return [ReadTask(task, metadata, None, per_task_row_limit) for task in self._tasks]

    return PlanSource


def _execute(tasks: list[Any], budget: _Budget) -> Generator[Part, None, None]:
    """Yields the parts that read tasks deliver, in the order of the tasks."""
    from ray.data import ExecutionResources, read_datasource
    from ray.exceptions import RayError

    for name, level in CHATTY.items():
        logging.getLogger(name).setLevel(level)
    data = read_datasource(
        _plan_source()(tasks, budget.window),
        override_num_blocks=len(tasks),
        concurrency=min(CONCURRENT_TASKS, len(tasks)),
    )
    options = data.context.execution_options
    options.preserve_order = True
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=budget.look_ahead)
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    tables = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for table in tables:
            columns = [table.column(name).to_pylist() for name in COLUMNS[:3]]
            payloads = (unpack(value.as_buffer()) for value in table.column(COLUMNS[3]))
            for *place, views in zip(*columns, payloads, strict=True):
                yield (*place, [bytes(view) for view in views])
    except RayError as error:
        cause = getattr(error, "cause", error)  # without the traceback, which stays in the chain
        raise StreamError(f"Ray Data failed to read the shares: {cause}") from error
    finally:
        tables.close()

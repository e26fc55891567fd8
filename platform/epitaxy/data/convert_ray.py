"""Parsing on a Ray cluster: one task walks the source, many parse, Ray Data keeps the order.

The task that walks runs on this machine, where the files are; what it cuts off streams to tasks
anywhere. Ray Data starts a task whose process died again; a batch that ends its third process is
an error that says where the batch stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from epitaxy.data.intake import Place, place_text
from epitaxy.data.parse import Item, Outcome
from epitaxy.errors import EpitaxyError, SourceError

BLOCK_BYTES = 1 << 20
"""Raw records that one task parses, about."""
STORE_BYTES = 64 * BLOCK_BYTES
"""Object store that an import may fill: bounds memory and keeps every task busy."""
ATTEMPTS = 3
"""Processes that a batch may end before it is given up."""
PROBE_TIMEOUT_S = 60.0
"""How long a task of one CPU may wait for its turn before the import gives up."""

_WALK_CPUS = 0.5
"""Other than that of parsing, or Ray Data would do both in one task."""

Batch = list[tuple[Place, Item]]


def ray_map(
    work: Callable[[Batch], list[Outcome]],
    batches: Callable[[], Iterable[Batch]],
    workers: int,
) -> Generator[tuple[list[tuple[Place, None]], list[Outcome]], None, None]:
    """Yields the places of every batch with what ``work`` makes of it, in order.

    Args:
        work: Plain data that can be sent to other processes.
        batches: Gives the batches, in another process of this machine.
        workers: Tasks that parse at a time.

    Raises:
        SourceError: If Ray is not running or has no free CPU, or a batch ends its process again
            and again.
        EpitaxyError: Whatever reading the source raises.
    """
    import ray

    _require_free_cpu()
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    walked = ray.data.range(1, override_num_blocks=1).map_batches(
        _Walk(batches),
        batch_size=None,
        batch_format="pandas",
        num_cpus=_WALK_CPUS,
        label_selector=here,
    )
    parsed = walked.map_batches(_Parse(work), batch_size=None, batch_format="pandas", num_cpus=1)
    _configure(parsed, workers)
    frames = iter(parsed.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=1))
    try:
        for frame in frames:
            for places, outcomes in zip(frame["places"], frame["outcomes"], strict=True):
                if isinstance(outcomes, EpitaxyError):
                    raise outcomes
                yield [(place, None) for place in places], outcomes
    except ray.exceptions.RayError as error:
        raise SourceError(
            f"Ray failed to read the source: {getattr(error, 'cause', error)}; compute=local reads "
            "in this process"
        ) from error
    finally:
        frames.close()


@dataclass(frozen=True)
class _Walk:
    """Yields a row for every batch, and one for the error that ends the walk."""

    batches: Callable[[], Iterable[Batch]]

    def __call__(self, _: Any) -> Iterator[Any]:
        import pandas

        try:
            for batch in self.batches():
                yield pandas.DataFrame({"batch": [batch]})
        except EpitaxyError as error:
            yield pandas.DataFrame({"batch": [error]})


@dataclass(frozen=True)
class _Parse:
    """Parses the batches of a block."""

    work: Callable[[Batch], list[Outcome]]

    def __call__(self, frame: Any) -> Any:
        import pandas

        rows = [self._parse(batch) for batch in frame["batch"]]
        places, outcomes = zip(*rows, strict=True)
        return pandas.DataFrame({"places": list(places), "outcomes": list(outcomes)})

    def _parse(self, batch: Batch | EpitaxyError) -> tuple[list[Place], Any]:
        if isinstance(batch, EpitaxyError):
            return [], batch
        places = [place for place, _ in batch]
        if _attempt() >= ATTEMPTS:
            return places, SourceError(
                f"the process that parsed {place_text(places[0])} and what follows died "
                f"{ATTEMPTS} times: out of memory, or a crash in a library. Give the tasks more "
                "memory; compute=local workers=1 shows where it happens"
            )
        return places, self.work(batch)


def _attempt() -> int:
    """Returns how often this task was tried before."""
    import ray

    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())


def _configure(data: Any, workers: int) -> None:
    from ray.data import ExecutionResources

    context = data.context
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        cpu=workers + 2 * _WALK_CPUS, object_store_memory=STORE_BYTES
    )
    for name in ("execution.streaming_executor", "progress", "util"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.ERROR)


def _require_free_cpu() -> None:
    import ray

    if not ray.is_initialized():
        raise SourceError("no Ray is running; call ray.init() first, or import with compute=local")
    total = ray.cluster_resources().get("CPU", 0.0)
    remedy = "give it more CPUs (ray.init(num_cpus=…), more nodes), or import with compute=local"
    if total < 2:
        raise SourceError(
            f"an import on Ray needs two CPUs, one to walk the source and one to parse; the "
            f"cluster has {total:g}: {remedy}"
        )
    probe = ray.remote(_nothing).options(num_cpus=2).remote()
    if not ray.wait([probe], timeout=PROBE_TIMEOUT_S)[0]:
        ray.cancel(probe)
        raise SourceError(
            f"an import on Ray needs two free CPUs on one node, and none came free within "
            f"{PROBE_TIMEOUT_S:g} s of the cluster's {total:g}: {remedy}"
        )


def _nothing() -> None:
    """Runs as soon as the cluster has two free CPUs."""

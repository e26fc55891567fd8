"""Flat memory over many epochs, and an object store much smaller than the data set."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.plan import Plan
from epitaxy.data.prefetch import prefetch
from epitaxy.data.stream import Route, Share, Stream
from epitaxy.graph.record import Label

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(1800),
    # Ray Data leaves its own log file open when Ray is shut down.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STORE_BYTES = 100 * 10**6


def plan_of(dataset: Dataset, graphs: int) -> Plan:
    costs = {"edges": dataset.num_atoms * 12, "atoms": dataset.num_atoms}
    keys = dataset.id_names.keys()
    return Plan(keys, costs, graphs=graphs, data_digest=dataset.data_digest)


def size_of(share: Share) -> int:
    return sum(len(blob) for part in share.micro_batches for blob in part)


def tell(line: str) -> None:
    """Says what was measured; shown by ``pytest -s``."""
    sys.stdout.write(line + "\n")


def memory_of_all() -> int:
    """Proportional set size of this process and of everything that it started, bytes.

    Without shared memory: the object store's pages are touched one by one, up to its fixed size.
    """
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        sizes = {name: int(size.split()[0]) for name, size in (n.split(":") for n in lines[1:])}
        total += 1024 * (sizes["Pss"] - sizes["Pss_Shmem"])
    return total


@pytest.fixture
def small_store() -> Any:
    import ray

    ray.shutdown()
    yield ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
    )
    ray.shutdown()


def spilled_bytes() -> int:
    """What the nodes' own counters say they ever wrote to disk."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    address = ray.get_runtime_context().gcs_address
    reply = get_memory_info_reply(get_state_from_address(address))
    return int(reply.store_stats.spilled_bytes_total)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_store_streams_ten_times_its_size_without_spilling(
    crystals: Any, tmp_path: Path, small_store: Any, ranks: int
) -> None:
    rng = np.random.default_rng(0)
    fingerprint = rng.normal(size=32768)  # a quarter of a megabyte a record
    records = (
        record.replace(labels={"fingerprint": Label(fingerprint + index, "")})
        for index, record in enumerate(crystals.many(4000, max_atoms=2))
    )
    prepare(records, tmp_path / "set", format="lmdb", recipe=None, progress=False, checks="report")
    dataset = Dataset.open(tmp_path / "set")
    plan = plan_of(dataset, graphs=8)
    streams = [Stream(plan, dataset, route="ray", rank=rank, world=ranks) for rank in range(ranks)]
    total = 0
    for shares in zip(*(prefetch(stream, 2) for stream in streams), strict=True):
        total += sum(map(size_of, shares))
    assert total > 10 * STORE_BYTES
    tell(f"{ranks} ranks: {total / 1e6:.0f} MB streamed, {spilled_bytes()} bytes spilled")
    assert spilled_bytes() == 0


@pytest.mark.parametrize("route", ["direct", "ray"])
def test_memory_is_flat_over_fifty_epochs(
    crystals: Any, tmp_path: Path, small_store: Any, route: Route
) -> None:
    records = crystals.many(3000, max_atoms=20)
    prepare(records, tmp_path / "set", format="lmdb", recipe=None, progress=False, checks="report")
    dataset = Dataset.open(tmp_path / "set")
    plan = plan_of(dataset, graphs=64)
    last = plan.num_steps(0) - 1
    sizes = []
    for share in prefetch(Stream(plan, dataset, route=route, epochs=55), 2):
        if share.cursor.step == last:
            gc.collect()
            sizes.append(memory_of_all())
    early, late = float(np.median(sizes[5:15])), float(np.median(sizes[-10:]))
    tell(f"{route}: {early / 1e6:.0f} MB after 5 epochs, {late / 1e6:.0f} MB after 50")
    assert late < 1.05 * early

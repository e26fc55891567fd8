"""A node of the cluster dies: the run goes on with the workers that are left."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from epitaxy.errors import ConfigError
from epitaxy.train.launch import launch
from epitaxy.train.logs import read_metrics, surviving_consumption
from epitaxy.train.settings import ComputeSettings, RunSettings

MakeSettings = Callable[..., RunSettings]


def losses(run_dir: str | Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]


def test_the_fewest_workers_are_not_more_than_all() -> None:
    with pytest.raises(ConfigError, match=r"from 1 to compute\.workers \(2\), got 3"):
        ComputeSettings(workers=2, min_workers=3)
    with pytest.raises(ConfigError, match="got 0"):
        ComputeSettings(workers=2, min_workers=0)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs and two nodes with two each, all processes of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20},
    )
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_lost_node_costs_a_restart_and_no_record(
    two_nodes: Any, make_settings: MakeSettings
) -> None:
    cluster, nodes = two_nodes
    loop = {"epochs": 40, "checkpoint_every": 2}
    undisturbed = make_settings("undisturbed", loop=loop)
    compute = ComputeSettings(
        backend="ray", workers=2, min_workers=1, cpus_per_worker=2, stream="direct", max_failures=5
    )
    settings = dataclasses.replace(make_settings("elastic", loop=loop), compute=compute)
    launch(undisturbed)
    run_dir, done = Path(settings.directory), threading.Event()

    def lose_a_node() -> None:
        while not done.wait(0.2):
            logs = sorted((run_dir / "consumption").glob("0001-*.jsonl"))
            if len(logs) == 2 and all(len(log.read_bytes().splitlines()) > 8 for log in logs):
                cluster.remove_node(nodes[0], allow_graceful=False)
                return

    killer = threading.Thread(target=lose_a_node)
    killer.start()
    try:
        launch(settings)
    finally:
        done.set()
        killer.join()
    history = surviving_consumption(run_dir)
    assert {entry.rank for entry in history if entry.epoch == 0} == {0, 1}
    assert {entry.rank for entry in history if entry.epoch == 39} == {0}
    for epoch in range(40):
        ids = Counter(n for entry in history if entry.epoch == epoch for n in entry.ids)
        assert len(ids) == 20
        assert set(ids.values()) == {1}
    assert losses(run_dir) == pytest.approx(losses(undisturbed.directory), rel=1e-5)

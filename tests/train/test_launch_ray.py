"""Ray Train workers fed by Ray Data give what one process gives; their errors arrive as raised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.convert import prepare
from epitaxy.errors import ConfigError, NonFiniteError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.train.launch import launch
from epitaxy.train.settings import BatchSettings, ComputeSettings, RunSettings

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

MakeSettings = Callable[..., RunSettings]
TWO_WORKERS = ComputeSettings(backend="ray", workers=2, stream="ray", max_failures=2)


def numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("time", "kind")}


def test_two_workers_on_ray_data_give_the_local_curve(
    ray_cluster: Any, make_settings: MakeSettings
) -> None:
    batch = BatchSettings(graphs=6, micro_batches=2)
    local = launch(make_settings("local", batch=batch))
    remote = launch(make_settings("remote", batch=batch, compute=TWO_WORKERS))
    assert remote.metrics == pytest.approx(local.metrics, rel=1e-6)
    for line, expected in zip(remote.history, local.history, strict=True):
        assert numbers(line) == pytest.approx(numbers(expected), rel=1e-6)
    assert not (remote.directory / ".ray").exists()


def test_error_of_a_worker_reaches_the_user_in_its_own_words(
    ray_cluster: Any,
    make_settings: MakeSettings,
    records: list[CrystalRecord],
    tmp_path: Path,
) -> None:
    wild = [
        record.replace(labels={"gap": Label(1e200 if index % 2 else 1.0, "eV")})
        for index, record in enumerate(records)
    ]
    prepare(wild, tmp_path / "wild", format="lmdb", recipe=None, progress=False)
    target = {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "gap",
        "loss": "mse",
        "normalizer": "none",
    }
    settings = make_settings(data=str(tmp_path / "wild"), objective=target, compute=TWO_WORKERS)
    with pytest.raises(NonFiniteError) as caught:
        launch(settings)
    message = str(caught.value)
    assert message.startswith("epoch 0, step 0: the loss is inf on rank ")
    assert "Traceback" not in message
    assert caught.value.__cause__ is None


def test_run_that_can_never_be_placed_is_refused(
    ray_cluster: Any, make_settings: MakeSettings
) -> None:
    full = ComputeSettings(backend="ray", workers=4, stream="ray")
    with pytest.raises(ConfigError, match=r"need 5 CPUs; the cluster has 4.*stream=direct"):
        launch(make_settings("cpus", compute=full))
    gpus = ComputeSettings(backend="ray", workers=1, use_gpu=True)
    with pytest.raises(ConfigError, match="need 1 GPUs; the cluster has 0"):
        launch(make_settings("gpus", compute=gpus))

"""A data set whose steps take long enough to be killed in the middle of an epoch."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.convert import prepare
from epitaxy.train.logs import Consumed, surviving_consumption
from epitaxy.train.settings import (
    BatchSettings,
    ComputeSettings,
    LoopSettings,
    RunSettings,
    SplitSettings,
)

EPOCHS = 2
RECORDS = 48


@pytest.fixture(scope="session")
def slow_data(crystals: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "data"
    records = [
        crystals.labelled(crystals.triclinic(seed, 10), seed).replace(id=f"s{seed:03d}", group="")
        for seed in range(RECORDS + 4)
    ]
    prepare(records, folder, format="lmdb", recipe=None, progress=False)
    return folder


@pytest.fixture(scope="session")
def make_slow(
    slow_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunSettings]:
    root = tmp_path_factory.mktemp("runs")

    def make(name: str, **compute: Any) -> RunSettings:
        return RunSettings(
            name=name,
            directory=str(root / name),
            data=str(slow_data),
            encoder={"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 64, "layers": 3},
            objective={"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress"},
            split=SplitSettings(by="record", sizes=(RECORDS, 4, 0)),
            batch=BatchSettings(graphs=4),
            loop=LoopSettings(
                epochs=EPOCHS,
                precision="fp64",
                checkpoint_every=5,
                log_every=1,
                log_consumption=True,
            ),
            compute=ComputeSettings(**compute),
        )

    return make


class Watch:
    """Sees from the consumption log how far a run is and whether all went well."""

    def wait_for_steps(
        self, run_dir: Path, attempt: int, steps: int, timeout_s: float = 100.0
    ) -> list[int]:
        """Waits until every rank of an attempt began ``steps`` steps; returns the ranks' pids."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            paths = sorted((run_dir / "consumption").glob(f"{attempt:04d}-*.jsonl"))
            lines = [path.read_text().splitlines(keepends=True) for path in paths]
            whole = [[text for text in rank if text.endswith("\n")] for rank in lines]
            if whole and all(len(rank) > steps for rank in whole):
                headers = [json.loads(rank[0]) for rank in whole]
                if len(headers) == headers[0]["world"]:
                    return [header["pid"] for header in headers]
            time.sleep(0.01)
        raise AssertionError(f"attempt {attempt} did not reach step {steps} within {timeout_s} s")

    def check_exactly_once(self, run_dir: Path) -> list[Consumed]:
        """Every record of every epoch is consumed exactly once in the surviving history."""
        history = surviving_consumption(run_dir)
        for epoch in range(EPOCHS):
            counted = Counter(
                name for entry in history if entry.epoch == epoch for name in entry.ids
            )
            assert len(counted) == RECORDS
            assert set(counted.values()) == {1}
        return history


@pytest.fixture
def watch() -> Watch:
    return Watch()

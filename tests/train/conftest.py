"""A small data set, settings for quick runs, and four processes that can form a group."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.errors import EpitaxyError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.train.settings import (
    BatchSettings,
    ComputeSettings,
    LoopSettings,
    OptimizerSettings,
    RunSettings,
    SplitSettings,
)

ENCODER = {
    "_target_": "epitaxy.encoders.cgcnn.CGCNN",
    "width": 8,
    "layers": 2,
    "cutoff": 4.0,
    "num_basis": 8,
}
FORCES = {
    "_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress",
    "hidden": [8],
}


class PeerError(EpitaxyError):
    """What a peer raised."""


class Peers:
    """Four processes; a task runs in the first ``world`` of them as one process group."""

    def __init__(self, folder: Path) -> None:
        script = Path(__file__).with_name("peers.py")
        self._folder, self._tasks = folder, 0
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(4)
        ]

    def run(self, name: str, world: int, **arguments: Any) -> list[dict[str, Any]]:
        """Returns the answer of each rank: ``{"value": …}`` or ``{"error": …, "message": …}``."""
        self._tasks += 1
        store = str(self._folder / f"store-{self._tasks}")
        task = {"name": name, "world": world, "store": store, "arguments": arguments}
        for process in self._processes[:world]:
            assert process.stdin is not None
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        return [json.loads(p.stdout.readline()) for p in self._processes[:world]]  # type: ignore[union-attr]

    def values(self, name: str, world: int, **arguments: Any) -> list[dict[str, Any]]:
        """Returns what each rank's task returned."""
        answers = self.run(name, world, **arguments)
        for answer in answers:
            if "error" in answer:
                raise PeerError(f"{answer['error']}: {answer['message']}")
        return [answer["value"] for answer in answers]

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            process.wait(timeout=60)
            process.stdout.close()


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    group = Peers(tmp_path_factory.mktemp("peers"))
    yield group
    group.close()


@pytest.fixture(scope="session")
def records(crystals: Any) -> list[CrystalRecord]:
    """30 crystals: energy, forces, stress, two scalars that many lack, one to be learnt."""
    rng = np.random.default_rng(5)
    made = []
    for index, record in enumerate(crystals.many(30, seed=3, max_atoms=5)):
        labels = dict(record.labels)
        labels["mean_number"] = Label(float(np.mean(record.numbers)), "")
        if index % 3 != 0:
            labels["gap"] = Label(rng.uniform(0, 5), "eV")
        if index % 4 == 1:
            labels["modulus"] = Label(rng.uniform(50, 200), "GPa")
        made.append(record.replace(labels=labels))
    return made


@pytest.fixture(scope="session")
def data_set(records: list[CrystalRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "crystals"
    prepare(records, folder, format="lmdb", recipe=None, progress=False)
    return folder


@pytest.fixture
def make_settings(data_set: Path, tmp_path: Path) -> Callable[..., RunSettings]:
    """Makes settings of quick fp64 runs; keywords replace fields, ``loop=`` only parts of it."""

    def make(name: str = "run", **changes: Any) -> RunSettings:
        loop = {"epochs": 2, "precision": "fp64", "log_every": 1, "log_consumption": True}
        settings = RunSettings(
            name=name,
            directory=str(tmp_path / name),
            data=str(data_set),
            encoder=ENCODER,
            objective=FORCES,
            split=SplitSettings(by="record", sizes=(20, 6, 4)),
            batch=BatchSettings(graphs=6),
            optimizer=OptimizerSettings(lr=3e-3),
            loop=LoopSettings(**{**loop, **changes.pop("loop", {})}),
            compute=ComputeSettings(backend="local", prefetch=1),
        )
        return dataclasses.replace(settings, **changes)

    return make

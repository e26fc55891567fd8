"""A model folder with random fp64 weights, and labelled crystals as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.build import build
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.graph.record import CrystalRecord
from epitaxy.train.checkpoint import build_model, save_model

ENCODER = {
    "_target_": "epitaxy.encoders.cgcnn.CGCNN",
    "width": 8,
    "layers": 2,
    "cutoff": 4.0,
    "num_basis": 8,
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "forces": {
        "_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress",
        "hidden": [8],
    },
    "property": {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "energy",
        "hidden": [8],
    },
}


@pytest.fixture(scope="session")
def labelled(crystals: Any) -> list[CrystalRecord]:
    """Ten crystals; ``c0003`` has no forces, ``c0004`` is periodic along two axes only."""
    records: list[CrystalRecord] = crystals.many(10, seed=3)
    without = {name: label for name, label in records[3].labels.items() if name != "forces"}
    records[3] = records[3].replace(labels=without)
    records[4] = records[4].replace(pbc=np.array([True, True, False]))
    return records


@pytest.fixture(scope="session")
def dataset(labelled: list[CrystalRecord], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The crystals, prepared."""
    folder = tmp_path_factory.mktemp("predict") / "crystals"
    prepare(labelled, folder, format="lmdb", recipe=None, progress=False)
    return Dataset.open(folder)


@pytest.fixture(scope="session")
def models(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by name: ``forces`` and ``property``, fitted on the first six crystals."""
    folders = {}
    for name, config in OBJECTIVES.items():
        objective = build(config)
        statistics = objective.fit(dataset.label_table(np.arange(6)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(build(ENCODER), objective).double()
        folders[name] = tmp_path_factory.mktemp("models") / name
        extra = {"statistics": statistics, "name": name, "data": {"digest": dataset.data_digest}}
        save_model(folders[name], model, ENCODER, config, objective, extra)
    return folders

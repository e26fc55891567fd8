"""Run and evaluation folders as training and evaluation leave them, without training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.predict.evaluation import Evaluation, Parity, quantity_of
from epitaxy.train.folders import write_folder, write_json
from epitaxy.train.settings import (
    InitSettings,
    LoopSettings,
    OptimizerSettings,
    RunSettings,
    to_dict,
)

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 32}
OBJECTIVE = {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap"}


class Folders:
    """Makes folders below ``root``."""

    def __init__(self, root: Path, dataset: Dataset) -> None:
        self.root = root
        self.dataset = dataset

    def run(
        self, name: str, strategy: str = "Scratch", seed: int = 0, mae: float = 0.5, **changes: Any
    ) -> Path:
        """A finished fine-tune on ``gap`` with validation error ``mae``."""
        folder = self.root / "runs" / name
        folder.mkdir(parents=True)
        target = f"epitaxy.finetune.{strategy.lower()}.{strategy}"
        settings = RunSettings(
            name, str(folder), str(self.dataset.path), ENCODER, OBJECTIVE, seed=seed,
            optimizer=OptimizerSettings(lr=changes.pop("lr", 1e-3)), loop=LoopSettings(epochs=2),
            init=InitSettings(strategy={"_target_": target}),
        )  # fmt: skip
        settings = dataclasses.replace(settings, **changes)
        split = {"records": 3, "kept": 2, "excluded": 1, "rules": {"|forces| > 9": {"excluded": 1}}}
        write_json(folder / "run.json", {
            "name": name, "created": "2026-01-02T03:04:05", "versions": {"torch": "2.0"},
            "settings": to_dict(settings), "data": {"digest": self.dataset.data_digest},
            "records": {"splits": {"train": split}}, "fields": {"gap": "eV"},
            "units": {"val/gap_mae": "eV", "val/gap_rmse": "eV"},
        })  # fmt: skip
        lines = [
            {"kind": kind, "steps": epoch, "progress": epoch / 2, f"{kind}/loss": 1 / epoch,
             **({"val/gap_mae": mae + 0.1 * (2 - epoch)} if kind == "val" else {})}
            for epoch in (1, 2) for kind in ("train", "val")
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        (folder / "config.yaml").write_text("finetune: {}\n", encoding="utf-8")
        write_folder(folder / "final", lambda p: _weights(p, name))
        write_json(folder / "result.json", {"metrics": {"val/gap_mae": mae, "val/loss": 0.5}})
        return folder

    def evaluation(self, run: Path, mae: float, where: Path | None = None) -> Path:
        """An evaluation of ``run`` on the test split with that error on every label."""
        labels = np.array([0.0, 1.0, 2.0])
        parity = Parity(labels, labels + mae, np.arange(3))
        manifest = json.loads((run / "final" / "manifest.json").read_text(encoding="utf-8"))
        info = {
            "model": {"name": run.name, "weights": manifest["model.safetensors"]["sha256"]},
            "data": {"name": "gaps", "digest": self.dataset.data_digest, "split": "test",
                     "records": 3, "evaluated": "abc"},
        }  # fmt: skip
        quantity = quantity_of(parity, unit="eV", num_records=3, training_mean=None, reference=None)
        found = Evaluation({"gap": quantity}, {"gap": parity}, np.array(["a", "b", "c"]), info)
        folder = where or run / "evaluation-test"
        found.save(folder)
        return folder


def _weights(folder: Path, content: str) -> None:
    (folder / "model.safetensors").write_text(content, encoding="utf-8")


@pytest.fixture
def folders(tmp_path: Path, crystals: Any) -> Folders:
    """A maker of folders and a data set of two crystals, NaCl and copper, with gaps."""
    records: list[CrystalRecord] = [
        crystal.replace(labels={"gap": Label(index, "eV", "PBE")})
        for index, crystal in enumerate((crystals.rocksalt(), crystals.fcc()))
    ]
    prepare(records, tmp_path / "gaps", format="lmdb", recipe=None, progress=False)
    return Folders(tmp_path, Dataset.open(tmp_path / "gaps"))

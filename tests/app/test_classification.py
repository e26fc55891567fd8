"""A classification from data to metrics: training, validation, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.app import api
from epitaxy.data.convert import prepare
from epitaxy.errors import NeedsError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.predict.evaluate import Evaluation

SMALL = (
    "tracking=null",
    "finetune=scratch",
    "objective=classification",
    "objective.hidden=[8]",
    "encoder.width=8",
    "encoder.layers=1",
    "loop.epochs=30",
    "batch.graphs=8",
    "optimizer.lr=0.01",
    "split.by=record",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, crystals: Any) -> Path:
    """60 crystals: ``heavy`` if they hold gold, ``kind`` 0, 1 or 2; every tenth without labels."""
    folder = tmp_path_factory.mktemp("data") / "classes"
    prepare([labelled(r, i) for i, r in enumerate(crystals.many(60))], folder, progress=False)
    return folder


def labelled(record: CrystalRecord, index: int) -> CrystalRecord:
    heavy = int(79 in record.numbers)
    kind = 2 if 26 in record.numbers and not heavy else heavy
    labels = {
        "heavy": Label(np.array(heavy), ""),
        "kind": Label(np.array(kind), ""),
        "number": Label(np.array(index), ""),
    }
    return record.replace(labels=labels if index % 10 else {"number": labels["number"]})


@pytest.mark.parametrize(("label", "classes"), [("heavy", 2), ("kind", 3)])
def test_classes_are_learnt_and_measured(
    label: str, classes: int, data: Path, epitaxy_home: Path, tmp_path: Path
) -> None:
    trained = api.finetune(
        *SMALL,
        f"objective.label={label}",
        f"objective.classes={classes}",
        data=str(data),
        run={"name": label},
    )
    names = {f"val/{label}_{kind}" for kind in ("accuracy", "auc", "mae", "rmse")}
    assert names <= set(trained.metrics)
    assert names <= set(trained.units)

    result = api.evaluate(
        model=str(trained.model), data=str(data), split="all", out=str(tmp_path / "e")
    )

    found = result.evaluation.quantities[label]
    assert (found.records, found.missing, found.values) == (54, 6, 54 if classes == 2 else 162)
    assert found.accuracy > 0.8
    assert found.auc > 0.8
    header, row = (line.split("  ") for line in result.table().splitlines()[:2])
    assert [word.strip() for word in header if word.strip()][-2:] == ["accuracy", "AUC"]
    assert f"{found.auc:.4g}" in row[-1]
    again = Evaluation.load(tmp_path / "e")
    assert again.metrics == pytest.approx(result.evaluation.metrics)
    assert {f"{label}_accuracy", f"{label}_auc"} <= set(again.metrics)
    assert again.units[f"{label}_auc"] == ""


def test_data_of_other_classes_are_refused(data: Path, epitaxy_home: Path) -> None:
    with pytest.raises(NeedsError, match=r"expected a class number 0 … 1; set objective.classes"):
        api.finetune(*SMALL, "objective.label=number", data=str(data), run={"name": "number"})

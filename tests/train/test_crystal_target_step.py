"""Reading a vector from each crystal: gradients however a step is spread, and a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.build import build
from epitaxy.data.codec import encode, pack
from epitaxy.data.convert import prepare
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.heads.model import Model
from epitaxy.predict.predictor import Predictor
from epitaxy.train.folders import read_json
from epitaxy.train.launch import launch
from epitaxy.train.settings import OptimizerSettings, RunSettings

STUDENT = {
    "_target_": "epitaxy.encoders.roost.Roost",
    **{"width": 8, "layers": 1, "heads": 1, "gate": [8], "message": [8], "trunk": [8, 6]},
}
TEACHER = {
    "_target_": "epitaxy.encoders.cgcnn.CGCNN",
    **{"width": 6, "layers": 1, "cutoff": 4.0, "crystal_width": 5},
}
MULTIMODAL = {"_target_": "epitaxy.objectives.multimodal.Multimodal", "hidden": [8]}
FINGERPRINT = {
    "_target_": "epitaxy.objectives.fingerprint.Fingerprint",
    **{"label": "elements", "size": 3, "hidden": [8]},
}
DEALS = [
    [[[0, 1], [], [2, 3, 4, 5, 6]]],
    [[[6], [5], []], [[], [0, 1, 2, 3], [4]]],
    [[[3, 4]], [[]], [[0, 1, 2, 5]], [[6]]],
]
"""deal[rank][micro_batch] = records."""


@pytest.mark.parametrize("deal", DEALS, ids=["1 process", "2 processes", "4 processes"])
@pytest.mark.parametrize(
    ("objective", "teacher"),
    [(MULTIMODAL, TEACHER), (FINGERPRINT, None)],
    ids=["multimodal", "fingerprint"],
)
def test_gradient_does_not_depend_on_the_deal(
    peers: Any,
    records: list[CrystalRecord],
    tmp_path: Path,
    objective: dict[str, Any],
    teacher: dict[str, Any] | None,
    deal: list[list[list[int]]],
) -> None:
    seven = [_described(record, index) for index, record in enumerate(records[:7])]
    path = tmp_path / "seven"
    path.write_bytes(pack([encode(record) for record in seven]))
    expected = plain_gradients(seven, objective, teacher)
    norm = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert norm > 0
    result = str(tmp_path / "gradients")
    arguments = {"encoder": STUDENT, "objective": objective, "teacher": teacher}
    reports = peers.values(
        "gradients", len(deal), records=str(path), deal=deal, result=result, **arguments
    )
    assert reports[0]["records"] == 7
    for rank in range(len(deal)):
        found = np.load(f"{result}-{rank}.npz")
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-6 * norm)


def plain_gradients(
    records: list[CrystalRecord],
    objective: dict[str, Any],
    teacher: dict[str, Any] | None,
) -> dict[str, np.ndarray]:
    """The same loss in one batch, by plain autograd and without step or assembler."""
    torch.manual_seed(0)
    goal = build(objective)
    if teacher is not None:
        goal.receive(build(teacher).double().eval().requires_grad_(False))
    student = build(STUDENT)
    model = Model(student, goal.heads(student)).double()
    fields = [records[0].labels[name].field(name) for name in goal.labels]
    views = tuple(
        collate(records, specs, fields, torch.float64) for specs in goal.view_specs(student.spec)
    )
    (term,) = goal.terms(model, views).values()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term.total / term.count, parameters)
    return {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}


def _described(record: CrystalRecord, index: int) -> CrystalRecord:
    """``record`` with a vector that its composition tells, which every third record lacks."""
    numbers = record.numbers.astype(float)
    vector = [numbers.min(), numbers.max(), numbers.mean()]
    labels = {} if index % 3 == 2 else {"elements": Label(np.array(vector), "e")}
    return record.replace(labels=labels)


def test_a_fingerprint_is_learnt_measured_and_predicted(
    records: list[CrystalRecord], make_settings: Callable[..., RunSettings], tmp_path: Path
) -> None:
    described = [_described(record, index) for index, record in enumerate(records)]
    prepare(described, tmp_path / "described", progress=False)
    run = launch(
        make_settings(
            data=str(tmp_path / "described"),
            encoder=STUDENT,
            objective=FINGERPRINT,
            optimizer=OptimizerSettings(lr=1e-2),
            loop={"epochs": 15},
        )
    )
    errors = [line["val/elements_mae"] for line in run.history if line["kind"] == "val"]
    assert errors[-1] < 0.7 * errors[0]
    assert read_json(run.directory / "run.json")["units"]["val/elements_mae"] == "e"
    predicted = Predictor(run.model).predict(records)["elements"]
    target = np.array([_described(record, 0).labels["elements"].value for record in records])
    assert np.abs(predicted - target).mean() < np.abs(target.mean(0) - target).mean()

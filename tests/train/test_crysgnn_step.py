"""CrysGNN's gradient depends neither on processes nor on micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.build import build
from epitaxy.data.codec import encode, pack
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.objectives.contract import Coupling
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import build_model
from epitaxy.train.launch import launch
from epitaxy.train.settings import ComputeSettings

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 8, "layers": 2, "cutoff": 4.0}
CRYSGNN = {"_target_": "epitaxy.objectives.crysgnn.CrysGNN", "block_pairs": 10}
OBJECTIVES = {
    "crysgnn": CRYSGNN,
    "crysgnn, drawn centres": {**CRYSGNN, "max_pairs": 6},
    "crysxpp": {
        **CRYSGNN,
        "feature_weight": 0.1,
        "connectivity_weight": 0.9,
        "space_group_weight": 0.0,
        "contrast_weight": 0.0,
        "reduction": "per_crystal",
    },
}
# deal[rank][micro_batch] = records; empty micro-batches and an empty rank are among them.
DEALS = {
    "1 process, 3 micro-batches": [[[0, 1], [], [2, 3, 4, 5, 6]]],
    "2 processes, 3 micro-batches": [[[6], [5], []], [[], [0, 1, 2, 3], [4]]],
    "4 processes, 1 micro-batch": [[[3, 4]], [[]], [[0, 1, 2, 5]], [[6]]],
}
SYSTEMS = (0, 6, 0, None, 6, 0, 3)
"""One crystal has no labels, and one is the only one of its system."""


@pytest.fixture(scope="module")
def seven(records: list[CrystalRecord]) -> list[CrystalRecord]:
    labelled = []
    for index, (record, system) in enumerate(zip(records, SYSTEMS, strict=False)):
        values = {} if system is None else {"crystal_system": system, "space_group": 9 * index + 1}
        labels = {name: Label(np.array(value), "") for name, value in values.items()}
        labelled.append(record.replace(labels=labels))
    return labelled


def plain_gradients(
    records: list[CrystalRecord], objective: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The same loss in one batch, by plain autograd and without the step."""
    torch.manual_seed(0)
    goal = build(objective)
    model = build_model(build(ENCODER), goal).to(torch.float64)
    fields = tuple(LabelField(name, "") for name in goal.labels)
    assembler = Assembler(goal, model.encoder.spec, fields, torch.float64, seed=0)
    views = assembler.views([encode(record) for record in records], 0, "views")
    terms = goal.terms(model, views).values()
    alone = [term.alone() if isinstance(term, Coupling) else term for term in terms]
    loss = sum(term.weight * term.total / term.count for term in alone)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return {name: g.numpy() for name, g in zip(names, gradients, strict=True)}


@pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradient_does_not_depend_on_the_deal(
    peers: Any,
    seven: list[CrystalRecord],
    tmp_path: Path,
    objective: dict[str, Any],
    deal: list[list[list[int]]],
) -> None:
    expected = plain_gradients(seven, objective)
    norm = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    (tmp_path / "seven").write_bytes(pack([encode(record) for record in seven]))
    arguments = {"records": str(tmp_path / "seven"), "encoder": ENCODER, "objective": objective}
    result = str(tmp_path / "gradients")
    reports = peers.values("gradients", len(deal), deal=deal, result=result, **arguments)
    for rank in range(len(deal)):
        found = np.load(f"{result}-{rank}.npz")
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-9 * norm)
        assert reports[rank] == reports[0]
    assert reports[0]["norm"] == pytest.approx(norm, rel=1e-9)


def test_edges_may_be_built_on_the_device_but_for_those_that_are_counted(
    make_settings: Any,
) -> None:
    settings = make_settings(
        "device",
        objective=OBJECTIVES["crysxpp"],
        compute=ComputeSettings(edges="device", prefetch=1),
        loop={"epochs": 3},
    )
    lines = [line for line in launch(settings).history if line["kind"] == "val"]
    assert len(lines) == 3
    assert lines[-1]["val/connectivity"] < lines[0]["val/connectivity"]

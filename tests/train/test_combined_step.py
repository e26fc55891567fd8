"""A step of a combined objective gives one gradient, however it is spread; so does its balance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.build import build
from epitaxy.data.codec import encode, pack
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.objectives.contract import Coupling, Term
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import build_model

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 8, "layers": 2, "cutoff": 4.0}
FORCES = {"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress", "hidden": [8]}
GAPS = {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap", "hidden": [8]}
COMBINED = {
    "_target_": "epitaxy.objectives.combined.Combined",
    "parts": {
        "forces": {"objective": FORCES, "weight": 0.5},
        "gaps": {"objective": GAPS, "weight": {"start": 3.0, "end": 1.0}},
        "twins": {"objective": {"_target_": "shaken.Shaken"}, "weight": 2.0},
    },
    "balance": {"every": 1, "decay": 0.5},
}
WEIGHTS = {"forces": 0.5, "gaps": 3.0, "twins": 2.0}
FIELDS = (
    LabelField("energy", "eV"),
    LabelField("forces", "eV/Å", (3,), per_atom=True),
    LabelField("stress", "eV/Å^3", (3, 3)),
    LabelField("gap", "eV"),
)
# deal[rank][micro_batch] = records; empty micro-batches and an empty rank are among them.
DEALS = {
    "1 process, 3 micro-batches": [[[0, 1], [], [2, 3, 4, 5, 6]]],
    "2 processes, 2 micro-batches": [[[6], [5]], [[0, 1, 2, 3], [4]]],
    "4 processes, 1 micro-batch": [[[3, 4]], [[]], [[0, 1, 2, 5]], [[6]]],
}

Gradients = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def expected(records: list[CrystalRecord]) -> dict[str, Gradients]:
    """The gradient of each part's loss without its weight, in one batch, by plain autograd."""
    torch.manual_seed(0)
    objective = build(COMBINED)
    model = build_model(build(ENCODER), objective).to(torch.float64)
    assembler = Assembler(objective, model.encoder.spec, FIELDS, torch.float64, seed=0)
    views = assembler.views([encode(record) for record in records[:7]], 0, "views")
    losses: dict[str, torch.Tensor] = {}
    for name, term in objective.terms(model, views).items():
        summed: Term = term.alone() if isinstance(term, Coupling) else term
        part = name.split(".")[0]
        loss = summed.weight / WEIGHTS[part] * summed.total / summed.count
        losses[part] = losses.get(part, 0.0) + loss
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = {}
    for part, loss in losses.items():
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        found[part] = {name: g.numpy() for name, g in zip(names, slopes, strict=True)}
    return found


def encoder_norm(gradients: Gradients) -> float:
    parts = [g for name, g in gradients.items() if name.startswith("encoder.")]
    return math.sqrt(sum(float((g**2).sum()) for g in parts))


@pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS)
def test_gradient_and_balance_do_not_depend_on_the_deal(
    peers: Any,
    records: list[CrystalRecord],
    expected: dict[str, Gradients],
    tmp_path: Path,
    deal: list[list[list[int]]],
) -> None:
    path, result = tmp_path / "seven", str(tmp_path / "gradients")
    path.write_bytes(pack([encode(record) for record in records[:7]]))
    reports = peers.values(
        "gradients", len(deal),
        records=str(path), encoder=ENCODER, objective=COMBINED, deal=deal, result=result,
    )  # fmt: skip
    wanted = {
        name: sum(WEIGHTS[part] * gradients[name] for part, gradients in expected.items())
        for name in expected["forces"]
    }
    norm = math.sqrt(sum(float((g**2).sum()) for g in wanted.values()))
    norms = {part: encoder_norm(gradients) for part, gradients in expected.items()}
    assert max(norms.values()) > 2 * min(norms.values()) > 0  # there is something to balance
    mean = math.prod(norms.values()) ** (1 / 3)
    factors = {part: math.sqrt(mean / one) for part, one in norms.items()}
    for rank in range(len(deal)):
        found = np.load(f"{result}-{rank}.npz")
        for name, gradient in wanted.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-6 * norm)
        assert reports[rank] == reports[0]
    assert reports[0]["norm"] == pytest.approx(norm, rel=1e-6)
    assert reports[0]["factors"] == pytest.approx(factors, rel=1e-6)

"""The step of a denoising run is the same however its records are dealt to processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.build import build
from epitaxy.data.codec import encode, pack
from epitaxy.graph.record import CrystalRecord
from epitaxy.objectives.contract import Objective
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import build_model

PARTS = "epitaxy.encoders"
CGCNN = {"_target_": f"{PARTS}.cgcnn.CGCNN", "width": 8, "layers": 2, "cutoff": 4.0}
TRANSFORMER = {
    "_target_": f"{PARTS}.torchmd_et.EquivariantTransformer",
    "width": 8,
    "layers": 2,
    "heads": 2,
    "cutoff": 4.0,
    "num_basis": 8,
}
PREDICTED = {"_target_": "epitaxy.objectives.denoising.Denoising", "hidden": [8]}
DERIVED = {
    "_target_": "epitaxy.objectives.derivative_denoising.DerivativeDenoising",
    "hidden": [8],
}
CASES = {
    "scalar": (CGCNN, PREDICTED),
    "equivariant": (TRANSFORMER, PREDICTED),
    "derivative": (CGCNN, DERIVED),
}
# deal[rank][micro_batch] = records; empty micro-batches and an empty rank are among them.
DEALS = {
    "1 process, 3 micro-batches": [[[0, 1], [], [2, 3, 4, 5, 6]]],
    "2 processes, 2 micro-batches": [[[6], [5, 1]], [[], [0, 2, 3, 4]]],
    "4 processes, 1 micro-batch": [[[3, 4]], [[]], [[0, 1, 2, 5]], [[6]]],
}


def plain_gradients(
    records: list[CrystalRecord], encoder: dict[str, Any], objective: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The mean over all atoms and components in one batch, by plain autograd."""
    torch.manual_seed(0)
    goal: Objective = build(objective)
    model = build_model(build(encoder), goal).to(torch.float64)
    assembler = Assembler(goal, model.encoder.spec, (), torch.float64, seed=0)
    views = assembler.views([encode(record) for record in records], 0, "views")
    loss = goal.terms(model, views)["noise"].total / (3 * sum(r.num_atoms for r in records))
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return {name: g.numpy() for name, g in zip(names, gradients, strict=True)}


@pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS)
@pytest.mark.parametrize("case", CASES)
def test_gradient_does_not_depend_on_the_deal(
    peers: Any,
    records: list[CrystalRecord],
    tmp_path: Path,
    case: str,
    deal: list[list[list[int]]],
) -> None:
    encoder, objective = CASES[case]
    expected = plain_gradients(records[:7], encoder, objective)
    norm = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert norm > 1e-3
    path, result = tmp_path / "records", str(tmp_path / "gradients")
    path.write_bytes(pack([encode(record) for record in records[:7]]))
    arguments = {"records": str(path), "encoder": encoder, "objective": objective}
    reports = peers.values("gradients", len(deal), deal=deal, result=result, **arguments)
    for rank in range(len(deal)):
        found = np.load(f"{result}-{rank}.npz")
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-6 * norm)
        assert reports[rank] == reports[0]
    assert reports[0]["norm"] == pytest.approx(norm, rel=1e-6)

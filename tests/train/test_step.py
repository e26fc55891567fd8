"""One step gives one gradient, however it is spread over processes and micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.build import build
from epitaxy.data.codec import encode, pack
from epitaxy.errors import NonFiniteError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train.checkpoint import build_model
from epitaxy.train.ema import Ema
from epitaxy.train.step import Stepper

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 8, "layers": 2, "cutoff": 4.0}
FORCES = {"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress", "hidden": [8]}
MASKED = {
    "_target_": "epitaxy.objectives.regression.Regression",
    "label": ["gap", "modulus"],
    "loss": "mse",
    "normalizer": "none",
    "hidden": [8],
}
FIELDS = {
    "energy": LabelField("energy", "eV"),
    "forces": LabelField("forces", "eV/Å", (3,), per_atom=True),
    "stress": LabelField("stress", "eV/Å^3", (3, 3)),
    "gap": LabelField("gap", "eV"),
    "modulus": LabelField("modulus", "GPa"),
}
# deal[rank][micro_batch] = records; empty micro-batches and an empty rank are among them.
DEALS = {
    "1 process, 3 micro-batches": [[[0, 1], [], [2, 3, 4, 5, 6]]],
    "2 processes, 1 micro-batch": [[[0, 2, 4, 6]], [[1, 3, 5]]],
    "2 processes, 3 micro-batches": [[[6], [5], []], [[], [0, 1, 2, 3], [4]]],
    "4 processes, 1 micro-batch": [[[3, 4]], [[]], [[0, 1, 2, 5]], [[6]]],
}


def parts(objective: dict[str, Any], encoder: dict[str, Any] = ENCODER) -> tuple[Model, Objective]:
    torch.manual_seed(0)
    goal: Objective = build(objective)
    return build_model(build(encoder), goal).to(torch.float64), goal


def batch(records: list[CrystalRecord], model: Model, objective: Objective) -> CrystalBatch:
    fields = [FIELDS[name] for name in objective.labels]
    return collate(records, [model.encoder.spec], fields, torch.float64)


def plain_gradients(
    records: list[CrystalRecord], objective: dict[str, Any], encoder: dict[str, Any] = ENCODER
) -> dict[str, np.ndarray]:
    """The same loss in one batch, by plain autograd and without the step."""
    model, goal = parts(objective, encoder)
    terms = goal.terms(model, (batch(records, model, goal),))
    loss = sum(term.weight * term.total / term.count for term in terms.values())
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return {name: g.numpy() for name, g in zip(names, gradients, strict=True)}


@pytest.fixture(scope="module")
def seven(records: list[CrystalRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "seven"
    path.write_bytes(pack([encode(record) for record in records[:7]]))
    return path


@pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS)
@pytest.mark.parametrize(
    "objective",
    [
        FORCES,
        MASKED,
        {**MASKED, "reduction": "fixed", "weights": {"gap": 2.0}},
        {**MASKED, "reduction": "available", "shared": True},
        {**MASKED, "label": "gap", "loss": "robust_l1"},
    ],
    ids=["forces", "masked", "fixed", "available", "robust"],
)
def test_gradient_does_not_depend_on_the_deal(
    peers: Any,
    seven: Path,
    records: list[CrystalRecord],
    tmp_path: Path,
    objective: dict[str, Any],
    deal: list[list[list[int]]],
) -> None:
    expected = plain_gradients(records[:7], objective)
    norm = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    result = str(tmp_path / "gradients")
    arguments = {"records": str(seven), "encoder": ENCODER, "objective": objective}
    reports = peers.values("gradients", len(deal), deal=deal, result=result, **arguments)
    for rank in range(len(deal)):
        found = np.load(f"{result}-{rank}.npz")
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-6 * norm)
        assert reports[rank] == reports[0]
    assert reports[0]["records"] == 7
    assert reports[0]["norm"] == pytest.approx(norm, rel=1e-6)


def test_synchronised_batch_norm_equals_batch_norm_in_one_process(
    peers: Any, seven: Path, records: list[CrystalRecord], tmp_path: Path
) -> None:
    one = {**ENCODER, "norm": "batch"}
    expected = plain_gradients(records[:7], MASKED, one)
    result = str(tmp_path / "gradients")
    peers.values(
        "gradients",
        4,
        records=str(seven),
        encoder={**ENCODER, "norm": "sync_batch"},
        objective=MASKED,
        deal=DEALS["4 processes, 1 micro-batch"],
        result=result,
    )
    found = [np.load(f"{result}-{rank}.npz") for rank in range(4)]
    scale = max(np.abs(g).max() for g in expected.values())
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[0][name], gradient, rtol=1e-6, atol=1e-6 * scale)
    means = [key for key in found[0] if key.endswith("running_mean")]
    assert means
    for key in means:
        np.testing.assert_array_equal(found[0][key], found[1][key])


def test_non_finite_on_one_rank_stops_all_before_the_optimiser_moves(
    peers: Any, records: list[CrystalRecord], tmp_path: Path
) -> None:
    wild = records[1].replace(labels={"gap": Label(1e200, "eV")})  # its square overflows
    path = tmp_path / "records"
    path.write_bytes(pack([encode(record) for record in (records[4], wild, records[5])]))
    objective = {**MASKED, "label": "gap"}
    answers = peers.run(
        "gradients",
        2,
        records=str(path),
        encoder=ENCODER,
        objective=objective,
        deal=[[[0], []], [[2], [1]]],
        result=str(tmp_path / "never"),
    )
    assert [answer.get("error") for answer in answers] == ["NonFiniteError"] * 2
    for answer in answers:
        assert "epoch 0, step 0" in answer["message"]
        assert "rank 1, micro-batch 1" in answer["message"]
        assert f"records {wild.id}. " in answer["message"]
        assert records[5].id not in answer["message"]


def test_non_finite_loss_leaves_weights_and_optimiser_alone(records: list[CrystalRecord]) -> None:
    model, goal = parts({**MASKED, "label": "gap"})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    wild = records[1].replace(labels={"gap": Label(1e200, "eV")})
    with pytest.raises(NonFiniteError, match="loss is inf"):
        Stepper(model, goal, optimizer)([(batch([wild], model, goal),)], "here")
    assert not optimizer.state
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_unknown_element_on_one_rank_reaches_every_rank(
    peers: Any, records: list[CrystalRecord], tmp_path: Path
) -> None:
    heavy = np.full(records[1].num_atoms, 110, dtype=np.uint8)
    path = tmp_path / "records"
    path.write_bytes(pack([encode(records[4]), encode(records[1].replace(numbers=heavy))]))
    answers = peers.run(
        "gradients",
        2,
        records=str(path),
        encoder=ENCODER,
        objective={**MASKED, "label": "gap"},
        deal=[[[0]], [[1]]],
        result=str(tmp_path / "never"),
    )
    assert [answer.get("error") for answer in answers] == ["RecordError"] * 2
    assert all("110" in answer["message"] for answer in answers)


def test_every_rank_leaves_out_a_step_that_is_not_finite_on_one(
    peers: Any, records: list[CrystalRecord], tmp_path: Path
) -> None:
    wild = records[1].replace(labels={"gap": Label(1e200, "eV")})
    path, result = tmp_path / "records", str(tmp_path / "step")
    path.write_bytes(pack([encode(records[4]), encode(wild), encode(records[5])]))
    reports = peers.values(
        "gradients",
        2,
        records=str(path),
        encoder=ENCODER,
        objective={**MASKED, "label": "gap"},
        deal=[[[0], []], [[2], [1]]],
        result=result,
        skip=True,
    )
    assert reports[0]["skipped"] == reports[1]["skipped"]
    assert f"rank 1, micro-batch 1, records {wild.id}" in reports[0]["skipped"]
    model, _ = parts({**MASKED, "label": "gap"})
    for rank in range(2):
        after = np.load(f"{result}-{rank}.npz")
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(after[f"after {name}"], tensor.numpy())


def test_clipping_scales_the_step_to_the_norm(records: list[CrystalRecord]) -> None:
    objective = {**MASKED, "label": "gap"}
    model, goal = parts(objective)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    report = Stepper(model, goal, optimizer, clip_norm=1e-3)(
        [(batch(records[:5], model, goal),)], "here"
    )
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert report.clipped
    assert report.grad_norm > 1e-3
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_a_step_that_is_not_finite_can_be_left_out(records: list[CrystalRecord]) -> None:
    encoder = {**ENCODER, "norm": "batch"}
    model, goal = parts({**MASKED, "label": "gap"}, encoder)
    bad = [records[0].replace(labels={"gap": Label(np.array(1e300), "eV")}), *records[1:5]]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    stepper = Stepper(model, goal, optimizer, skip_non_finite=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = stepper([(batch(bad, model, goal),)], "epoch 3, step 1")
    assert report.skipped is not None
    assert report.skipped.startswith("epoch 3, step 1: the loss is inf on rank 0, micro-batch 0")
    assert all(record.id in report.skipped for record in bad)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state
    assert stepper([(batch(records[:5], model, goal),)], "here").skipped is None


def test_parameters_without_a_gradient_still_feel_weight_decay(
    records: list[CrystalRecord],
) -> None:
    model, goal = parts(MASKED)
    unlabelled = [record.replace(labels={}) for record in records[:2]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    before = model.head["property"]["gap"].out.weight.detach().clone()
    report = Stepper(model, goal, optimizer)([(batch(unlabelled, model, goal),)], "here")
    torch.testing.assert_close(model.head["property"]["gap"].out.weight, before * 0.95)
    assert report.terms.means() == {}


def test_moving_average_follows_its_formula() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    ema = Ema(layer, decay=0.5)
    expected = 1.0
    for update in range(4):
        with torch.no_grad():
            layer.weight.fill_(float(update))
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert float(ema.average["weight"]) == pytest.approx(expected)
    with ema.applied():
        assert float(layer.weight.detach()) == pytest.approx(expected)
    assert float(layer.weight.detach()) == 3.0

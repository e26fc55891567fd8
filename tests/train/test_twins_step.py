"""Twins: one step gives one gradient and one set of views, however and whenever it is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from epitaxy.build import build
from epitaxy.data.codec import encode, pack
from epitaxy.graph.record import CrystalRecord
from epitaxy.objectives.contract import Coupling
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import build_model
from epitaxy.train.launch import launch
from epitaxy.train.loop import PreparedStep
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import BatchSettings, RunSettings

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 8, "layers": 2, "cutoff": 4.0}
ROOST = {
    **{"_target_": "epitaxy.encoders.roost.Roost", "width": 8, "layers": 1, "heads": 1},
    **{"gate": [8], "message": [8], "trunk": [8], "features": "cgcnn92"},
}
TWINS = {
    "_target_": "epitaxy.objectives.barlow_twins.BarlowTwins",
    "hidden": [6],
    "width": 5,
    "redundancy_weight": 0.1,
}
COMPOSITIONS = {**TWINS, "edge_mask": 0.0, "perturb": 0.0, "composition": True}
SIMSIAM = {"_target_": "epitaxy.objectives.simsiam.SimSiam", "hidden": [6]}
CASES = {
    "barlow twins": (ENCODER, TWINS),
    "barlow twins of compositions": (ROOST, COMPOSITIONS),
    "simsiam": (ENCODER, SIMSIAM),
}
# deal[rank][micro_batch] = records; empty micro-batches and an empty rank are among them.
DEALS = {
    "1 process, 3 micro-batches": [[[0, 1], [], [2, 3, 4, 5, 6]]],
    "2 processes, 1 micro-batch": [[[0, 2, 4, 6]], [[1, 3, 5]]],
    "2 processes, 3 micro-batches": [[[6], [5], []], [[], [0, 1, 2, 3], [4]]],
    "4 processes, 1 micro-batch": [[[3, 4]], [[]], [[0, 1, 2, 5]], [[6]]],
}


@pytest.fixture(scope="module")
def seven(records: list[CrystalRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "seven"
    path.write_bytes(pack([encode(record) for record in records[:7]]))
    return path


def assembler(encoder: dict[str, Any], objective: dict[str, Any], seed: int = 0) -> Assembler:
    return Assembler(build(objective), build(encoder).spec, (), torch.float64, seed)


def plain_step(
    records: list[CrystalRecord], encoder: dict[str, Any], objective: dict[str, Any]
) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradient of the same crystals in one batch, by plain autograd."""
    torch.manual_seed(0)
    goal = build(objective)
    model = build_model(build(encoder), goal).double()
    views = assembler(encoder, objective).views([encode(r) for r in records], 0, "views")
    (term,) = goal.terms(model, views).values()
    mean = term.loss(term.rows) if isinstance(term, Coupling) else term.total / term.count
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(mean, parameters, materialize_grads=True)
    found = {name: g.numpy() for name, g in zip(names, gradients, strict=True)}
    return float(mean.detach()), found


@pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradient_does_not_depend_on_the_deal(
    peers: Any,
    seven: Path,
    records: list[CrystalRecord],
    tmp_path: Path,
    case: tuple[dict[str, Any], dict[str, Any]],
    deal: list[list[list[int]]],
) -> None:
    encoder, objective = case
    loss, expected = plain_step(records[:7], encoder, objective)
    norm = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    result = str(tmp_path / "gradients")
    arguments = {"records": str(seven), "encoder": encoder, "objective": objective}
    reports = peers.values("gradients", len(deal), deal=deal, result=result, **arguments)
    for rank in range(len(deal)):
        found = np.load(f"{result}-{rank}.npz")
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-6 * norm)
        assert reports[rank] == reports[0]
    assert reports[0]["records"] == 7
    assert list(reports[0]["means"].values()) == [pytest.approx(loss, rel=1e-9)]


def test_views_do_not_depend_on_who_shares_a_batch(records: list[CrystalRecord]) -> None:
    blobs = [encode(record) for record in records[:7]]
    maker = assembler(ENCODER, TWINS)
    together = maker.views(blobs, 4, "views")
    first = 0
    for part in (blobs[:2], blobs[2:3], blobs[3:]):
        views = maker.views(part, 4, "views")
        last = first + len(views[0].numbers)
        for whole, own in zip(together, views, strict=True):
            assert torch.equal(whole.positions[first:last], own.positions)
            assert torch.equal(whole.numbers[first:last], own.numbers)
        first = last
    later, other = (
        maker.views(blobs, 5, "views"),
        assembler(ENCODER, TWINS, 1).views(blobs, 4, "views"),
    )
    for views in (later, other):
        assert (views[0].positions != together[0].positions).any(1).all()
    assert (together[0].positions != together[1].positions).any(1).all()


@pytest.mark.parametrize("objective", [TWINS, SIMSIAM], ids=["barlow twins", "simsiam"])
def test_a_resumed_run_sees_the_same_views(
    make_settings: Callable[..., RunSettings],
    monkeypatch: pytest.MonkeyPatch,
    objective: dict[str, Any],
) -> None:
    """With checkpoints after every step, cut in the second epoch; validation is compared too."""
    loop = {"checkpoint_every": 1}
    whole = launch(make_settings("whole", objective=objective, loop=loop))
    settings = make_settings("cut", objective=objective, loop=loop)
    with monkeypatch.context() as patch:
        seen: list[PreparedStep] = []
        original = RunRecorder.consume

        def consume(self: RunRecorder, step: PreparedStep) -> None:
            if len(seen) == 5:
                raise KeyboardInterrupt
            seen.append(step)
            original(self, step)

        patch.setattr(RunRecorder, "consume", consume)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    cut = launch(settings)
    assert cut.resumed
    assert cut.metrics == whole.metrics
    one, other = (
        load_file(Path(run.directory) / "final/model.safetensors") for run in (whole, cut)
    )
    for name, tensor in one.items():
        np.testing.assert_array_equal(other[name], tensor)


def test_micro_batches_do_not_change_a_run(make_settings: Callable[..., RunSettings]) -> None:
    runs = [
        launch(
            make_settings(
                f"in-{parts}",
                objective=TWINS,
                batch=BatchSettings(graphs=6, micro_batches=parts),
            )
        )
        for parts in (1, 3)
    ]
    assert set(runs[0].metrics) >= {"val/loss", "val/barlow_twins"}
    for name, value in runs[0].metrics.items():
        assert runs[1].metrics[name] == pytest.approx(value, rel=1e-7), name

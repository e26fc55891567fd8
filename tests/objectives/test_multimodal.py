"""Multimodal learning: the loss by another route, a teacher that never changes, no teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.pooling import pool
from epitaxy.encoders.roost import Roost
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.heads.model import Model
from epitaxy.objectives.combined import Combined
from epitaxy.objectives.contract import Views
from epitaxy.objectives.fingerprint import Fingerprint
from epitaxy.objectives.multimodal import Multimodal
from epitaxy.train.step import Stepper


def student_of(kind: str) -> Any:
    if kind == "composition":
        return Roost(8, 1, heads=1, gate=(8,), message=(8,), trunk=(8, 6))
    return CGCNN(8, 1, cutoff=3.0)


def teacher_of(**options: Any) -> CGCNN:
    made = CGCNN(7, 1, cutoff=4.0, norm="batch", **options).double()
    return made.eval().requires_grad_(False)


def taught(kind: str = "composition", **options: Any) -> tuple[Multimodal, Model, CGCNN]:
    torch.manual_seed(0)
    objective, teacher = Multimodal(hidden=(5,)), teacher_of(**options)
    objective.receive(teacher)
    student = student_of(kind)
    return objective, Model(student, objective.heads(student)).double(), teacher


def views_of(objective: Multimodal, model: Model, records: list[CrystalRecord]) -> Views:
    drawn = [objective.views(record, np.random.default_rng(0)) for record in records]
    specs = objective.view_specs(model.encoder.spec)
    return tuple(
        collate([views[index] for views in drawn], wanted, dtype=torch.float64)
        for index, wanted in enumerate(specs)
    )


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    return [crystals.triclinic(seed, 1 + seed) for seed in range(4)]


@pytest.mark.parametrize("crystal_width", [0, 9])
@pytest.mark.parametrize("kind", ["composition", "structure"])
def test_loss_is_the_mean_squared_distance_from_the_teachers_vectors(
    records: list[CrystalRecord], kind: str, crystal_width: int
) -> None:
    """Crystal by crystal: the teacher's own vector, or else the mean of its atoms."""
    objective, model, teacher = taught(kind, crystal_width=crystal_width)
    model.eval()
    found = objective.terms(model, views_of(objective, model, records))["multimodal"]
    expected = 0.0
    for record in records:
        structure = collate([record], [teacher.spec], dtype=torch.float64)
        seen = collate([record], [model.encoder.spec], dtype=torch.float64)
        encoding, states = teacher(structure), model.encoder(seen)
        target = encoding.graph[0] if crystal_width else encoding.node.mean(0)
        own = states.graph if kind == "composition" else pool("mean", states.node, seen)
        error = model.head["multimodal"](own)[0] - target
        expected += float(error.square().mean().detach())
    assert float(found.total.detach()) == pytest.approx(expected)
    assert found.count == 4


def test_each_view_is_what_its_encoder_reads(records: list[CrystalRecord]) -> None:
    for kind in ("composition", "structure"):
        objective, model, teacher = taught(kind)
        seen, structure = views_of(objective, model, records)
        assert (seen.amounts is not None) == (kind == "composition")
        assert structure.amounts is None
        assert structure.num_atoms.tolist() == [1, 2, 3, 4]
        assert set(structure.graphs) == {teacher.spec}
        assert seen.ids == structure.ids


def test_training_changes_the_student_and_never_the_teacher(records: list[CrystalRecord]) -> None:
    objective, model, teacher = taught()
    states: dict[str, Tensor] = teacher.state_dict()
    assert any(name.endswith("running_mean") for name in states)
    before = {name: tensor.clone() for name, tensor in states.items()}
    student = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    stepper = Stepper(model, objective, optimizer)
    for step in range(3):
        model.train()
        stepper([views_of(objective, model, records)], f"step {step}")
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    assert not any(torch.equal(p, student[name]) for name, p in model.named_parameters())
    assert all(n.startswith(("encoder.", "head.multimodal.")) for n in model.state_dict())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held.isdisjoint({id(parameter) for parameter in teacher.parameters()})


def test_statistics_rebuild_the_head_without_the_teacher(records: list[CrystalRecord]) -> None:
    objective, model, _ = taught()
    twin = Multimodal(hidden=(5,))
    twin.adopt(objective.fit(None))  # type: ignore[arg-type]
    rebuilt = Model(student_of("composition"), twin.heads(student_of("composition"))).double()
    rebuilt.load_state_dict(model.state_dict())
    views = views_of(objective, model, records)
    with pytest.raises(NeedsError, match="teacher=NAME@ALIAS"):
        twin.terms(rebuilt, views)
    with pytest.raises(NeedsError, match="predicts no label"):
        twin.predict(rebuilt, views[0])


def test_the_teacher_reaches_the_part_that_learns_from_it(records: list[CrystalRecord]) -> None:
    alone, model, teacher = taught()
    other = Combined({"vector": {"objective": Fingerprint(size=2)}})
    with pytest.raises(ConfigError, match="Combined learns from none"):
        other.receive(teacher)
    parts = {"taught": {"objective": Multimodal(hidden=(5,)), "weight": 3.0}}
    combined = Combined(parts | {"vector": {"objective": Fingerprint(size=2)}})
    assert combined.needs_teacher
    assert combined.needs_structures
    combined.receive(teacher)
    heads = combined.heads(model.encoder)
    heads["multimodal"].load_state_dict(model.head["multimodal"].state_dict())
    together = Model(model.encoder, heads).double()
    drawn = [combined.views(record, np.random.default_rng(0)) for record in records]
    views = tuple(
        collate(list(one), wanted, [LabelField("magpie", "", (2,))], torch.float64)
        for one, wanted in zip(
            zip(*drawn, strict=True), combined.view_specs(model.encoder.spec), strict=True
        )
    )
    found = combined.terms(together, views)["taught.multimodal"]
    expected = alone.terms(model, views_of(alone, model, records))["multimodal"]
    torch.testing.assert_close(found.total, expected.total)
    assert (found.count, found.weight) == (4, 3.0)


def test_without_a_teacher_nothing_is_built() -> None:
    with pytest.raises(NeedsError, match="there is no teacher; give teacher="):
        Multimodal().heads(student_of("composition"))
    with pytest.raises(ConfigError, match="did you mean 'mlp'"):
        Multimodal(head="mpl")  # type: ignore[arg-type]

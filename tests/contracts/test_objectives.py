"""What every pair of encoder and objective keeps: sums, masks, symmetries, derivatives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from ase.io import iread
from torch import Tensor

from epitaxy.build import build
from epitaxy.graph.batch import CrystalBatch, Graph, LineGraph
from epitaxy.graph.record import CrystalRecord
from epitaxy.objectives.contract import BaseObjective, Coupling, Objective, Term, Terms
from epitaxy.train.random import generator
from epitaxy.train.step import Stepper

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
RELATIVE = 1e-6
"""Largest difference between a derivative and finite differences, relative to the largest one."""
STENCIL = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
STEP = 3e-4
"""Å or strain; five-point differences then err by about 1e-8 of the derivative."""
LABEL_FREE = frozenset({"features", "connectivity"})
"""Terms whose targets are the crystals themselves."""
DIRECTIONS = 4
"""Random directions in which all atoms move, and random strains."""


def viewed(pair: Any, records: list[CrystalRecord], batch_of: Any) -> tuple[CrystalBatch, ...]:
    """The batches of all views, as the training loop makes them."""
    drawn = [
        pair.objective.views(record, generator(0, 0, record.id, "views")) for record in records
    ]
    specs = pair.objective.view_specs(pair.model.encoder.spec)
    return tuple(
        batch_of([views[index] for views in drawn], wanted, made=pair.objective.made)
        for index, wanted in enumerate(specs)
    )


def alone(terms: Terms) -> dict[str, Term]:
    """The terms of a step that consists of these records and no others."""
    return {n: term.alone() if isinstance(term, Coupling) else term for n, term in terms.items()}


def predict(pair: Any, records: list[CrystalRecord], batch_of: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return pair.objective.predict(pair.model, batch_of(records, pair.specs))


def rotation() -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def test_it_is_an_objective(pair: Any) -> None:
    assert isinstance(pair.objective, Objective)
    made = {field.name for field in pair.objective.made}
    assert set(pair.objective.units) <= {*pair.objective.labels, *made}
    if type(pair.objective).predict is not BaseObjective.predict and pair.objective.labels:
        assert set(pair.objective.labels) <= set(pair.objective.units)
    for name, _ in pair.model.named_parameters():
        assert name.startswith(("encoder.", "head."))


@pytest.mark.predicts
def test_statistics_survive_json(pair: Any, examples: Any, batch_of: Any, table_of: Any) -> None:
    statistics = json.loads(json.dumps(pair.objective.fit(table_of(examples))))
    twin = build(pair.objective_config)
    twin.adopt(statistics)
    batch = batch_of(examples, pair.specs)
    expected = pair.objective.predict(pair.model, batch)
    for name, value in twin.predict(pair.model, batch).items():
        assert torch.equal(value, expected[name]), name
    assert dict(twin.units) == dict(pair.objective.units)


def test_terms_of_a_batch_are_sums_over_its_crystals(
    pair: Any, examples: Any, batch_of: Any
) -> None:
    views = viewed(pair, examples, batch_of)
    terms = pair.objective.terms(pair.model, views)
    counts = {name: term.count for name, term in terms.items()}
    assert counts == pytest.approx(pair.objective.counts(views))
    assert pair.objective.couples_records == any(isinstance(t, Coupling) for t in terms.values())
    singly = [
        pair.objective.terms(pair.model, viewed(pair, [record], batch_of)) for record in examples
    ]
    for name, term in terms.items():
        if isinstance(term, Coupling):
            continue
        total = torch.stack([single[name].total for single in singly]).sum()
        torch.testing.assert_close(term.total, total, **CLOSE)
        assert term.count == pytest.approx(sum(single[name].count for single in singly))


def test_a_record_without_labels_adds_nothing(pair: Any, examples: Any, batch_of: Any) -> None:
    bare = examples[1].replace(labels={}, id="bare")
    if not pair.objective.labels:
        return  # it needs none
    without = alone(pair.objective.terms(pair.model, viewed(pair, examples, batch_of)))
    with_bare = alone(pair.objective.terms(pair.model, viewed(pair, [*examples, bare], batch_of)))
    for name, term in without.items():
        if name in LABEL_FREE:
            continue
        torch.testing.assert_close(with_bare[name].total, term.total, **CLOSE)
        if getattr(pair.objective, "reduction", "") != "fixed":  # which divides by all records
            assert with_bare[name].count == term.count


def test_nothing_comes_from_behind_a_mask(pair: Any, examples: Any, batch_of: Any) -> None:
    bare = examples[1].replace(labels={}, id="bare")
    views = viewed(pair, [*examples, bare], batch_of)
    if not any((~mask).any() for view in views for mask in view.masks.values()):
        return
    expected, found = (
        step_gradients(pair, batch) for batch in (views, tuple(map(with_garbage, views)))
    )
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
        assert bool(gradient.isfinite().all()), name


def with_garbage(view: CrystalBatch) -> CrystalBatch:
    labels = {}
    for name, values in view.labels.items():
        mask = view.masks[name].reshape(-1, *[1] * (values.ndim - 1))
        labels[name] = torch.where(mask, values, torch.nan)
    return view.replace(labels=labels)


def step_gradients(pair: Any, *micro_batches: tuple[CrystalBatch, ...]) -> dict[str, Tensor]:
    """Gradients of one step that changes nothing, with the loss among them."""
    model = pair.model.eval()
    stepper = Stepper(model, pair.objective, torch.optim.SGD(model.parameters(), lr=0.0))
    report = stepper(micro_batches, "here")
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return gradients | {n: torch.tensor(value) for n, value in report.terms.means().items()}


def test_micro_batches_add_up_to_the_step(pair: Any, examples: Any, batch_of: Any) -> None:
    whole = step_gradients(pair, viewed(pair, examples, batch_of))
    deal = (examples[:2], [], examples[2:])
    parts = step_gradients(pair, *(viewed(pair, records, batch_of) for records in deal))
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-6, atol=1e-9 * largest)


@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_zero_terms(pair: Any, batch_of: Any, training: bool) -> None:
    pair.model.train(training)
    views = viewed(pair, [], batch_of)
    assert set(pair.objective.counts(views).values()) == {0}
    terms = alone(pair.objective.terms(pair.model, views))
    total = torch.stack([term.total for term in terms.values()]).sum()
    assert float(total.detach()) == 0.0
    total.backward()
    for parameter in pair.model.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    if pair.objective.units:
        assert all(len(value) == 0 for value in predict(pair, [], batch_of).values())


def test_every_parameter_learns(pair: Any, examples: Any, batch_of: Any) -> None:
    terms = alone(pair.objective.terms(pair.model, viewed(pair, examples, batch_of)))
    torch.stack([term.weight * term.total for term in terms.values()]).sum().backward()
    idle = idle_parts(pair)
    for name, parameter in pair.model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert learns == (not name.startswith(idle)), name


def idle_parts(pair: Any) -> tuple[str, ...]:
    """Parts of the encoder that this objective's loss cannot depend on."""
    parts = []
    if type(pair.model.encoder).__name__ == "EquivariantTransformer":
        parts.append("encoder.interaction.0.mix.")  # acts on vectors that start at 0
    if getattr(pair.model.encoder, "last_updates", False):  # ALIGNN's, which nobody reads
        parts += [f"encoder.interaction.{n}." for n in ("3.edge_update.edge_norm", "7.edge_norm")]
    head = dict(pair.model.head.items()).get("scalar")
    per_atom = {"features", "noise", "vector"} & set(pair.model.head)
    if per_atom or getattr(head, "order", "early") == "late":
        # They read atoms, so the way to the crystal's vector is unused.
        parts += ["encoder.crystal.", "encoder.attention."]
    if type(pair.objective).__name__ == "DerivativeDenoising":
        parts.append("head.scalar.out.bias")  # the constant of an energy that only has a slope
    return tuple(parts)


@pytest.mark.predicts
def test_predictions_of_a_batch_equal_those_of_its_crystals(
    pair: Any, examples: Any, batch_of: Any
) -> None:
    singly = [predict(pair, [record], batch_of) for record in examples]
    for name, value in predict(pair, examples, batch_of).items():
        assert not value.requires_grad
        expected = torch.cat([single[name] for single in singly])
        torch.testing.assert_close(value, expected, **CLOSE)


def test_terms_under_no_grad_equal_those_of_training(
    pair: Any, examples: Any, batch_of: Any
) -> None:
    views = viewed(pair, examples, batch_of)
    expected = alone(pair.objective.terms(pair.model, views))
    with torch.no_grad():
        terms = alone(pair.objective.terms(pair.model, views))
    for name, term in terms.items():
        assert not term.total.requires_grad
        torch.testing.assert_close(term.total, expected[name].total.detach(), **CLOSE)


@pytest.mark.predicts
@pytest.mark.invariance("rotation")
def test_rotation_turns_forces_and_stress(pair: Any, examples: Any, batch_of: Any) -> None:
    turn = rotation()
    turned = [r.replace(positions=r.positions @ turn, cell=r.cell @ turn) for r in examples]
    before, after = (predict(pair, records, batch_of) for records in (examples, turned))
    turn = torch.from_numpy(turn)
    for name, value in before.items():
        expected = value
        if name == "forces":
            expected = value @ turn
        elif name == "stress":
            expected = turn.T @ value @ turn
        torch.testing.assert_close(after[name], expected, **CLOSE)


@pytest.mark.predicts
@pytest.mark.invariance("supercell")
def test_a_supercell_repeats_forces_and_keeps_the_rest_per_atom(
    pair: Any, examples: Any, batch_of: Any
) -> None:
    record = examples[0]
    larger = record.replace(
        numbers=np.tile(record.numbers, 3),
        positions=np.concatenate([record.positions + k * record.cell[0] for k in range(3)]),
        cell=record.cell * np.array([[3.0], [1.0], [1.0]]),
        labels={},
    )
    small, large = (predict(pair, [r], batch_of) for r in (record, larger))
    extensive = "forces" in small
    for name, value in small.items():
        expected = value
        if name == "forces":
            expected = value.repeat(3, 1)
        elif name == "energy" and extensive:
            expected = 3 * value
        torch.testing.assert_close(large[name], expected, **CLOSE)


@pytest.fixture(scope="module")
def derivative_cases(examples: list[CrystalRecord], crystals: Any) -> list[CrystalRecord]:
    left_handed = examples[3].replace(cell=examples[3].cell[[1, 0, 2]], id="left-handed")
    return [*examples, left_handed, crystals.perovskite(lattice=4.07)]


@pytest.mark.derivatives
def test_forces_and_stress_are_derivatives_of_the_energy(
    pair: Any, derivative_cases: list[CrystalRecord], batch_of: Any
) -> None:
    check_derivatives(pair, derivative_cases, batch_of)


@pytest.mark.derivatives
def test_forces_and_stress_of_real_crystals(pair: Any, data_dir: Any, batch_of: Any) -> None:
    check_derivatives(pair, real_crystals(data_dir, 4), batch_of)


def displaced(pair: Any, record: CrystalRecord, batch_of: Any) -> CrystalBatch:
    """The crystal without symmetry, and without an edge that is almost as long as the cutoff."""
    rng = np.random.default_rng(5)
    for _ in range(100):
        positions = record.positions + rng.normal(0, 0.05, record.positions.shape)
        batch = batch_of([record.replace(positions=positions)], pair.specs)
        lengths = batch.edge_vectors(pair.specs[0]).norm(dim=-1)
        if (lengths - pair.specs[0].cutoff).abs().min() > 1e-3:
            return batch
    raise AssertionError(f"{record.id} has an edge at the cutoff whatever its atoms do")


def check_derivatives(pair: Any, records: list[CrystalRecord], batch_of: Any) -> None:
    for record in records:
        batch = displaced(pair, record, batch_of)
        predicted = pair.objective.predict(pair.model, batch)
        forces, stress = predicted["forces"], predicted["stress"]
        agree(pair, batch, forces, stress[0])
        torch.testing.assert_close(forces.sum(0), torch.zeros(3).double(), **CLOSE)
        torch.testing.assert_close(stress, stress.transpose(-1, -2), **CLOSE)


def agree(pair: Any, batch: CrystalBatch, forces: Tensor, stress: Tensor) -> None:
    """Compares with five-point differences of the energy at fixed edges along random directions."""
    positions, cell = batch.positions.numpy(), batch.cell[0].numpy()
    rng = np.random.default_rng(11)
    moves = rng.normal(size=(DIRECTIONS, *positions.shape))
    strains = rng.normal(size=(DIRECTIONS, 3, 3))
    changes = [(positions + k * STEP * move, cell) for move in moves for k in STENCIL]
    for strain in strains:
        for k in STENCIL:
            deformation = np.eye(3) + k * STEP * strain
            changes.append((positions @ deformation, cell @ deformation))
    with torch.no_grad():
        energies = pair.objective.predict(pair.model, copies(batch, changes))["energy"]
    slopes = energies.reshape(-1, len(STENCIL)).numpy() @ np.array(list(STENCIL.values())) / STEP
    along = np.einsum("dna,na->d", moves, -forces.numpy())
    strained = np.einsum("dab,ab->d", strains, stress.numpy()) * abs(np.linalg.det(cell))
    for analytic, numerical in ((along, slopes[:DIRECTIONS]), (strained, slopes[DIRECTIONS:])):
        largest, error = np.abs(numerical).max(), np.abs(analytic - numerical).max()
        assert error <= RELATIVE * max(largest, 1e-3), f"{batch.ids[0]}: {error} of {largest}"


def copies(batch: CrystalBatch, changes: list[tuple[np.ndarray, np.ndarray]]) -> CrystalBatch:
    """One crystal many times with other positions and cells, but the edges it has."""
    count, atoms = len(changes), len(batch.numbers)

    def repeated(index: Tensor, step: int) -> Tensor:
        offsets = step * torch.arange(count).repeat_interleave(len(index))
        return index.repeat(count) + offsets

    graphs = {
        spec: Graph(
            repeated(graph.source, atoms),
            repeated(graph.target, atoms),
            graph.shifts.repeat(count, 1),
            line=LineGraph(
                repeated(graph.line.source, graph.num_edges),
                repeated(graph.line.target, graph.num_edges),
            )
            if graph.line
            else None,
        )
        for spec, graph in batch.graphs.items()
    }
    return batch.replace(
        ids=tuple(str(index) for index in range(count)),
        numbers=batch.numbers.repeat(count),
        positions=torch.from_numpy(np.concatenate([positions for positions, _ in changes])),
        cell=torch.from_numpy(np.stack([cell for _, cell in changes])),
        graph_index=torch.arange(count).repeat_interleave(atoms),
        num_atoms=batch.num_atoms.repeat(count),
        labels={},
        masks={},
        graphs=graphs,
    )


def real_crystals(data_dir: Any, count: int) -> list[CrystalRecord]:
    """The first DFT frames with 2 to 6 atoms, each of elements the others lack."""
    records: list[CrystalRecord] = []
    for atoms in iread(data_dir / "small/forces_300.xyz.gz", format="extxyz"):
        seen = {number for record in records for number in record.numbers.tolist()}
        if 2 <= len(atoms) <= 6 and not seen & set(atoms.numbers.tolist()):
            name = f"frame-{len(records)}"
            records.append(CrystalRecord(name, atoms.numbers, atoms.positions, atoms.cell.array))
        if len(records) == count:
            break
    return records

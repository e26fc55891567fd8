from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from epitaxy.encoders.contract import Encoding
from epitaxy.errors import ConfigError, NeedsError, RecordError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.elements import atom_features
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Coupling, Terms
from epitaxy.objectives.contrast import nt_xent
from epitaxy.objectives.crysgnn import CrysGNN

ONLY = {f"{name}_weight": 0.0 for name in ("feature", "connectivity", "space_group", "contrast")}
LABELS = ((225, 6), (1, 0), (225, 6), None)
"""Space group and crystal system of four crystals; the last has none."""


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    made = [crystals.triclinic(seed, count) for seed, count in enumerate((3, 1, 4, 2))]
    return [labelled(record, values) for record, values in zip(made, LABELS, strict=True)]


def labelled(record: CrystalRecord, values: tuple[int, int] | None) -> CrystalRecord:
    named = zip(("space_group", "crystal_system"), values or (), strict=False)
    return record.replace(labels={name: Label(np.array(value), "") for name, value in named})


def model_of(encoder: Any, objective: CrysGNN) -> Model:
    torch.manual_seed(1)
    return Model(encoder, objective.heads(encoder)).double()


def batch_of(encoder: Any, objective: CrysGNN, records: list[CrystalRecord]) -> CrystalBatch:
    rng = np.random.default_rng(0)
    views = [objective.views(record, rng)[0] for record in records]
    (specs,) = objective.view_specs(encoder.spec)
    fields = [LabelField(name, "") for name in objective.labels]
    return collate(views, specs, (*fields, *objective.made), torch.float64)


def means_of(terms: Terms) -> dict[str, float]:
    alone = {n: t.alone() if isinstance(t, Coupling) else t for n, t in terms.items()}
    return {name: float(term.total.detach()) / term.count for name, term in alone.items()}


def test_features_cost_the_cross_entropy_of_every_bit(encoder: Any, records: Any) -> None:
    objective = CrysGNN(**{**ONLY, "feature_weight": 1.0})
    model, batch = model_of(encoder, objective), batch_of(encoder, objective, records)
    logits = model.head["features"](encoder(batch).node).detach().numpy()
    bits = atom_features("cgcnn92")[batch.numbers.numpy()]
    costs = np.where(bits == 1, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))
    assert costs.shape == (10, 92)
    (term,) = objective.terms(model, (batch,)).values()
    assert float(term.total.detach()) / term.count == pytest.approx(costs.mean())
    objective.reduction = "per_crystal"
    each = [costs[batch.graph_index == crystal].mean() for crystal in range(4)]
    (term,) = objective.terms(model, (batch,)).values()
    assert float(term.total.detach()) / term.count == pytest.approx(np.mean(each))


def test_space_groups_cost_the_cross_entropy_of_the_mean_state(encoder: Any, records: Any) -> None:
    objective = CrysGNN(**{**ONLY, "space_group_weight": 1.0})
    model, batch = model_of(encoder, objective), batch_of(encoder, objective, records)
    node = encoder(batch).node
    costs = []
    for crystal, number in enumerate((225, 1, 225)):
        mean = node[batch.graph_index == crystal].mean(0)
        logits = model.head["space_group"](mean).tolist()
        costs.append(math.log(sum(map(math.exp, logits))) - logits[number - 1])
    (term,) = objective.terms(model, (batch,)).values()
    assert float(term.total.detach()) == pytest.approx(sum(costs))
    assert term.count == 3
    assert objective.counts((batch,)) == {"space_group": 3}


def test_contrast_compares_the_crystals_with_a_label(encoder: Any, records: Any) -> None:
    objective = CrysGNN(**{**ONLY, "contrast_weight": 2.0}, temperature=0.3)
    model, batch = model_of(encoder, objective), batch_of(encoder, objective, records)
    (term,) = objective.terms(model, (batch,)).values()
    assert isinstance(term, Coupling)
    assert (term.count, term.weight) == (3, 2.0)
    node = encoder(batch).node
    crystals = torch.stack([node[batch.graph_index == crystal].mean(0) for crystal in range(3)])
    expected = nt_xent(crystals, torch.tensor([6, 0, 6]), temperature=0.3)
    torch.testing.assert_close(term.loss(term.rows), expected)


def test_a_larger_cell_has_other_pairs_and_the_same_rest(
    encoder: Any, records: Any, crystals: Any
) -> None:
    """One atom is its own neighbour twelve times; in the cube of four it has four each of three."""
    small, cube = (
        labelled(crystals.fcc(primitive=primitive), (225, 6)) for primitive in (True, False)
    )
    objective = CrysGNN()
    model = model_of(encoder, objective)
    one, four = (
        objective.terms(model, (batch_of(encoder, objective, [record, *records[1:]]),))
        for record in (small, cube)
    )
    found, expected = means_of(four), means_of(one)
    assert found["contrast"] == pytest.approx(expected["contrast"])
    assert found["space_group"] == pytest.approx(expected["space_group"])
    more = four["connectivity"].count - one["connectivity"].count
    assert more == pytest.approx(12 * 1.0 + 4 * 0.1 - 1.0)


def test_a_weight_of_0_asks_for_nothing(encoder: Any, records: Any) -> None:
    names = ("features", "connectivity", "space_group", "contrast")
    for name, argument in zip(names, ONLY, strict=True):
        objective = CrysGNN(**{**ONLY, argument: 0.5})
        batch = batch_of(encoder, objective, records)
        terms = objective.terms(model_of(encoder, objective), (batch,))
        assert list(terms) == [name] == list(objective.counts((batch,)))
        assert terms[name].weight == 0.5
    free = CrysGNN(space_group_weight=0, contrast_weight=0)
    assert (free.labels, free.couples_records) == ((), False)
    labels = CrysGNN(feature_weight=0, connectivity_weight=0)
    assert set(labels.labels) == {"space_group", "crystal_system"}
    assert (labels.specs, labels.requires, labels.couples_records) == ((), frozenset(), True)


def test_crystals_without_labels_still_train_atoms(encoder: Any, crystals: Any) -> None:
    objective = CrysGNN()
    bare = [crystals.triclinic(seed, 3) for seed in range(2)]
    batch = batch_of(encoder, objective, bare)
    terms = objective.terms(model_of(encoder, objective), (batch,))
    assert (terms["space_group"].count, terms["contrast"].count) == (0, 0)
    assert float(terms["space_group"].total.detach()) == 0.0
    assert terms["features"].count == 6


class VectorEncoder(nn.Module):
    """A crystal vector and no states of atoms: mean and mean square of the atomic numbers."""

    spec = GraphSpec("radius", 3.0)
    provides = frozenset({"graph"})
    node_width, graph_width = 0, 2

    def forward(self, batch: CrystalBatch) -> Encoding:
        numbers = batch.numbers.double()
        index = batch.graph_index
        sums = torch.zeros(batch.num_graphs, 2).double()
        sums = sums.index_add(0, index, torch.stack([numbers, numbers**2], 1) / 100)
        return Encoding(graph=sums / batch.num_atoms.unsqueeze(1))


def test_a_crystal_vector_is_enough_for_labels_of_crystals(records: Any) -> None:
    objective = CrysGNN(feature_weight=0, connectivity_weight=0)
    encoder = VectorEncoder()
    model, batch = model_of(encoder, objective), batch_of(encoder, objective, records)
    terms = objective.terms(model, (batch,))
    assert torch.equal(terms["contrast"].rows["crystal"], encoder(batch).graph[:3])
    assert set(terms) == {"space_group", "contrast"}


def test_centres_are_drawn_anew_by_the_views(encoder: Any, crystals: Any) -> None:
    objective = CrysGNN(max_pairs=12)
    record = crystals.triclinic(0, 6)
    drawn = [
        objective.views(record, np.random.default_rng(seed))[0].labels["connectivity_centers"].value
        for seed in range(20)
    ]
    assert {int(one.sum()) for one in drawn} == {2}
    assert len({tuple(one) for one in drawn}) > 5
    batch = batch_of(encoder, objective, [record])
    assert len(objective._pairs(batch).classes) == 12


def test_elements_without_features_are_refused_with_the_record(crystals: Any) -> None:
    heavy = crystals.fcc(number=103).replace(id="lawrencium")
    rng = np.random.default_rng(0)
    with pytest.raises(RecordError, match=r"'lawrencium' holds Lr, .*objective.feature_weight=0"):
        CrysGNN().views(heavy, rng)
    assert CrysGNN(feature_weight=0).views(heavy, rng) == (heavy,)


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("space_group", [1.0, 231.0], "231"),
        ("space_group", [0.0], "0"),
        ("crystal_system", [6.0, 2.5], "2.5"),
        ("crystal_system", [np.nan], "none"),
    ],
)
def test_labels_must_hold_numbers_of_groups_and_systems(
    name: str, values: list[float], found: str
) -> None:
    fine = {"space_group": [1.0, 230.0], "crystal_system": [0.0, 6.0]}
    columns = {**fine, name: values}
    table = Table({name: np.array(column) for name, column in columns.items()})
    message = f"label '{name}' .* training split has {found}; .* set its term's weight to 0"
    with pytest.raises(NeedsError, match=message):
        CrysGNN().fit(table)
    assert CrysGNN().fit(Table({n: np.array(c) for n, c in fine.items()})) == {}


class Table:
    """Two columns of a table of labels."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.scalar = columns.__getitem__
        self.present = lambda name: ~np.isnan(columns[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ONLY, "one of them positive, .*; set feature_weight, connectivity_weight"),
        ({"contrast_weight": -1.0}, "weights must be ≥ 0"),
        ({"reduction": "crystal"}, "did you mean 'per_crystal'"),
        ({"padding": "index"}, "did you mean 'index0'"),
        ({"denominator": "positives"}, "did you mean 'negatives'"),
        ({"padding": "index0", "ties": "keep"}, "ties 'cut'"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"max_pairs": 0}, "max_pairs must be at least 1"),
        ({"block_pairs": 0}, "block_pairs must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CrysGNN(**arguments)

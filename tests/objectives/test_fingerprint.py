"""Fingerprint learning: columns scaled by hand, records without the vector, wrong sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.heads.model import Model
from epitaxy.objectives.fingerprint import Fingerprint
from epitaxy.train.metrics import metric_units, prediction_metrics, prediction_sums

VALUES = np.array([[1.0, 5.0, -2.0], [3.0, 5.0, np.nan], [2.0, 5.0, 0.0], [5.0, 5.0, 2.0]])
"""Four records; the second lacks the label. Column 1 is constant."""


def table_with(values: np.ndarray, name: str = "magpie", unit: str = "") -> LabelTable:
    none = np.zeros(len(values))
    composition = np.zeros((len(values), 119), dtype=np.int64)
    table = LabelTable(none.astype(np.int64), composition, {}, {}, {}, {name: unit})
    return dataclasses.replace(table, tensors={name: values})


@pytest.fixture
def objective() -> Fingerprint:
    made = Fingerprint(size=3, head="linear")
    made.fit(table_with(VALUES))
    return made


def saying(objective: Fingerprint, encoder: Encoder, output: list[float]) -> Model:
    """A model whose head says ``output`` of every crystal."""
    model = Model(encoder, objective.heads(encoder)).double()
    head = model.head["fingerprint"]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(output))
    return model


def batch_with(encoder: Any, crystals: Any, vectors: list[list[float] | None]) -> CrystalBatch:
    records: list[CrystalRecord] = []
    for index, vector in enumerate(vectors):
        labels = {} if vector is None else {"magpie": Label(np.array(vector), "")}
        records.append(crystals.triclinic(index, 2).replace(labels=labels))
    field = LabelField("magpie", "", (3,))
    return collate(records, [encoder.spec], [field], torch.float64)


def test_columns_span_zero_to_one_on_the_training_split(objective: Fingerprint) -> None:
    statistics = objective.fit(table_with(VALUES, unit="mixed"))
    assert statistics["lowest"] == [1.0, 5.0, -2.0]  # the row with a gap counts for nothing
    assert statistics["highest"] == [5.0, 5.0, 2.0]
    assert objective.units == {"magpie": "mixed"}


def test_loss_by_hand(objective: Fingerprint, encoder: Any, crystals: Any) -> None:
    """Targets (¼, 0, ¼) and (2, 0, 1): beyond the training split, and in the constant column."""
    model = saying(objective, encoder, [0.25, 0.5, 0.0])
    views = (batch_with(encoder, crystals, [[2.0, 5.0, -1.0], None, [9.0, 7.0, 2.0]]),)
    term = objective.terms(model, views)["magpie"]
    by_hand = (0.0 + 0.25 + 0.0625) / 3 + (1.75**2 + 0.25 + 1.0) / 3
    assert float(term.total.detach()) == pytest.approx(by_hand)
    assert (term.count, term.weight) == (2, 1.0)
    assert objective.counts(views) == {"magpie": 2}


def test_predictions_are_in_the_labels_own_unit(
    objective: Fingerprint, encoder: Any, crystals: Any
) -> None:
    model = saying(objective, encoder, [0.25, 0.5, 1.0])
    batch = batch_with(encoder, crystals, [[2.0, 5.0, -1.0], None])
    predicted = objective.predict(model, batch)
    assert predicted["magpie"].tolist() == [[2.0, 5.0, 2.0]] * 2
    errors = prediction_metrics(prediction_sums(batch, predicted), "val")
    assert errors["val/magpie_mae"] == pytest.approx((0 + 0 + 3) / 3)
    assert metric_units(objective.units)["val/magpie_mae"] == ""


def test_a_column_that_varies_by_rounding_only_is_constant(encoder: Any, crystals: Any) -> None:
    objective = Fingerprint(size=3, head="linear")
    thirds = [0.1 + 0.2, 0.3, 0.3]
    objective.fit(table_with(np.column_stack([thirds, [1e-30, 0, 0], [0.0, 0.0, 0.0]])))
    model = saying(objective, encoder, [0.0, 0.0, 0.0])
    views = (batch_with(encoder, crystals, [[0.3, 1e-30, 4.0]]),)
    # Only the second column carries anything: 1e-30 is its highest value.
    total = objective.terms(model, views)["magpie"].total
    assert float(total.detach()) == pytest.approx(1 / 3)


def test_the_network_is_that_of_the_published_code(encoder: Any) -> None:
    """Width → 1024 → ReLU → 512 → ReLU → 256, then a linear layer."""
    head = Fingerprint().heads(encoder)["fingerprint"].double()
    layers = [p for p in head.parameters() if p.ndim == 2]
    assert [p.shape[0] for p in layers] == [1024, 512, 256, 145]
    vector = torch.randn(2, 2, dtype=torch.float64)
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = zip(*[iter(head.parameters())] * 2, strict=True)
    by_hand = (vector @ w1.T + b1).clamp(min=0) @ w2.T + b2
    by_hand = (by_hand.clamp(min=0) @ w3.T + b3) @ w4.T + b4
    torch.testing.assert_close(head(vector), by_hand)


def test_wrong_sizes_name_the_remedy() -> None:
    with pytest.raises(NeedsError, match=r"asks for 145 columns.*objective\.size=144"):
        Fingerprint().fit(table_with(np.zeros((2, 144))))
    with pytest.raises(NeedsError, match=r"one vector of each crystal.*\(3, 3\)"):
        Fingerprint("stress").fit(table_with(np.zeros((2, 3, 3)), "stress"))


def test_what_cannot_be_learnt_is_refused() -> None:
    with pytest.raises(NeedsError, match="no record of the training split has it"):
        Fingerprint(size=2).fit(table_with(np.full((3, 2), np.nan)))
    with pytest.raises(NeedsError, match="'magpies' to fit on; did you mean 'magpie'"):
        Fingerprint("magpies", size=2).fit(table_with(np.zeros((3, 2))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "linaer"}, "did you mean 'linear'"),
        ({"size": 0}, "at least 1 column"),
        ({"hidden": ()}, "head=linear has none"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fingerprint(**arguments)

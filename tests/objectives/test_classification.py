from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.heads.model import Model
from epitaxy.objectives.classification import Classification
from epitaxy.objectives.regression import Regression

CLASSES = (0.0, 2.0, 1.0)


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    """Three crystals of the classes 0, 2 and 1, and one without the label."""
    made = [crystals.triclinic(index, index + 1) for index in range(4)]
    labelled = [
        record.replace(labels={"kind": Label(np.array(number), "")})
        for record, number in zip(made, CLASSES, strict=False)
    ]
    return [*labelled, made[3]]


def model_of(encoder: Any, objective: Classification) -> Model:
    torch.manual_seed(1)
    return Model(encoder, objective.heads(encoder)).double()


def logits_of(model: Model, batch: Any) -> torch.Tensor:
    return model.head["scalar"](model.encoder(batch), batch)


def test_the_loss_is_the_cross_entropy_of_the_records_with_a_label(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    objective = Classification("kind", classes=3)
    model, batch = model_of(encoder, objective), batch_of(records, ("kind",))
    logits = logits_of(model, batch).detach()
    expected = sum(
        math.log(sum(math.exp(value) for value in row)) - row[int(number)]
        for row, number in zip(logits.tolist(), CLASSES, strict=False)
    )
    (term,) = objective.terms(model, (batch,)).values()
    assert float(term.total.detach()) == pytest.approx(expected)
    assert term.count == 3
    assert objective.counts((batch,)) == {"kind": 3}


def test_two_classes_give_the_probability_of_the_second(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    objective = Classification("kind")
    model, batch = model_of(encoder, objective), batch_of(records, ())
    logits = logits_of(model, batch)
    expected = torch.sigmoid(logits[:, 1] - logits[:, 0])
    torch.testing.assert_close(objective.predict(model, batch)["kind"], expected)
    assert objective.units == {"kind": ""}
    assert objective.class_counts == {"kind": 2}
    assert Regression("gap").class_counts == {}


def test_more_classes_give_a_probability_each(encoder: Any, records: Any, batch_of: Any) -> None:
    objective = Classification("kind", classes=3)
    predicted = objective.predict(model_of(encoder, objective), batch_of(records, ()))["kind"]
    assert predicted.shape == (4, 3)
    torch.testing.assert_close(predicted.sum(1), torch.ones(4).double())


def test_frequencies_are_counted(records: Any, table_of: Any) -> None:
    statistics = Classification("kind", classes=3).fit(table_of([*records, records[1]], ("kind",)))
    assert statistics == {"frequencies": {"kind": [0.25, 0.25, 0.5]}, "units": {"kind": ""}}


def test_weights_make_classes_count_alike(
    encoder: Any, records: Any, batch_of: Any, table_of: Any
) -> None:
    """Of the classes 0, 2, 1, 2 each class has a third of the weight, and the sum is that of 4."""
    given = [*records, records[1].replace(id="again")]
    objective = Classification("kind", classes=3, class_weights="balanced")
    objective.fit(table_of(given, ("kind",)))
    plain = Classification("kind", classes=3)
    model = model_of(encoder, objective)

    def losses(of: Classification) -> list[float]:
        batches = [batch_of([record], ("kind",)) for record in given]
        return [float(of.terms(model, (batch,))["kind"].total.detach()) for batch in batches]

    found, alone = losses(objective), losses(plain)
    weights = [4 / 3, 2 / 3, 4 / 3, 0.0, 2 / 3]
    assert found == pytest.approx([w * loss for w, loss in zip(weights, alone, strict=True)])
    assert objective.counts((batch_of(given, ("kind",)),))["kind"] == pytest.approx(4.0)
    twin = Classification("kind", classes=3, class_weights=[4.0, 4.0, 2.0])
    (term,) = twin.terms(model, (batch_of(given, ("kind",)),)).values()
    assert term.count == pytest.approx(12.0)
    assert float(term.total.detach()) == pytest.approx(3 * sum(found))


def test_absent_classes_are_said_and_a_single_one_is_refused(
    records: Any, table_of: Any, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        Classification("kind", classes=5).fit(table_of(records, ("kind",)))
    assert "no record of the training split is of class [3, 4]" in caplog.text
    with pytest.raises(NeedsError, match=r"at least two classes.*has \[1, 0\]"):
        Classification("kind").fit(table_of(records[:1], ("kind",)))
    with pytest.raises(NeedsError, match="at least two classes"):
        Classification("kind").fit(table_of(records[3:], ("kind",)))


def test_what_is_no_class_number_is_refused(records: Any, table_of: Any) -> None:
    with pytest.raises(NeedsError, match=r"the training split is 2, expected a class number 0 … 1"):
        Classification("kind").fit(table_of(records, ("kind",)))
    rng = np.random.default_rng(0)
    for value in (-1.0, 0.5, 3.0):
        wrong = records[0].replace(labels={"kind": Label(np.array(value), "")})
        with pytest.raises(NeedsError, match=f"record 'triclinic-0' is {value:g}, expected"):
            Classification("kind", classes=3).views(wrong, rng)
    assert Classification("kind").views(records[3], rng) == (records[3],)


def test_a_quantity_is_refused(crystals: Any, table_of: Any) -> None:
    record = crystals.triclinic(0).replace(labels={"gap": Label(np.array(1.0), "eV")})
    with pytest.raises(NeedsError, match=r"'gap' is a quantity in 'eV'.*objective=regression"):
        Classification("gap").fit(table_of([record], ("gap",)))


def test_dropout_is_for_training_alone(encoder: Any, records: Any, batch_of: Any) -> None:
    batch = batch_of(records, ("kind",))
    plain = Classification("kind", classes=3)
    dropping = Classification("kind", classes=3, dropout=0.5)
    model = model_of(encoder, dropping)
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in model_of(encoder, plain).named_parameters()
    }
    model.train()
    drawn = [dropping.terms(model, (batch,))["kind"].total.item() for _ in range(2)]
    assert drawn[0] != drawn[1]
    model.eval()
    expected = plain.predict(model, batch)["kind"]
    torch.testing.assert_close(dropping.predict(model, batch)["kind"], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": ["kind", "gap"]}, "has one label"),
        ({"label": "kind", "classes": 1}, "at least 2 classes, got classes=1"),
        ({"label": "kind", "class_weights": "balance"}, "did you mean 'balanced'"),
        ({"label": "kind", "class_weights": [1.0]}, "above 0 for each of the 2 classes"),
        ({"label": "kind", "class_weights": [1.0, 0.0]}, "above 0 for each of the 2 classes"),
        ({"label": "kind", "dropout": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"label": "kind", "pool": "median"}, "median"),
    ],
)
def test_wrong_arguments_are_refused(encoder: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Classification(**arguments).heads(encoder)

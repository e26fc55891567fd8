from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.gatgnn import GATGNN
from epitaxy.encoders.roost import Roost
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.heads.model import Model
from epitaxy.objectives.classification import Classification
from epitaxy.objectives.energy_force_stress import EnergyForceStress
from epitaxy.objectives.regression import Regression

GAPS = (1.0, 3.0, 8.0)


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    """Three crystals with a gap, two of them with a modulus, and one with neither."""
    made = []
    for index, gap in enumerate((*GAPS, None)):
        labels = {} if gap is None else {"gap": Label(gap, "eV")}
        if index < 2:
            labels["modulus"] = Label(10.0 ** (index + 1), "GPa")
        made.append(crystals.triclinic(index, index + 1).replace(labels=labels))
    return made


def model_of(encoder: Any, objective: Regression) -> Model:
    torch.manual_seed(1)
    return Model(encoder, objective.heads(encoder)).double()


def test_zscore_by_hand(records: Any, table_of: Any) -> None:
    objective = Regression("gap")
    statistics = objective.fit(table_of(records, ("gap",)))
    assert statistics["mean"]["gap"] == pytest.approx(4.0)
    assert statistics["std"]["gap"] == pytest.approx(math.sqrt(13.0))  # (9 + 1 + 16) / (3 − 1)
    assert objective.units == {"gap": "eV"}


@pytest.mark.parametrize(
    ("options", "normalise"),
    [
        ({"loss": "mse"}, lambda y: (y - 4.0) / math.sqrt(13.0)),
        ({"normalizer": "none", "loss": "l1"}, lambda y: y),
        ({"normalizer": "log10", "loss": "huber", "delta": 0.5}, None),
    ],
)
def test_the_loss_is_that_of_normalised_predictions(
    encoder: Any, records: Any, batch_of: Any, table_of: Any, options: Any, normalise: Any
) -> None:
    objective = Regression("gap", **options)
    objective.fit(table_of(records, ("gap",)))
    model, batch = model_of(encoder, objective), batch_of(records, ("gap",))
    if normalise is None:
        logs = np.log10(GAPS)
        mean, std = logs.mean(), logs.std(ddof=1)

        def normalise(y: Any) -> Any:
            return (torch.as_tensor(y).log10() - mean) / std

    predicted = objective.predict(model, batch)["gap"]
    errors = normalise(predicted[:3]) - normalise(torch.tensor(GAPS, dtype=torch.float64))
    size = errors.abs()
    expected = {
        "mse": errors.square(),
        "l1": size,
        "huber": torch.where(size < 0.5, 0.5 * errors.square(), 0.5 * (size - 0.25)),
    }[options["loss"]]
    (term,) = objective.terms(model, (batch,)).values()
    torch.testing.assert_close(term.total, expected.sum())
    assert term.count == 3


def test_a_missing_label_has_no_gradient(encoder: Any, records: Any, batch_of: Any) -> None:
    objective = Regression("gap")
    model = model_of(encoder, objective)
    (term,) = objective.terms(model, (batch_of([records[3]], ("gap",)),)).values()
    term.total.backward()
    assert term.count == 0
    assert not encoder.gain.weight.grad.any()


def test_extensive_labels_grow_with_the_cell(
    encoder: Any, records: Any, batch_of: Any, table_of: Any
) -> None:
    objective = Regression("gap", extensive=True)
    statistics = objective.fit(table_of(records, ("gap",)))
    per_atom = np.array(GAPS) / [1, 2, 3]
    assert statistics["mean"]["gap"] == pytest.approx(per_atom.mean())
    record = records[2]
    doubled = CrystalRecord(
        "doubled",
        np.tile(record.numbers, 2),
        np.concatenate([record.positions, record.positions + record.cell[0]]),
        record.cell * np.array([[2.0], [1.0], [1.0]]),
    )
    for goal, factor in ((objective, 2.0), (Regression("gap"), 1.0)):
        model = model_of(encoder, goal)
        small, large = (goal.predict(model, batch_of([r], ())) for r in (record, doubled))
        torch.testing.assert_close(large["gap"], factor * small["gap"])


def test_several_labels_have_a_head_and_a_term_each(
    encoder: Any, records: Any, batch_of: Any, table_of: Any
) -> None:
    names = ("gap", "modulus")
    objective = Regression(names)
    objective.fit(table_of(records, names))
    model, batch = model_of(encoder, objective), batch_of(records, names)
    terms = objective.terms(model, (batch,))
    assert {name: term.count for name, term in terms.items()} == {"gap": 3, "modulus": 2}
    assert objective.counts((batch,)) == {"gap": 3, "modulus": 2}
    heads = {key.split(".")[2] for key in model.state_dict() if key.startswith("head.property.")}
    assert heads == set(names)
    assert objective.units == {"gap": "eV", "modulus": "GPa"}
    alone = Regression("gap")
    alone.fit(table_of(records, names))
    twin = Model(encoder, {"scalar": model.head["property"]["gap"]})
    torch.testing.assert_close(
        alone.predict(twin, batch)["gap"], objective.predict(model, batch)["gap"]
    )


def test_a_label_that_is_left_out_is_nowhere(
    encoder: Any, records: Any, batch_of: Any, table_of: Any
) -> None:
    objective = Regression(
        ["gap", "modulus", "energy"],
        leave_out=["modulus"],
        normalizer={"gap": "minmax", "modulus": "log10", "energy": "none"},
        weights={"modulus": 5.0, "gap": 3.0},
        reduction="fixed",
    )
    given = [records[0].replace(labels={"energy": Label(2.0, "eV")}), *records]
    objective.fit(table_of(given, ("gap", "energy")))
    model = model_of(encoder, objective)
    batch = batch_of(given, ("gap", "energy"))  # without the modulus
    terms = objective.terms(model, (batch,))
    assert objective.labels == tuple(terms) == tuple(objective.units) == ("gap", "energy")
    assert {name: term.weight for name, term in terms.items()} == {"gap": 3 / 2, "energy": 1 / 2}
    assert {term.count for term in terms.values()} == {len(given)}
    assert not [name for name in model.state_dict() if "modulus" in name]


def test_each_label_has_its_own_normaliser(records: Any, table_of: Any) -> None:
    objective = Regression(
        ["gap", "modulus"], normalizer={"gap": "std_then_minmax", "modulus": "log10"}
    )
    statistics = objective.fit(table_of(records, ("gap", "modulus")))
    assert statistics["mean"] == {"gap": pytest.approx(4.0), "modulus": pytest.approx(1.5)}
    assert (statistics["smallest"]["gap"], statistics["largest"]["gap"]) == (1.0, 8.0)
    assert objective.ranges == {"gap": 3.5}
    assert objective.training_means == {"gap": pytest.approx(4.0)}


def test_labels_may_share_all_but_the_last_layer(
    encoder: Any, records: Any, batch_of: Any, table_of: Any
) -> None:
    names = ("gap", "modulus")
    objective = Regression(names, shared=True, hidden=(5,))
    objective.fit(table_of(records, names))
    model, batch = model_of(encoder, objective), batch_of(records, names)
    state = model.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items() if k.startswith("head.")} == {
        "head.shared.hidden.0.weight": (5, 2),
        "head.shared.hidden.0.bias": (5,),
        "head.shared.out.weight": (2, 5),
        "head.shared.out.bias": (2,),
    }
    outputs = model.head["shared"](encoder(batch), batch)
    predicted = objective.predict(model, batch)
    torch.testing.assert_close(predicted["gap"], outputs[:, 0] * math.sqrt(13.0) + 4.0)
    assert set(Regression("gap", shared=True).heads(encoder)) == {"scalar"}


def test_the_property_heads_of_pt_ft_pairs_have_their_layers(encoder: Any) -> None:
    """silu → linear 128 → silu → [linear 128 → silu] → linear 1."""
    for hidden in ((128,), (128, 128)):
        objective = Regression(["gap", "modulus"], hidden=hidden, activate_input=True)
        head = model_of(encoder, objective).head["property"]["gap"]
        features = torch.randn(3, 2, dtype=torch.float64)
        expected = features
        for layer in (*head.hidden, head.out):
            expected = layer(torch.nn.functional.silu(expected))
        torch.testing.assert_close(head._network(features), expected)
        assert [layer.out_features for layer in head.hidden] == list(hidden)


@pytest.mark.parametrize("options", [{}, {"shared": True}])
def test_robust_losses_also_predict_the_deviation(
    encoder: Any, records: Any, batch_of: Any, table_of: Any, options: Any
) -> None:
    """The labels have a normal (or Laplace's) distribution about the prediction, in their unit."""
    names = ("gap", "modulus")
    batch = batch_of(records, names)
    for loss in ("nll", "robust_l1"):
        objective = Regression(names, loss=loss, normalizer="zscore", **options)
        objective.fit(table_of(records, names))
        model = model_of(encoder, objective)
        found = {n: t.total.detach() for n, t in objective.terms(model, (batch,)).items()}
        predicted = objective.predict(model, batch)
        assert set(predicted) == {*names, "gap_std", "modulus_std"}
        for name, count in (("gap", 3), ("modulus", 2)):
            mean, std = predicted[name].detach(), predicted[f"{name}_std"].detach()
            if loss == "nll":
                density = torch.distributions.Normal(mean, std)
                constant = 0.0
            else:
                density = torch.distributions.Laplace(mean, std / math.sqrt(2.0))
                constant = 0.5 * math.log(2.0)
            scale = objective.normalizers[name].scale  # the loss is in normalised units
            expected = -density.log_prob(batch.labels[name])[:count] - math.log(scale) - constant
            torch.testing.assert_close(found[name], expected.sum())
        assert objective.units == {
            "gap": "eV", "modulus": "GPa", "gap_std": "eV", "modulus_std": "GPa",
        }  # fmt: skip


def test_model_folders_without_a_range_are_still_read(encoder: Any) -> None:
    objective = Regression("gap")
    objective.adopt({"mean": {"gap": -3.0}, "std": {"gap": 2.0}, "units": {"gap": "eV"}})
    normalizer = objective.normalizers["gap"]
    assert (normalizer.shift, normalizer.scale) == (-3.0, 2.0)


def test_the_head_of_a_force_pre_training_loads(encoder: Any) -> None:
    source = Model(encoder, EnergyForceStress().heads(encoder)).state_dict()
    Model(encoder, Regression("gap").heads(encoder)).load_state_dict(source, strict=True)


def test_missing_and_impossible_labels_are_refused(records: Any, table_of: Any) -> None:
    with pytest.raises(NeedsError, match="did you mean 'gap'"):
        Regression("gab").fit(table_of(records, ("gap",)))
    with pytest.raises(NeedsError, match="no record of the training split has it"):
        Regression("gap").fit(table_of(records[3:], ("gap",)))
    with pytest.raises(NeedsError, match=r"'modulus', .*objective\.leave_out=modulus"):
        Regression(["gap", "modulus"]).fit(table_of(records[2:], ("gap", "modulus")))
    metal = records[0].replace(labels={"gap": Label(0.0, "eV")})
    with pytest.raises(NeedsError, match="needs positive values"):
        Regression("gap", normalizer="log10").fit(table_of([metal, *records[1:]], ("gap",)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": []}, "at least one label"),
        ({"label": ["gap", "gap"]}, "each once"),
        ({"label": ["spacegroup.number", "gap"]}, "must not contain a dot"),
        ({"label": ["gap", "modulus"], "leave_out": "gab"}, "did you mean 'gap'"),
        ({"label": "gap", "normalizer": "z-score"}, "did you mean 'zscore'"),
        ({"label": "gap", "weights": {"modulus": 1.0}}, "has the label 'modulus'"),
        ({"label": "gap", "reduction": "mean"}, "unknown reduction"),
        ({"label": "gap", "loss": "robust_l1", "extensive": True}, "that of a sum over atoms"),
        ({"label": ["gap", "gap_std"], "loss": "nll"}, "as 'gap_std', which is a label as well"),
        ({"label": "gap", "normalizer": "log10", "extensive": True}, "not additive"),
        ({"label": "gap", "loss": "l2"}, "unknown loss 'l2'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Regression(**arguments)


CRYSTAL_VECTORS = {
    "gatgnn": lambda: GATGNN(8, 1, cutoff=3.5),
    "crystal_twins": lambda: CGCNN(8, 1, cutoff=3.5, crystal_width=6),
    "roost": lambda: Roost(8, 1, trunk=(8, 4), features="cgcnn92"),
}


@pytest.mark.parametrize("name", CRYSTAL_VECTORS)
def test_extensive_labels_grow_with_the_cell_from_a_crystal_vector_too(
    name: str, crystals: Any
) -> None:
    """The vector does not grow: not even the number of elements does, which is all Roost sees."""
    objective = Regression("gap", extensive=True)
    objective.adopt({"mean": {"gap": -3.0}, "std": {"gap": 2.0}, "units": {"gap": "eV"}})
    torch.manual_seed(0)
    model = model_of(CRYSTAL_VECTORS[name](), objective).eval()
    record = crystals.triclinic(1, 4)
    doubled = CrystalRecord(
        "doubled",
        np.tile(record.numbers, 2),
        np.concatenate([record.positions, record.positions + record.cell[0]]),
        record.cell * np.array([[2.0], [1.0], [1.0]]),
    )
    batch = collate([record, doubled], [model.encoder.spec], (), torch.float64)
    one, two = objective.predict(model, batch)["gap"]
    torch.testing.assert_close(two, 2 * one)
    out = model.head["scalar"](model.encoder(batch), batch)[0]
    torch.testing.assert_close(one, 4 * (2.0 * out - 3.0))  # per atom, in the label's unit


def test_an_extensive_label_of_compositions_is_refused(records: Any, table_of: Any) -> None:
    table = table_of(records, ("gap",))
    columns = {**table.root_mean_square, AMOUNT: np.ones(len(records))}
    table = replace(table, root_mean_square=columns)
    Regression("gap").fit(table)
    with pytest.raises(NeedsError, match="which compositions do not tell"):
        Regression("gap", extensive=True).fit(table)


@pytest.mark.parametrize("objective", [Regression, Classification])
def test_a_pool_that_would_have_no_effect_is_refused(objective: Any) -> None:
    encoder = CRYSTAL_VECTORS["gatgnn"]()
    with pytest.raises(ConfigError, match="pool=max would have no effect"):
        objective("gap", pool="max").heads(encoder)
    assert objective("gap", pool="max", order="late").heads(encoder)["scalar"].pool == "max"

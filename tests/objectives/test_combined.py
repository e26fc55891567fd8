"""Several objectives at once: sums, ramps, views, heads, predictions, against the parts alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from shaken import Shaken
from torch import nn

from epitaxy.build import build
from epitaxy.errors import ConfigError
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.combined import Combined
from epitaxy.objectives.contract import Coupling, Objective, Term
from epitaxy.objectives.energy_force_stress import EnergyForceStress
from epitaxy.objectives.part import Ramp
from epitaxy.objectives.regression import Regression

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
NAMES = ("energy", "forces", "stress", "gap", "modulus")


def regression(label: str, **options: Any) -> Regression:
    return Regression(label, hidden=(4,), **options)


def part(objective: Objective, weight: Any = 1.0, **options: Any) -> dict[str, Any]:
    return {"objective": objective, "weight": weight, **options}


def three(**changes: Any) -> Combined:
    parts = {
        "forces": part(EnergyForceStress(hidden=(4,)), 0.5),
        "gap": part(regression("gap"), 2.0),
        "hard": part(regression("modulus", loss="mse"), {"start": 4.0, "end": 0.0}),
    }
    parts |= changes
    return Combined(parts, order=list(parts))


def model_of(objective: Objective, encoder: Any) -> Model:
    torch.manual_seed(1)
    return Model(encoder, objective.heads(encoder)).double()


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    rng = np.random.default_rng(2)
    made = []
    for index, record in enumerate(crystals.many(6, seed=4, max_atoms=4)):
        labels = dict(record.labels)
        if index != 2:
            labels["gap"] = Label(rng.uniform(0, 5), "eV")
        if index % 2:
            labels["modulus"] = Label(rng.uniform(50, 200), "GPa")
        made.append(record.replace(labels=labels))
    return made


def mean_gap(records: list[CrystalRecord]) -> float:
    return float(np.mean([r.labels["gap"].value for r in records if "gap" in r.labels]))


def gradient(terms: Mapping[str, Term], encoder: nn.Module) -> list[torch.Tensor]:
    loss = torch.stack([t.weight * t.total / t.count for t in terms.values()]).sum()
    return list(torch.autograd.grad(loss, list(encoder.parameters())))


def test_it_is_the_weighted_sum_of_its_parts(
    records: Any, encoder: Any, batch_of: Any, table_of: Any
) -> None:
    combined = three()
    combined.fit(table_of(records, NAMES))
    combined.begin(0.25)
    model = model_of(combined, encoder)
    batch = batch_of(records, NAMES)
    terms = combined.terms(model, (batch,))
    assert set(terms) == {
        "forces.energy",
        "forces.forces",
        "forces.stress",
        "gap.gap",
        "hard.modulus",
    }
    assert {name: term.count for name, term in terms.items()} == combined.counts((batch,))

    weights = {"forces": 0.5, "gap": 2.0, "hard": 3.0}  # the ramp's first quarter is over
    assert combined.part_weights == weights
    expected = [torch.zeros_like(p) for p in encoder.parameters()]
    for name, weight in weights.items():
        (objective,) = (p.objective for p in combined.parts if p.name == name)
        head = model.head["scalar"] if name == "forces" else model.head[name]["scalar"]
        alone = objective.terms(Model(encoder, {"scalar": head}), (batch,))
        for key, term in alone.items():
            joint = terms[f"{name}.{key}"]
            torch.testing.assert_close(joint.total, term.total, **CLOSE)
            assert joint.weight == weight * term.weight
        for total, slope in zip(expected, gradient(alone, encoder), strict=True):
            total += weight * slope
    for found, wanted in zip(gradient(terms, encoder), expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("ramp", "weights"),
    [
        (Ramp(1.0, 0.1), {0.0: 1.0, 0.5: 0.55, 1.0: 0.1}),
        (Ramp(0.0, 2.0, 0.25, 0.75), {0.1: 0.0, 0.25: 0.0, 0.375: 0.5, 0.5: 1.0, 0.9: 2.0}),
        (Ramp(3.0, 3.0), {0.0: 3.0, 0.3: 3.0, 1.0: 3.0}),
    ],
)
def test_ramps(ramp: Ramp, weights: dict[float, float]) -> None:
    assert {progress: ramp.at(progress) for progress in weights} == pytest.approx(weights)


def test_a_part_that_weighs_nothing_at_present_is_not_computed(
    records: Any, encoder: Any, batch_of: Any
) -> None:
    combined = three()
    model, batch = model_of(combined, encoder), batch_of(records, NAMES)
    combined.begin(0.99)
    assert "hard.modulus" in combined.terms(model, (batch,))
    combined.begin(1.0)
    assert set(combined.terms(model, (batch,))) == set(combined.counts((batch,)))
    assert "hard.modulus" not in combined.counts((batch,))


@pytest.mark.parametrize(("derivatives", "passes"), [(False, 1), (True, 2)])
def test_parts_share_one_pass_through_the_encoder(
    records: Any, encoder: Any, batch_of: Any, derivatives: bool, passes: int
) -> None:
    weight = 1.0 if derivatives else 0.0
    energies = EnergyForceStress(hidden=(4,), force_weight=weight, stress_weight=weight)
    combined = three(forces=part(energies))
    model, batch = model_of(combined, encoder), batch_of(records, NAMES)
    seen: list[int] = []
    encoder.register_forward_hook(lambda *_: seen.append(1))
    combined.terms(model, (batch,))
    assert len(seen) == passes
    with torch.no_grad():  # nothing is kept from one call to the next
        combined.terms(model, (batch,))
    assert len(seen) == 2 * passes


def test_each_part_has_its_own_views_and_graphs(records: Any, batch_of: Any) -> None:
    spec = GraphSpec("radius", 3.0)
    combined = three(twins=part(Shaken()), others=part(Shaken()))
    small = Shaken.specs[0]
    assert combined.view_specs(spec) == ((spec,), (spec, small), (spec,), (spec, small), (spec,))
    assert combined.specs == (small,)
    assert not combined.plain_view
    views = combined.views(records[0], np.random.Generator(np.random.Philox(key=7)))
    assert views[0] == records[0]
    moves = [view.labels["shift"].value for view in views[1:]]
    for index, move in enumerate(moves):
        np.testing.assert_allclose(
            views[index + 1].positions - records[0].positions, move, atol=1e-6
        )
        assert not any(np.allclose(move, other) for other in moves[:index])


def test_random_numbers_of_a_part_depend_on_no_other_part(records: Any) -> None:
    def moves(combined: Combined, name: str, key: int = 7) -> list[np.ndarray]:
        rng = np.random.Generator(np.random.Philox(key=key))
        views = combined.views(records[0], rng)
        names = [p for p in ("more", "twins") if p in {q.name for q in combined.parts}]
        first = 1 + 2 * names.index(name)
        return [view.positions for view in views[first : first + 2]]

    alone = moves(three(twins=part(Shaken())), "twins")
    beside = moves(three(more=part(Shaken(draws=5)), twins=part(Shaken())), "twins")
    np.testing.assert_array_equal(alone, beside)
    assert not np.allclose(alone, moves(three(twins=part(Shaken())), "twins", key=8))


def test_a_coupled_part_reads_its_views_and_keeps_its_rows(
    records: Any, encoder: Any, batch_of: Any
) -> None:
    twins = Shaken()
    combined = three(twins=part(twins, 3.0))
    assert combined.couples_records
    model = model_of(combined, encoder)
    rng = np.random.Generator(np.random.Philox(key=7))
    drawn = [combined.views(record, rng) for record in records]
    plain, *two = (batch_of(list(one), NAMES) for one in zip(*drawn, strict=True))
    term = combined.terms(model, (plain, *two))["twins.likeness"]
    alone = twins.terms(model, tuple(two))["likeness"]
    assert isinstance(term, Coupling)
    assert (term.weight, term.count) == (1.5, len(records))
    assert combined.counts((plain, *two))["twins.likeness"] == len(records)
    torch.testing.assert_close(term.alone().total, alone.alone().total, **CLOSE)


def test_heads_are_called_by_their_role_unless_it_is_taken(encoder: Any) -> None:
    several = Regression(["gap", "modulus"], hidden=())
    combined = three(
        both=part(several),
        twins=part(Shaken()),
        again=part(Regression(["gap", "energy"], hidden=())),
    )
    names = [name for name in model_of(combined, encoder).state_dict() if "head." in name]
    assert {name.removesuffix(".out.weight") for name in names if name.endswith("out.weight")} == {
        "head.scalar", "head.gap.scalar", "head.hard.scalar",
        "head.property.gap", "head.property.modulus",
        "head.again.property.gap", "head.again.property.energy",
    }  # fmt: skip
    assert "head.projector.weight" in model_of(combined, encoder).state_dict()


def test_the_first_in_order_owns_a_head(encoder: Any) -> None:
    parts = {"b": part(regression("gap")), "a": part(regression("modulus"))}
    assert set(Combined(parts).heads(encoder)) == {"scalar", "b"}
    assert set(Combined(parts, order=["b", "a"]).heads(encoder)) == {"scalar", "a"}
    for order in (["a"], ["a", "b", "c"], ["a", "a"]):
        with pytest.raises(ConfigError, match="order must hold each of"):
            Combined(parts, order=order)


def test_a_part_can_read_the_head_of_another(records: Any, encoder: Any, batch_of: Any) -> None:
    twin = regression("gap")
    combined = Combined({"one": part(regression("gap")), "two": part(twin, share=True)})
    model, batch = model_of(combined, encoder), batch_of(records, NAMES)
    assert set(model.head) == {"scalar"}
    terms = combined.terms(model, (batch,))
    torch.testing.assert_close(terms["one.gap"].total, terms["two.gap"].total, rtol=0, atol=0)


def test_statistics_survive_json_and_predictions_are_those_of_the_parts(
    records: Any, encoder: Any, batch_of: Any, table_of: Any
) -> None:
    def config() -> dict[str, Any]:
        gap = {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap"}
        forces = {"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress"}
        energy = {**gap, "label": "energy", "extensive": True}
        parts = {"gap": gap, "forces": forces, "energy": energy}
        return {
            "_target_": "epitaxy.objectives.combined.Combined",
            "parts": {name: {"objective": parts[name]} for name in sorted(parts)},
            "order": list(parts),
        }

    combined, twin = build(config()), build(config())
    statistics = json.loads(json.dumps(combined.fit(table_of(records, NAMES))))
    assert set(statistics) == {"gap", "forces", "energy"}
    model, batch = model_of(combined, encoder), batch_of(records, NAMES)
    twin.adopt(statistics)
    assert dict(twin.units) == {
        "gap": "eV", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3",
    }  # fmt: skip
    predicted = twin.predict(model, batch)
    assert predicted.keys() == twin.units.keys()
    gap, forces, _ = (p.objective for p in combined.parts)
    torch.testing.assert_close(predicted["gap"], gap.predict(model, batch)["gap"], **CLOSE)
    assert twin.training_means == {"gap": pytest.approx(mean_gap(records))}
    second = Model(encoder, dict(model.head["forces"]))
    for name, value in forces.predict(second, batch).items():  # it comes before the third
        torch.testing.assert_close(predicted[name], value, **CLOSE)


def test_what_it_asks_for_is_what_any_part_asks_for() -> None:
    combined = three(twins=part(Shaken()))
    assert isinstance(combined, Objective)
    assert combined.labels == NAMES
    assert combined.made == Shaken.made
    assert combined.requires == {"node", "position_grad"}
    assert (combined.forbids_coupling, combined.needs_structures) == (True, True)
    plain = Combined({"gap": part(regression("gap"))})
    assert (plain.forbids_coupling, plain.couples_records, plain.needs_structures) == (False,) * 3
    assert plain.plain_view


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "at least one part"),
        ("???", "at least one part"),
        ({"a b": part(regression("gap"))}, "cannot name a part"),
        ({"a.b": part(regression("gap"))}, "cannot name a part"),
        ({"keys": part(regression("gap"))}, "cannot name a part"),
        ({"a": {"weight": 1.0}}, r"parts\.a needs an objective"),
        ({"a": {"objective": {"label": "gap"}}}, r"parts\.a needs an objective"),
        ({"a": part(regression("gap"), wieght=1)}, "did you mean 'weight'"),
        ({"a": part(regression("gap"), 0)}, "0 for the whole run; leave the part out"),
        ({"a": part(regression("gap"), {"start": 0, "end": 0.0})}, "0 for the whole run"),
        ({"a": part(regression("gap"), -1.0)}, "must be ≥ 0 and finite"),
        ({"a": part(regression("gap"), float("nan"))}, "must be ≥ 0 and finite"),
        ({"a": part(regression("gap"), "much")}, "must be a number, got 'much'"),
        ({"a": part(regression("gap"), {"begin": 1})}, "takes no 'begin'"),
        ({"a": part(regression("gap"), {"from": 0.5, "to": 0.5})}, "0 ≤ from < to ≤ 1"),
        ({"a": part(Combined({"b": part(regression("gap"))}))}, "is combined itself"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Combined(parts)


def test_parts_that_contradict_each_other_are_refused(encoder: Any) -> None:
    class Other(Shaken):
        made = (LabelField("shift", "bohr", (3,), per_atom=True),)

    class Reader(Shaken):
        labels = ("shift",)

    with pytest.raises(ConfigError, match=r"parts\.b makes the label 'shift' as"):
        Combined({"a": part(Shaken()), "b": part(Other())})
    with pytest.raises(ConfigError, match="another part reads that of the data set"):
        Combined({"a": part(Shaken()), "b": part(Reader())})
    one, other = regression("gap"), regression("gap")
    statistics = {"mean": {"gap": 0.0}, "std": {"gap": 1.0}, "units": {"gap": "eV"}}
    clash = Combined({"a": part(one), "b": part(other)})
    with pytest.raises(ConfigError, match=r"parts\.b predicts 'gap' in 'meV', a part before it"):
        clash.adopt({"a": statistics, "b": {**statistics, "units": {"gap": "meV"}}})
    named = {"a": part(regression("gap")), "scalar": part(regression("modulus"))}
    with pytest.raises(ConfigError, match="named like the role of a head"):
        Combined(named).heads(encoder)
    with pytest.raises(ConfigError, match=r"parts\.a\.share=true, but no part before it"):
        Combined({"a": part(regression("gap"), share=True)}).heads(encoder)
    for options in ({"pool": "max"}, {"activation": "relu"}, {"residual": True}):
        unlike = {"a": part(one), "b": part(regression("gap", **options), share=True)}
        with pytest.raises(ConfigError, match="in class, size or options"):
            Combined(unlike).heads(encoder)


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ({"evry": 2}, "did you mean 'every'"),
        ({"every": 0}, "every ≥ 1"),
        ({"decay": 1.0}, "decay < 1"),
        ({"limit": 1.0}, "limit > 1"),
        ({"every": "often"}, "must be a number"),
    ],
)
def test_rules_of_balance_that_make_no_sense_are_refused(balance: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Combined({"a": part(regression("gap")), "b": part(Shaken())}, balance=balance)
    with pytest.raises(ConfigError, match="at least two parts"):
        Combined({"a": part(regression("gap"))}, balance={})

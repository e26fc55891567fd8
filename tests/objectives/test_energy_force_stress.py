from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.contract import Encoding
from epitaxy.errors import ConfigError, NeedsError, UnitError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.heads.model import Model
from epitaxy.objectives.energy_force_stress import EnergyForceStress
from epitaxy.units import GPA_PER_EV_A3

LABELS = ("energy", "forces", "stress")


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    return [crystals.labelled(crystals.triclinic(s, n), s) for s, n in ((1, 2), (2, 4), (3, 3))]


def model_of(encoder: Any, objective: EnergyForceStress) -> Model:
    torch.manual_seed(1)
    return Model(encoder, objective.heads(encoder)).double()


def terms_of(objective: EnergyForceStress, model: Model, batch: Any) -> dict[str, float]:
    return {name: float(t.total.detach()) for name, t in objective.terms(model, (batch,)).items()}


def test_terms_are_sums_of_losses_of_the_predictions(
    encoder: Any, records: Any, batch_of: Any, table_of: Any
) -> None:
    objective = EnergyForceStress(
        energy_loss="l1", force_loss="mse", stress_loss="l1", stress_unit="GPa", stress_delta=1.0
    )
    objective.fit(table_of(records, LABELS))
    model, batch = model_of(encoder, objective), batch_of(records, LABELS)
    predicted = objective.predict(model, batch)
    error = {name: predicted[name] - batch.labels[name] for name in LABELS}
    expected = {
        "energy": (error["energy"] / batch.num_atoms).abs().sum(),
        "forces": error["forces"].square().sum(),
        "stress": error["stress"].abs().sum() * GPA_PER_EV_A3,
    }
    terms = objective.terms(model, (batch,))
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].total, value)
    assert {n: t.count for n, t in terms.items()} == {"energy": 3, "forces": 27, "stress": 27}
    assert {n: t.weight for n, t in terms.items()} == objective.weights


def test_per_structure_mean_weighs_small_and_large_crystals_alike(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    objective = EnergyForceStress(
        energy_weight=0, stress_weight=0, force_loss="mse", force_reduction="per_structure_mean"
    )
    model, batch = model_of(encoder, objective), batch_of(records, LABELS)
    error = objective.predict(model, batch)["forces"] - batch.labels["forces"]
    expected = sum(float(part.square().mean()) for part in error.split(batch.num_atoms.tolist()))
    assert terms_of(objective, model, batch)["forces"] == pytest.approx(expected)
    assert objective.counts((batch,)) == {"forces": 3}


def test_the_energy_is_the_scaled_network_plus_the_element_reference(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    objective = EnergyForceStress()
    model, batch = model_of(encoder, objective), batch_of(records, LABELS)
    raw = objective.predict(model, batch)
    reference = {str(z): -0.5 * z for z in np.unique(batch.numbers.numpy())}
    objective.adopt({"scale": 2.5, "reference": reference, "other_elements": 99.0})
    scaled = objective.predict(model, batch)
    shift = [-0.5 * float(record.numbers.sum()) for record in records]
    torch.testing.assert_close(
        scaled["energy"], 2.5 * raw["energy"] + torch.tensor(shift, dtype=torch.float64)
    )
    for name in ("forces", "stress"):
        torch.testing.assert_close(scaled[name], 2.5 * raw[name])


RATIOS = {
    (1, 0, 0): ("energy",),
    (0, 1, 0): ("forces",),
    (0, 1, 1): ("forces", "stress"),
    (1, 1, 1): LABELS,
    (1, 500, 500): LABELS,
}


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_term_without_weight_is_not_computed(
    encoder: Any, records: Any, batch_of: Any, ratio: tuple[int, int, int]
) -> None:
    """Energies alone are never differentiated by positions; otherwise once for all terms."""
    energy, force, stress = (float(weight) for weight in ratio)
    objective = EnergyForceStress(
        energy_weight=energy, force_weight=force, stress_weight=stress, force_loss="l2norm"
    )
    model = model_of(encoder, objective)
    batch = batch_of(records, RATIOS[ratio])  # what has no weight need not be there
    with mock.patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as grad:
        terms = objective.terms(model, (batch,))
    derivatives = [name for name in RATIOS[ratio] if name != "energy"]
    assert [len(call.args[1]) for call in grad.call_args_list] == [len(derivatives)] * bool(
        derivatives
    )
    assert tuple(terms) == objective.labels == RATIOS[ratio]
    assert [term.weight for term in terms.values()] == [weight for weight in ratio if weight]
    assert ("position_grad" in objective.requires) == bool(derivatives)
    assert objective.forbids_coupling == bool(derivatives)
    sum(term.weight * term.total / term.count for term in terms.values()).backward()
    assert encoder.gain.weight.grad.abs().max() > 0


def test_norms_of_errors_do_not_depend_on_the_axes(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    for reduction in ("component_mean", "per_structure_mean"):
        objective = EnergyForceStress(
            energy_loss="l2norm",
            force_loss="l2norm",
            stress_loss="l2norm",
            force_reduction=reduction,
        )
        model, batch = model_of(encoder, objective), batch_of(records, LABELS)
        predicted = objective.predict(model, batch)
        error = {name: (predicted[name] - batch.labels[name]).detach() for name in LABELS}
        lengths = error["forces"].square().sum(-1).sqrt()
        if reduction == "per_structure_mean":
            means = [part.mean() for part in lengths.split(batch.num_atoms.tolist())]
            lengths = torch.stack(means)
        expected = {
            "energy": error["energy"].abs() / batch.num_atoms,
            "forces": lengths,
            "stress": error["stress"].square().sum((-1, -2)).sqrt(),
        }
        terms = objective.terms(model, (batch,))
        for name, values in expected.items():
            torch.testing.assert_close(terms[name].total.detach(), values.sum())
            assert terms[name].count == objective.counts((batch,))[name] == len(values)


def test_force_only_training_reaches_the_weights_and_survives_an_empty_batch(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    objective = EnergyForceStress(energy_weight=0.0, stress_weight=0.0)
    model = model_of(encoder, objective)
    objective.terms(model, (batch_of([], LABELS),))["forces"].total.backward()
    objective.terms(model, (batch_of(records, LABELS),))["forces"].total.backward()
    assert encoder.gain.weight.grad.abs().max() > 0


def test_an_encoder_without_positions_gives_energies_only(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    encoder.provides = frozenset({"node"})
    objective = EnergyForceStress(force_weight=0.0, stress_weight=0.0)
    predicted = objective.predict(model_of(encoder, objective), batch_of(records, LABELS))
    assert list(predicted) == ["energy"]


def test_stress_of_a_slab_is_left_out_and_not_counted(
    encoder: Any, records: Any, batch_of: Any
) -> None:
    slab = records[0].replace(pbc=np.array([True, True, False]), id="slab")
    objective = EnergyForceStress()
    rng = np.random.default_rng(0)
    viewed = [objective.views(record, rng)[0] for record in (*records, slab)]
    assert set(viewed[-1].labels) == {"energy", "forces"}
    assert viewed[0] is records[0]
    counts = objective.counts((batch_of(viewed, LABELS),))
    assert counts["stress"] == 9 * 3
    assert counts["energy"] == 4


def test_fit_is_robust_and_in_json(records: Any, table_of: Any) -> None:
    statistics = EnergyForceStress().fit(table_of(records, LABELS))
    roots = [np.sqrt(np.square(r.labels["forces"].value).mean()) for r in records]
    assert statistics["scale"] == pytest.approx(np.median(roots))
    assert set(statistics["reference"]) == {str(z) for r in records for z in r.numbers}
    wild = records[0].replace(
        id="wild", labels={"forces": Label(np.full((2, 3), 236.0), "eV/Å", per_atom=True)}
    )
    again = EnergyForceStress().fit(table_of([*records, wild], LABELS))
    assert again["scale"] < 2 * statistics["scale"]


def test_forces_that_vanish_by_symmetry_do_not_set_the_scale(records: Any, table_of: Any) -> None:
    still = []
    for record in records * 2:
        forces = Label(np.zeros_like(record.positions), "eV/Å", per_atom=True)
        still.append(record.replace(labels={**record.labels, "forces": forces}))
    statistics = EnergyForceStress().fit(table_of([*records, *still], LABELS))
    roots = [np.sqrt(np.square(r.labels["forces"].value).mean()) for r in records]
    assert statistics["scale"] == pytest.approx(np.median(roots))
    without = EnergyForceStress(force_weight=0, stress_weight=0).fit(table_of(still, ("energy",)))
    assert without["scale"] > 0


def test_energies_alone_are_scaled_by_their_own_spread(records: Any, table_of: Any) -> None:
    """Not by forces that nobody learns: those of relaxed frames are small whatever the energies."""
    table = table_of(records, LABELS)
    calm = dataclasses.replace(
        table, root_mean_square={"forces": 1e-3 * table.root_mean_square["forces"]}
    )
    only_energies = EnergyForceStress(force_weight=0, stress_weight=0)
    scale = only_energies.fit(table)["scale"]
    assert only_energies.fit(calm)["scale"] == scale
    wider = dataclasses.replace(table, scalars={"energy": 3.0 * table.scalar("energy")})
    assert only_energies.fit(wider)["scale"] == pytest.approx(3.0 * scale, rel=0.05)
    learnt = EnergyForceStress()
    assert learnt.fit(calm)["scale"] == pytest.approx(1e-3 * learnt.fit(table)["scale"])


def test_reference_none_is_the_bare_network(records: Any, table_of: Any) -> None:
    statistics = EnergyForceStress(reference="none").fit(table_of(records, LABELS))
    assert statistics == {"scale": 1.0, "reference": {}, "other_elements": 0.0}


@pytest.mark.parametrize("missing", LABELS)
def test_a_weight_on_a_missing_label_is_refused(records: Any, table_of: Any, missing: str) -> None:
    present = [name for name in LABELS if name != missing]
    stripped = [r.replace(labels={name: r.labels[name] for name in present}) for r in records]
    for names in (present, LABELS):  # no such column, and a column without a value
        with pytest.raises(NeedsError, match=f"weight of .* on '{missing}'"):
            EnergyForceStress().fit(table_of(stripped, names))


def test_coupled_encoders_are_refused_unless_told_otherwise() -> None:
    assert EnergyForceStress().forbids_coupling
    assert not EnergyForceStress(allow_coupling=True).forbids_coupling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"force_weight": -1.0}, "≥ 0"),
        ({"energy_weight": 0, "force_weight": 0, "stress_weight": 0}, "one of them positive"),
        ({"force_loss": "hubr"}, "did you mean 'huber'"),
        ({"stress_unit": "eV"}, "measure different quantities"),
        ({"force_reduction": "mean"}, "component_mean"),
        ({"reference": "liner"}, "did you mean 'linear'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnitError), match=message):
        EnergyForceStress(**arguments)


def test_energies_are_sums_over_atoms_whatever_crystal_vector_there_is(crystals: Any) -> None:
    encoder = CGCNN(8, 1, cutoff=3.5, crystal_width=6)
    objective = EnergyForceStress(order="early", reference="none")
    model = Model(encoder, objective.heads(encoder)).double()
    batch = collate([crystals.triclinic(1, 4)], [encoder.spec], (), torch.float64)
    energy = objective.predict(model, batch)["energy"]
    node = encoder(batch).node
    expected = model.head["scalar"](Encoding(node=node), batch)
    torch.testing.assert_close(energy, expected.detach())

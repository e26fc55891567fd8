"""Uniting records: which labels may move to another description, and which values win."""

from __future__ import annotations

import numpy as np
import pytest
from planted import KINDS, disguised

from epitaxy.data.unite import Member, MergeReport, fitting, unite
from epitaxy.errors import RecordError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label


def gap(value, **more):
    return {"gap": Label(value, "eV", "PBE"), **more}


def energy(value):
    return {"energy": Label(value, "eV", "PBE")}


def forces(record, value=0.1):
    return {"forces": Label(np.full((record.num_atoms, 3), value), "eV/Å", "PBE", per_atom=True)}


def stress(value=0.01):
    return {"stress": Label(np.eye(3) * value, "eV/Å^3", "PBE")}


def members(*records):
    return [Member("ABCDEF"[place], record) for place, record in enumerate(records)]


def parts(*records):
    """Names of the data sets in each part."""
    return ["".join(one.dataset for one in part) for part in fitting(members(*records))]


def united(records, rule="first", tolerance=1e-3, fields=None):
    given = members(*records)
    known = fields or {
        name: label.field(name)
        for record in reversed(records)
        for name, label in record.labels.items()
    }
    report = MergeReport()
    return unite(given, "new", known, rule, tolerance, report), report


@pytest.fixture(scope="module")
def salt(crystals):
    return crystals.rocksalt()


@pytest.fixture(scope="module")
def other_salt(salt):
    """The same crystal with the same number of atoms, turned and shuffled."""
    return disguised(salt, KINDS["rotation"], np.random.default_rng(0))


def test_scalars_move_to_any_description(salt, other_salt, crystals):
    primitive = crystals.record("p", [11, 17], [[0] * 3, [0.5] * 3], 2.82 * (1 - np.eye(3)))
    records = [salt, other_salt.replace(labels=gap(5.0)), primitive.replace(labels=gap(5.0))]
    assert parts(*records) == ["ABC"]


@pytest.mark.parametrize("labels", [lambda r: forces(r), lambda r: stress()])
def test_forces_and_stress_stay_in_their_frame(salt, other_salt, labels):
    bare, rotated = salt, other_salt.replace(labels=labels(other_salt))
    assert parts(bare, rotated) == ["A", "B"]
    assert parts(salt.replace(labels=labels(salt)), other_salt) == ["A", "B"]
    own = salt.replace(labels=labels(salt))
    assert parts(bare, rotated, own, other_salt.replace(labels=gap(5.0))) == ["AC", "BD"]


def test_what_belongs_to_the_composition_moves_too(salt, other_salt):
    vector = {"magpie": Label(np.arange(3.0), "", "Magpie")}
    records = [salt.replace(labels=vector), other_salt.replace(labels={**vector, **gap(5.0)})]
    assert parts(*records) == ["AB"]
    record, report = united(records)
    assert sorted(record.labels) == ["gap", "magpie"]
    assert (report.conflicts, report.dropped) == ({}, {})


def test_positions_may_lie_in_another_cell_and_a_little_off(salt):
    labelled = salt.replace(labels=forces(salt))
    shifts = np.random.default_rng(0).integers(-2, 3, (8, 3)) @ salt.cell
    assert parts(labelled, salt.replace(positions=salt.positions + shifts + 5e-4)) == ["AB"]
    assert parts(labelled, salt.replace(positions=salt.positions + 2e-3)) == ["A", "B"]
    order = np.array([1, 0, 2, 3, 4, 5, 6, 7])
    assert parts(labelled, salt.replace(positions=salt.positions[order])) == ["A", "B"]


def test_a_molecule_has_no_cell_to_agree_on():
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    nowhere = np.zeros(3, bool)
    one = CrystalRecord("a", np.array([8, 1, 1]), water, np.zeros((3, 3)), nowhere)
    assert parts(one.replace(labels=forces(one)), one.replace(cell=np.eye(3) * 20)) == ["AB"]
    assert parts(one.replace(labels=forces(one)), one.replace(positions=water + 1)) == ["A", "B"]


def test_the_total_energy_belongs_to_a_number_of_atoms(salt, other_salt, crystals):
    primitive = crystals.record("p", [11, 17], [[0] * 3, [0.5] * 3], 2.82 * (1 - np.eye(3)))
    labelled = salt.replace(labels=energy(-27.0))
    assert parts(labelled, other_salt.replace(labels=energy(-27.0))) == ["AB"]
    assert parts(labelled, primitive.replace(labels=energy(-6.75))) == ["A", "B"]


def test_the_united_record_has_all_labels_and_the_first_structure(salt, other_salt):
    first = salt.replace(labels=gap(5.0), group="g")
    second = other_salt.replace(labels={"modulus": Label(24.0, "GPa", "PBE")})
    record, report = united([first, second])
    assert (record.id, record.group) == ("new", "g")
    np.testing.assert_array_equal(record.positions, salt.positions)
    values = {name: float(label.value) for name, label in record.labels.items()}
    assert values == {"gap": 5.0, "modulus": 24.0}
    assert report.to_dict() == MergeReport().to_dict(), "nothing to report"


@pytest.mark.parametrize(("rule", "expected"), [("first", 5.0), ("mean", 5.2)])
def test_values_that_disagree_are_resolved_and_counted(salt, rule, expected):
    records = [salt.replace(labels=gap(value)) for value in (5.0, 5.0, 5.6)]
    record, report = united(records, rule)
    assert float(record.labels["gap"].value) == pytest.approx(expected)
    assert record.labels["gap"].scheme == "PBE"
    assert report.conflicts == {"gap": 1}
    (example,) = report.examples["gap"]
    assert example["id"] == "new"
    assert [line["value"] for line in example["values"]] == [5.0, 5.0, 5.6]
    assert [line["dataset"] for line in example["values"]] == ["A", "B", "C"]


def test_values_that_disagree_can_be_an_error(salt):
    records = [salt.replace(labels=gap(value)) for value in (5.0, 5.6)]
    with pytest.raises(RecordError, match=r"'gap' disagree: 5\.0 \(A, rocksalt\), 5\.6 \(B,"):
        united(records, "error")


@pytest.mark.parametrize(
    ("first", "second", "tolerance", "conflict"),
    [
        (5.0, 5.004, 1e-3, False),  # 0.08 % apart
        (5.0, 5.006, 1e-3, True),  # 0.12 %
        (5.0, 5.4, 0.1, False),
        (0.0, 0.0, 0.0, False),
        (0.0, 1e-6, 1e-3, True),
        (-3.0, 3.0, 0.5, True),
    ],
)
def test_the_tolerance_is_relative_to_the_larger_value(salt, first, second, tolerance, conflict):
    records = [salt.replace(labels=gap(value)) for value in (first, second)]
    _, report = united(records, tolerance=tolerance)
    assert bool(report.conflicts) == conflict


def test_one_component_is_enough_to_disagree(salt):
    turned = salt.replace(labels=forces(salt))
    value = turned.labels["forces"].value.copy()
    value[3, 1] = -0.1
    other = salt.replace(labels={"forces": Label(value, "eV/Å", "PBE", per_atom=True)})
    record, report = united([turned, other], "mean")
    assert report.conflicts == {"forces": 1}
    assert report.examples["forces"][0]["values"][0]["value"] == "not scalar"
    expected = np.full((8, 3), 0.1)
    expected[3, 1] = 0.0
    np.testing.assert_allclose(record.labels["forces"].value, expected, atol=1e-8)


def test_labels_of_another_scheme_are_left_out_and_counted(salt):
    records = [
        salt.replace(labels=gap(5.0)),
        salt.replace(labels={"gap": Label(8.5, "eV", "HSE")}),
        salt.replace(labels={"gap": Label(5000.0, "meV", "PBE")}),
    ]
    record, report = united(records, "mean")
    assert float(record.labels["gap"].value) == 5.0
    assert report.dropped == {"gap": 2}
    assert report.conflicts == {}


def test_amounts_belong_to_the_composition_and_are_no_label():
    def alloy(amounts, numbers=(26, 28), **labels):
        amount = Label(np.array(amounts), "", per_atom=True)
        zeros = np.zeros((2, 3))
        return CrystalRecord(
            "alloy", np.array(numbers), zeros, np.zeros((3, 3)), np.zeros(3, bool),
            {AMOUNT: amount, **labels},
        )  # fmt: skip

    first, second = alloy([1, 1]), alloy([0.5, 0.5], (28, 26), hardness=Label(3.0, "GPa"))
    assert parts(first, second) == ["AB"]
    record, report = united([first, second])
    assert record.labels[AMOUNT].value.tolist() == [1, 1]
    assert float(record.labels["hardness"].value) == 3.0
    assert report.conflicts == {}

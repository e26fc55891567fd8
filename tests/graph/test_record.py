from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from epitaxy.errors import NeedsError, RecordError
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, Label, LabelField

CELL = np.eye(3) * 4.0
POSITIONS = np.array([[0.0, 0, 0], [2, 2, 2]])


def record(**changes) -> CrystalRecord:
    arguments = {"id": "r", "numbers": [55, 17], "positions": POSITIONS, "cell": CELL}
    return CrystalRecord(**{**arguments, **changes})


def test_arrays_get_one_precision_and_layout():
    made = record(
        numbers=[55, 17],
        positions=np.asfortranarray(POSITIONS.astype(np.float32)),
        pbc=np.array([1, 0, 1]),
    )
    assert made.numbers.dtype == np.uint8
    assert made.positions.dtype == np.float64
    assert made.positions.flags.c_contiguous
    assert made.pbc.tolist() == [True, False, True]
    assert record().pbc.tolist() == [True, True, True]
    assert record(pbc=False).pbc.tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "non-empty id"),
        ({"numbers": []}, "at least one atom"),
        ({"numbers": [[55, 17]]}, "at least one atom"),
        ({"numbers": [55, 0]}, "atomic number 0 is no element"),
        ({"numbers": [55, 119]}, "atomic number 119 is no element"),
        ({"numbers": [55, -1]}, "atomic number -1 is no element"),
        ({"numbers": [55, 17, 17]}, r"positions has shape \(2, 3\), expected \(3, 3\)"),
        ({"positions": POSITIONS * np.nan}, "positions holds NaN"),
        ({"cell": np.eye(2)}, r"cell has shape \(2, 2\)"),
        ({"cell": np.full((3, 3), np.inf)}, "cell holds NaN or infinity"),
        ({"cell": np.zeros((3, 3))}, "span no volume"),
        ({"cell": np.ones((3, 3))}, "span no volume"),
        ({"cell": np.diag([4.0, 0, 4]), "pbc": [True, True, False]}, "span no volume"),
    ],
)
def test_a_structure_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(RecordError, match=message):
        record(**changes)


@pytest.mark.parametrize("pbc", [(1, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_axes_that_are_not_periodic_need_no_vector(pbc):
    assert record(cell=CELL * np.array(pbc)[:, None], pbc=np.array(pbc)).num_atoms == 2


def test_volume_of_a_left_handed_cell_is_positive():
    assert record(cell=CELL[[1, 0, 2]]).volume == pytest.approx(64.0)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Label(float("nan"), "eV"), "'x' holds NaN"),
        (Label(np.full((2, 3), np.inf), "eV/Å", per_atom=True), "'x' holds NaN or infinity"),
        (Label(np.zeros((3, 3)), "eV/Å", per_atom=True), "3 rows for 2 atoms"),
    ],
)
def test_labels_that_do_not_fit_are_refused(label, message):
    with pytest.raises(RecordError, match=rf"'r'.*{message}"):
        record(labels={"x": label})


def test_labels_know_their_field():
    energy = Label(-3, "eV", "PBE")
    forces = Label(np.zeros((2, 3)), "eV/Å", per_atom=True)
    assert energy.value.shape == ()
    assert energy.value.dtype == np.float64
    assert forces.value.dtype == np.float32
    assert energy.field("energy") == LabelField("energy", "eV", (), False, "PBE")
    assert forces.field("forces") == LabelField("forces", "eV/Å", (3,), True, "")


def test_equality_sees_every_part():
    labels = {"energy": Label(-3.0, "eV")}
    one = record(labels=labels)
    assert one == record(labels={"energy": Label(-3.0, "eV")})
    for changes in (
        {"id": "s"},
        {"group": "g"},
        {"numbers": [17, 55]},
        {"positions": POSITIONS + 1},
        {"cell": CELL * 2},
        {"pbc": [True, True, False]},
        {"labels": {}},
        {"labels": {"energy": Label(-3.0, "meV")}},
        {"labels": {"energy": Label(-3.1, "eV")}},
    ):
        assert one != one.replace(**changes)
    assert one != "r"


def test_group_defaults_to_the_id():
    assert record().group == "r"
    assert record(group="mp-1").group == "mp-1"


def test_a_record_cannot_be_edited():
    made = record(labels={"energy": Label(-3.0, "eV")})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.id = "other"
    with pytest.raises(TypeError):
        made.labels["energy"] = Label(0.0, "eV")


def test_the_structure_digest_sees_the_structure_only():
    digest = record().structure_digest()
    assert record(id="s", group="g", labels={"e": Label(1.0, "eV")}).structure_digest() == digest
    for changes in (
        {"numbers": [17, 55]},
        {"positions": POSITIONS + 1e-12},
        {"cell": CELL * 1.5},
        {"pbc": [True, True, False]},
    ):
        assert record(**changes).structure_digest() != digest


def test_a_table_tells_which_records_carry_a_label():
    table = LabelTable(
        num_atoms=np.array([1, 2, 3]),
        composition=np.zeros((3, 119), int),
        scalars={"energy": np.array([1.0, np.nan, 3.0])},
        root_mean_square={},
        largest={},
    )
    assert table.present("energy").tolist() == [True, False, True]
    with pytest.raises(NeedsError, match="did you mean 'energy'"):
        table.scalar("energies")


def test_a_sheared_cell_keeps_its_volume() -> None:
    """Adding 100,000 times one lattice vector to another changes the cell, not its volume."""
    cell = np.diag([4.0, 4.0, 4.0])
    cell[1] += 1e5 * cell[0]
    record = CrystalRecord("sheared", np.array([11]), np.zeros((1, 3)), cell)
    assert record.volume == pytest.approx(64.0)


def test_a_record_travels_to_other_processes(crystals):
    record = crystals.triclinic(3, 4)
    labelled = record.replace(labels={"energy": Label(-1.5, "eV", "PBE")})
    copy = pickle.loads(pickle.dumps(labelled))
    assert copy == labelled
    with pytest.raises(TypeError):
        copy.labels["energy"] = Label(0.0, "eV")

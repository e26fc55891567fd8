"""Crystals that a function yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources import python_records
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.python_records import PythonRecords
from epitaxy.errors import ConfigError, RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

FIELDS = {"energy": FieldRule("energy", "eV", optional=True)}
CALLED = "epitaxy.data.sources.python_records.crystals"
"""Tests put their function there: it must be found by its dotted path."""


def read(
    monkeypatch: pytest.MonkeyPatch,
    function: Any,
    fields: dict[str, FieldRule] = FIELDS,
    uri: str = "",
    **options: Any,
) -> list[Any]:
    monkeypatch.setattr(python_records, "crystals", function, raising=False)
    return list(PythonRecords(fields, function=CALLED, **options).read(uri))


def atoms() -> Atoms:
    crystal = Atoms("NaCl", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)
    crystal.calc = SinglePointCalculator(crystal, energy=-3.0)
    crystal.info["name"] = "salt"
    crystal.arrays["charge"] = np.array([1.0, -1.0])
    return crystal


def structure() -> Structure:
    crystal = Structure(
        Lattice.cubic(4), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]],
        site_properties={"charge": [1.0, -1.0]},
    )  # fmt: skip
    crystal.properties.update({"energy": -3.0, "name": "salt"})
    return crystal


def test_whatever_describes_a_crystal(monkeypatch: pytest.MonkeyPatch) -> None:
    record = CrystalRecord(
        "own", np.array([11]), np.zeros((1, 3)), np.eye(3) * 4, np.ones(3, dtype=bool), {}
    )
    entry = ComputedStructureEntry(structure(), -3.0)
    plain = {"numbers": [11, 17], "positions": np.array([[0, 0, 0], [2, 2, 2]]), "cell": [4, 4, 4],
             "energy": np.float64(-3)}  # fmt: skip
    items = [record, atoms(), structure(), entry, plain]
    first, *others = read(monkeypatch, lambda _: items)
    assert first is record
    for number, found in enumerate(others, 1):
        assert found.id == str(number)
        assert found.numbers.tolist() == [11, 17]
        np.testing.assert_allclose(found.positions, [[0, 0, 0], [2, 2, 2]], atol=1e-12)
        assert found.pbc.all()
        assert float(found.labels["energy"].value) == -3


def test_names_and_values_of_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**FIELDS, "charge": FieldRule("charge", "e", per_atom=True)}
    for item in (atoms(), structure()):
        (record,) = read(monkeypatch, lambda _, item=item: [item], fields, id="{name}-{row}")
        assert record.id == "salt-1"
        assert record.labels["charge"].value.tolist() == [1, -1]


def test_molecules_are_not_periodic(monkeypatch: pytest.MonkeyPatch) -> None:
    water = Molecule(["O", "H"], [[0, 0, 0], [1, 0, 0]])
    bare = Atoms("OH", [[0, 0, 0], [1, 0, 0]])
    for record in read(monkeypatch, lambda _: [water, bare]):
        assert not record.pbc.any()
        assert record.numbers.tolist() == [8, 1]


def test_the_function_gets_the_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def function(uri: str) -> Iterator[Atoms]:
        seen.append(uri)
        yield atoms()

    assert len(read(monkeypatch, function, uri="some/place")) == 1
    assert seen == ["some/place"]


def test_other_things_are_named_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def as_dict(self) -> int:
            return 3

    for item in (3, None, "NaCl", Odd(), [1]):
        bad, good = read(monkeypatch, lambda _, item=item: [item, atoms()])
        assert isinstance(good, CrystalRecord)
        assert isinstance(bad, BadRecord)
        assert bad.where == f"{CALLED}, item 0"
        with pytest.raises(RecordError, match=r"got a \w+, expected a CrystalRecord, Atoms"):
            raise bad.error
    shared = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    (bad,) = read(monkeypatch, lambda _: [shared])
    assert "not fully occupied" in str(bad.error)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), OSError("x"), RuntimeError("x"), KeyError("x"), ZeroDivisionError("x")],
)
def test_a_function_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def function(uri: str) -> Iterator[Atoms]:
        yield atoms()
        raise error

    monkeypatch.setattr(python_records, "crystals", function, raising=False)
    items = PythonRecords(FIELDS, function=CALLED).read("u")
    assert isinstance(next(items), CrystalRecord)
    with pytest.raises(SourceError, match=rf"crystals\('u'\) failed: {type(error).__name__}: .*x"):
        next(items)


def test_errors_of_ours_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(uri: str) -> Iterator[Atoms]:
        raise SourceError("no such place")
        yield

    with pytest.raises(SourceError, match=r"^no such place$"):
        read(monkeypatch, function)


def test_what_is_no_function(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="failed: TypeError"):
        read(monkeypatch, lambda _: 3)
    with pytest.raises(SourceError, match="failed: TypeError"):
        read(monkeypatch, 3)
    with pytest.raises(ConfigError):
        list(PythonRecords(FIELDS, function="epitaxy.nowhere.f").read(""))

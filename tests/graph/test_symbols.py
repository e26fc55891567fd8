"""Symbols and formulas, against pymatgen's ``Composition``."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from epitaxy.errors import EpitaxyError, RecordError
from epitaxy.graph.symbols import ATOMIC_NUMBERS, SYMBOLS, atomic_number, parse_formula
from epitaxy.graph.symbols import reduced_formula as reduced


def test_the_periodic_table() -> None:
    assert len(SYMBOLS) == 119
    for element in Element:
        if element.symbol not in ("D", "T"):
            assert SYMBOLS[element.Z] == element.symbol
    assert ATOMIC_NUMBERS["D"] == ATOMIC_NUMBERS["T"] == 1
    assert "X" not in ATOMIC_NUMBERS


@pytest.mark.parametrize(
    ("symbol", "number"),
    [
        ("Fe", 26), (" Fe ", 26), ("Fe3+", 26), ("Fe+3", 26), ("Fe2.5+", 26), ("O2-", 8), ("O-", 8),
        ("Cl1", 17), ("D", 1), ("Fe_pv", 26), ("Si/79d9987ad87", 14), ("Og", 118),
    ],
)  # fmt: skip
def test_what_stands_behind_a_symbol_is_ignored(symbol: str, number: int) -> None:
    assert atomic_number(symbol) == number


@pytest.mark.parametrize(
    ("symbol", "hint"),
    [
        ("fe", "did you mean 'Fe'"), ("CL", "did you mean 'Cl'"), ("X", "expected a symbol"),
        ("Qq", "expected a symbol"), ("", "expected a symbol"), ("Fex", "expected a symbol"),
        ("26", "expected a symbol"), ("X0+", "expected a symbol"),
    ],
)  # fmt: skip
def test_what_is_no_element_is_refused(symbol: str, hint: str) -> None:
    with pytest.raises(RecordError, match=hint):
        atomic_number(symbol)


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("NaN", {"Na": 1, "N": 1}),
        ("Ca(OH)2", {"Ca": 1, "O": 2, "H": 2}),
        ("CuSO4·5H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("CuSO4 * 5 H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("[Cu(NH3)4]SO4", {"Cu": 1, "N": 4, "H": 12, "S": 1, "O": 4}),
        ("$LaFe_{4}$", {"La": 1, "Fe": 4}),
        ("Fe₂O₃", {"Fe": 2, "O": 3}),
        ("LiNi.5Mn1.5O4", {"Li": 1, "Ni": 0.5, "Mn": 1.5, "O": 4}),
        ("Fe1e-05Ni", {"Fe": 1e-5, "Ni": 1}),
        ("Fe0Ni2", {"Ni": 2}),
        ("CO", {"C": 1, "O": 1}),
        ("Co", {"Co": 1}),
        ("D2O", {"H": 2, "O": 1}),
        ("Mg(Al0.5(Si2O)2)3", {"Mg": 1, "Al": 1.5, "Si": 12, "O": 6}),
    ],
)
def test_formulas(formula: str, amounts: dict[str, float]) -> None:
    found = {SYMBOLS[number]: amount for number, amount in parse_formula(formula).items()}
    assert found == pytest.approx(amounts)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "no chemical formula"), ("3", "no chemical formula"), ("nacl", "stuck at 'nacl'"),
        ("Fe)2", "closes a bracket"), ("(Fe", "leaves a bracket open"), ("FeXy", "'Xy' is no"),
        ("Fe.Ni", "stuck at '.Ni'"), ("Fe0", "no element with an amount"),
        ("Fe-2", "stuck at '-2'"),
        ("Fe9999999", "amount above 1e"), ("Fe" + "9" * 400, "amount above 1e"),
        ("FeO1·", "no chemical formula"), ("()", "no element with an amount"),
        ("steel", "no chemical formula"), ("Fe3+", "stuck at"), ("Fe,Ni", "stuck at ',Ni'"),
    ],
)  # fmt: skip
def test_other_texts_are_refused(formula: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_formula(formula)


@given(st.text(alphabet="FeONiax(){}[]0123456789.·*+-eE_$ \x00é", max_size=24))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        amounts = parse_formula(text)
    except EpitaxyError:
        return
    assert amounts
    assert all(0 < amount <= 1e6 for amount in amounts.values())


@pytest.mark.parametrize(
    ("first", "second", "formula"),
    [
        ("SiO2", "Si2O4", "O2Si"),
        ("Fe0.5Ni0.5", "FeNi", "FeNi"),
        ("LiNi0.5Mn1.5O4", "Li2NiMn3O8", "Li2Mn3NiO8"),
        ("Fe0.62Ni0.38", "Fe31Ni19", "Fe31Ni19"),
        ("Fe0.0001Ni", "Fe1Ni10000", "FeNi10000"),
    ],
)
def test_formulas_are_the_same_at_any_scale(first: str, second: str, formula: str) -> None:
    assert reduced(parse_formula(first)) == reduced(parse_formula(second)) == formula


def test_amounts_of_many_digits_become_fractions() -> None:
    assert reduced({26: 0.620000123, 28: 0.380000077}) == "Fe0.62Ni0.38"
    assert reduced({26: 2, 28: 0}) == "Fe"


def rows(path: Path, column: str) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as stream:
        yield from (row[column] for row in csv.DictReader(stream))


def compare(formulas: list[str]) -> None:
    for formula in formulas:
        expected = {
            element.Z: amount
            for element, amount in Composition(formula).element_composition.items()
        }
        assert parse_formula(formula) == pytest.approx(expected), formula


@pytest.mark.parametrize(
    ("name", "column", "count", "step"),
    [
        ("mp_non_metals.csv.gz", "composition", 38_791, 25),
        ("matbench_expt_gap.csv", "formula", 4_124, 3),
        ("matbench_glass.csv", "formula", 5_078, 3),
        ("matbench_steels_yield.csv", "formula", 279, 1),
    ],
)
def test_real_formulas(data_dir: Path, name: str, column: str, count: int, step: int) -> None:
    formulas = list(rows(data_dir / "composition" / name, column))
    assert len(formulas) == count
    compare(formulas[::step])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("mp_non_metals.csv.gz", "composition"), ("matbench_expt_gap.csv", "formula"),
        ("matbench_glass.csv", "formula"),
    ],
)  # fmt: skip
def test_all_real_formulas(data_dir: Path, name: str, column: str) -> None:
    compare(list(rows(data_dir / "composition" / name, column)))

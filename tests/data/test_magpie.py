"""Magpie vectors: numbers worked out by hand, matminer's own featurisers, and what is refused."""

from __future__ import annotations

import csv
import gzip
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data import magpie
from epitaxy.data.magpie import COLUMNS, MAGPIE, can_balance, magpie_label, magpie_vector
from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.symbols import parse_formula

pytest.importorskip("matminer", reason="matminer is in the dev extra")


def of(formula: str) -> dict[str, float]:
    """The vector of a formula by column, without units."""
    names = [column.partition(" (")[0] for column in COLUMNS]
    return dict(zip(names, magpie_vector(parse_formula(formula)).tolist(), strict=True))


def composition(formula: str) -> CrystalRecord:
    amounts = parse_formula(formula)
    count = len(amounts)
    label = Label(np.array(list(amounts.values())), "", per_atom=True)
    return CrystalRecord(
        formula, np.array(list(amounts)), np.zeros((count, 3)), np.zeros((3, 3)),
        np.zeros(3, bool), {AMOUNT: label},
    )  # fmt: skip


def test_the_norms_of_haematite() -> None:
    """Shares 0.4 and 0.6: √0.52, 0.28^(1/3), 0.088^(1/5)."""
    found = of("Fe2O3")
    assert found["0-norm"] == 2
    assert found["2-norm"] == pytest.approx(0.52**0.5, rel=1e-12)
    assert found["3-norm"] == pytest.approx(0.28 ** (1 / 3), rel=1e-12)
    assert found["5-norm"] == pytest.approx(0.088**0.2, rel=1e-12)


def test_the_atomic_numbers_of_haematite() -> None:
    """26 and 8: mean 15.2, mean deviation 0.4 · 10.8 + 0.6 · 7.2 = 8.64, mostly oxygen."""
    found = of("Fe2O3")
    expected = {"minimum": 8, "maximum": 26, "range": 18, "mean": 15.2, "avg_dev": 8.64, "mode": 8}
    assert {name: found[f"{name} Number"] for name in expected} == pytest.approx(expected)


def test_the_valence_electrons_of_haematite() -> None:
    """Fe 3d⁶ 4s², O 2s² 2p⁴: s 2, p 0.6 · 4, d 0.4 · 6."""
    found = of("Fe2O3")
    assert [found[f"avg {shell} valence electrons"] for shell in "spdf"] == pytest.approx(
        [2.0, 2.4, 2.4, 0.0]
    )
    assert found["mean NdValence"] == found["avg d valence electrons"]


def test_the_ionic_character_of_rock_salt() -> None:
    """Pauling: Na 0.93, Cl 3.16, so 1 − exp(−2.23²/4) = 0.7115; the mean has x(1 − x) = ¼ of it."""
    found = of("NaCl")
    assert found["max ionic char"] == pytest.approx(1 - np.exp(-(2.23**2) / 4), rel=1e-12)
    assert found["avg ionic char"] == pytest.approx(found["max ionic char"] / 4, rel=1e-12)
    assert of("Si")["max ionic char"] == of("Si")["avg ionic char"] == 0


def test_two_equally_frequent_elements_have_the_smaller_mode() -> None:
    assert of("NaCl")["mode Number"] == 11
    assert of("NaCl2")["mode Number"] == 17


def test_columns_are_named_with_units_and_the_published_ones_come_first() -> None:
    assert len(COLUMNS) == len(set(COLUMNS)) == 145
    assert COLUMNS[:7] == (*(f"{p}-norm" for p in (0, 2, 3, 5, 7, 10)), "minimum Number")
    assert "mean MeltingT (K)" in COLUMNS
    assert "mode GSvolume_pa (Å³/atom)" in COLUMNS
    assert COLUMNS[138:142] == tuple(f"avg {shell} valence electrons" for shell in "spdf")
    assert COLUMNS[142:] == ("max ionic char", "avg ionic char", "compound possible")


@pytest.mark.parametrize("other", ["Fe4O6", "O3Fe2", "Fe0.4O0.6", "Fe20O30"])
def test_only_ratios_count(other: str) -> None:
    assert np.array_equal(
        magpie_vector(parse_formula("Fe2O3")), magpie_vector(parse_formula(other))
    )


def test_structures_and_compositions_have_the_same_vector(crystals: Any) -> None:
    record = crystals.perovskite()
    label = magpie_label(record)
    assert label == magpie_label(composition("BaTiO3"))
    assert (label.value.shape, label.unit, label.per_atom) == ((145,), "", False)
    twice = record.replace(
        numbers=np.tile(record.numbers, 2),
        positions=np.concatenate([record.positions, record.positions + record.cell[0]]),
        cell=record.cell * np.array([[2.0], [1.0], [1.0]]),
    )
    assert magpie_label(twice) == label


@pytest.mark.parametrize(
    ("charges", "amounts", "possible"),
    [
        ([(2, 3), (-2,)], {26: 3, 8: 4}, True),  # 2 · 3 + 2 = 8: iron of both charges
        ([(1,), (-2,)], {47: 1, 8: 1}, False),  # AgO, if silver is +1 only
        ([(1,), (-2,)], {47: 2, 8: 1}, True),
        ([(2, 4), (-3,)], {1: 1, 2: 1}, False),  # 3 lies between, but a lone atom has a whole one
        ([(2, 4), (-3,)], {1: 2, 2: 2}, True),
        ([(4,), (4,)], {14: 1, 32: 1}, False),
        ([(), (-1,)], {2: 1, 9: 1}, False),
        ([()], {2: 1}, True),
        ([(1,), (-2,)], {11: 0.7, 8: 0.35}, True),
        ([(2, 3), (-2,)], {26: 0.123456789, 8: 0.15}, True),  # a mean charge of 2.43
        ([(2, 3), (-2,)], {26: 0.123456789, 8: 0.20}, False),  # of 3.24
        ([(1, 3), (-1,)], {1: 10_000, 2: 20_001}, True),  # too many atoms to try all sums
    ],
)
def test_charges_balance(charges: Any, amounts: dict[int, float], possible: bool) -> None:
    assert can_balance(charges, amounts) is possible


@cache
def featurisers(whole: bool) -> Any:
    from matminer.featurizers.composition import (
        ElementProperty,
        IonProperty,
        Stoichiometry,
        ValenceOrbital,
    )

    parts = (
        Stoichiometry(),
        ElementProperty.from_preset("magpie", impute_nan=False),
        ValenceOrbital(props=["avg"], impute_nan=False),
    )
    return parts, IonProperty(fast=not whole)


def featurised(formula: str, *, whole: bool = True) -> list[float]:
    """What matminer makes of a formula, in our order; without the last column if not ``whole``."""
    from pymatgen.core import Composition

    parts, ions = featurisers(whole)
    read = Composition(formula)
    values = [float(value) for part in parts for value in part.featurize(read)]
    possible, largest, mean = ions.featurize(read)
    return [*values, float(largest), float(mean), *[float(possible)] * whole]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "formula",
    [
        "Fe2O3",
        "NaCl",
        "Si",
        "LiFePO4",
        "Fe3O4",
        "CuFeS2",
        "Cs3Sb",
        "K2Cr2O7",
        "AgO",
        "EuPmYbTbKrXe",
    ],
)
def test_matminer_agrees(formula: str) -> None:
    expected = featurised(formula)
    assert magpie_vector(parse_formula(formula)) == pytest.approx(expected, rel=1e-12, abs=1e-10)


@pytest.mark.filterwarnings("ignore")
def test_matminer_agrees_on_real_crystals(data_dir: Path) -> None:
    with gzip.open(data_dir / "small" / "mp_2000.csv.gz", "rt", encoding="utf-8") as stream:
        csv.field_size_limit(10**8)
        formulas = {row["formula"] for row in islice(csv.DictReader(stream), 60)}
    for formula in sorted(formulas):
        expected = featurised(formula)
        found = magpie_vector(parse_formula(formula))
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-10), formula


@pytest.mark.filterwarnings("ignore")
def test_matminer_agrees_on_fractional_amounts(data_dir: Path) -> None:
    """Measured alloys; matminer's test of charges refuses them, so the last column is left out."""
    with (data_dir / "composition" / "matbench_expt_gap.csv").open(encoding="utf-8") as stream:
        formulas = [row["formula"] for row in csv.DictReader(stream) if "." in row["formula"]][:30]
    assert len(formulas) == 30
    for formula in formulas:
        expected = featurised(formula, whole=False)
        found = magpie_vector(parse_formula(formula))[:144]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), formula


def test_elements_of_unknown_properties_are_named() -> None:
    with pytest.raises(RecordError, match=r"He \(MeltingT, Electronegativity\), Bk \(CovalentRad"):
        magpie_vector({2: 1, 97: 1, 8: 2})
    with pytest.raises(RecordError, match=r"record 'ArF': no Magpie vector: .*Ar \(Electroneg"):
        magpie_label(composition("ArF"))


def test_without_matminer_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(magpie, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"matminer.*pip install 'epitaxy\[composition\]'"):
        magpie.check_fingerprint(MAGPIE)
    magpie.check_fingerprint(None)


def test_an_unknown_fingerprint_is_refused() -> None:
    with pytest.raises(ConfigError, match="fingerprint is 'magpy'; did you mean 'magpie'"):
        magpie.check_fingerprint("magpy")

"""Checks of labels against physics: on alloys under an exact potential, clean and with mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from epitaxy.data.physics import Check, PhysicsBook
from epitaxy.data.sources.emt import EmtTrajectories
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label

GPA = 160.21766208
"""1 eV/Å³ in GPa, CODATA 2014."""
Change = Callable[[CrystalRecord, np.ndarray], Any]


@pytest.fixture(scope="module")
def alloys() -> list[CrystalRecord]:
    """Relaxations and dynamics of nine alloys; forces and stress are exact derivatives."""
    return list(EmtTrajectories(alloys=9, frames=12).read("emt://"))


def change(record: CrystalRecord, name: str, change: Change) -> CrystalRecord:
    label = record.labels[name]
    value = change(record, np.asarray(label.value, np.float64))
    changed = Label(value, label.unit, label.scheme, label.per_atom)
    return record.replace(labels={**record.labels, name: changed})


def swapped(order: tuple[int, int, int]) -> Change:
    """The shear slots yz, xz, xy filled with components of the given indices instead."""

    def apply(_: CrystalRecord, value: np.ndarray) -> np.ndarray:
        shears = [value[1, 2], value[0, 2], value[0, 1]]
        changed = np.diag(np.diag(value))
        for slot, component in zip(((1, 2), (0, 2), (0, 1)), order, strict=True):
            changed[slot] = changed[slot[::-1]] = shears[component]
        return changed

    return apply


def checked(records: list[CrystalRecord], **arguments: int) -> dict[str, Check]:
    book = PhysicsBook(**arguments)
    for record in records:
        book.add(record)
    return {check.name: check for check in book.checks()}


def verdicts(checks: Mapping[str, Check], verdict: str) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == verdict}


def test_exact_labels_are_confirmed(alloys: list[CrystalRecord]) -> None:
    checks = checked(alloys)
    assert not verdicts(checks, "contradicted") | verdicts(checks, "suspicious")
    wanted = {"energy_work", "forces_work", "stress_work", "stress_order", "forces_direction"}
    assert wanted | {"force_sum", "stress_symmetry"} <= verdicts(checks, "confirmed")
    evidence = checks["stress_work"].evidence
    assert evidence["stress_slope"] == pytest.approx(1, abs=0.1)
    assert evidence["forces_slope"] == pytest.approx(1, abs=0.05)
    json.dumps([dict(check.evidence) for check in checks.values()], allow_nan=False)


@pytest.mark.parametrize(
    ("label", "mistake", "check", "words"),
    [
        ("stress", lambda r, v: -v, "stress_work", "declare sign: compression_positive"),
        ("stress", lambda r, v: v * 10 * GPA, "stress_work", "declare unit: kbar"),
        ("stress", lambda r, v: -v * 10 * GPA, "stress_work", "kbar.*compression_positive"),
        ("stress", lambda r, v: v * GPA, "stress_work", "declare unit: GPa"),
        ("stress", lambda r, v: v / 10 / GPA, "stress_work", "taken for kbar"),
        ("stress", lambda r, v: v * 10, "stress_work", "ten times too large"),
        ("stress", lambda r, v: v / 10, "stress_work", "ten times too small"),
        ("stress", lambda r, v: v * r.volume, "stress_work", "divide by the volume"),
        ("stress", swapped((1, 0, 2)), "stress_order", "declared as xz, yz behave like yz, xz"),
        ("stress", swapped((2, 0, 1)), "stress_order", "xz, xy, yz behave like yz, xz, xy"),
        ("forces", lambda r, v: -v, "forces_work", "multiply by -1"),
        ("forces", lambda r, v: v * 10, "forces_work", "ten times too large"),
        ("forces", lambda r, v: v / 10, "forces_work", "ten times too small"),
        ("forces", lambda r, v: v * 0.529177, "forces_work", "eV/bohr"),
        ("forces", lambda r, v: v * 0.529177 / 27.2114, "forces_work", r"declare unit: Ha/bohr"),
        ("energy", lambda r, v: v / r.num_atoms, "energy_work", "per atom"),
        ("energy", lambda r, v: v * r.num_atoms, "energy_work", "declare them as totals"),
        ("energy", lambda r, v: v / 27.2114, "energy_work", "declare unit: Ha"),
        ("energy", lambda r, v: v * 23.0605, "energy_work", "declare unit: kcal/mol"),
        ("energy", lambda r, v: -v, "energy_work", "multiply by -1"),
    ],
)
def test_a_mistake_is_found_and_named(
    alloys: list[CrystalRecord], label: str, mistake: Change, check: str, words: str
) -> None:
    checks = checked([change(record, label, mistake) for record in alloys])
    assert check in verdicts(checks, "contradicted")
    assert re.search(words, checks[check].statement), checks[check].statement
    blamed = {name.split("_")[0] for name in verdicts(checks, "contradicted")}
    assert blamed == {label}


def test_energies_of_two_schemes_are_found(alloys: list[CrystalRecord]) -> None:
    """Every third frame with an oxide-like correction of 0.4 eV per atom."""
    mixed = [
        change(record, "energy", lambda r, v: v - 0.4 * r.num_atoms) if index % 3 == 0 else record
        for index, record in enumerate(alloys)
    ]
    checks = checked(mixed)
    assert verdicts(checks, "contradicted") == {"energy_scheme"}
    assert "0.4 eV per atom" in checks["energy_scheme"].statement
    assert "forces_work" in verdicts(checks, "confirmed")


@pytest.mark.parametrize("factor", [-1.0, 1602.1766])
def test_stresses_of_two_conventions_are_found(alloys: list[CrystalRecord], factor: float) -> None:
    mixed = [
        change(record, "stress", lambda r, v: v * factor) if index % 3 == 0 else record
        for index, record in enumerate(alloys)
    ]
    checks = checked(mixed)
    assert "stress_scheme" in verdicts(checks, "contradicted")
    assert not {"energy_work", "forces_work"} & verdicts(checks, "contradicted")


def test_without_labels_there_is_nothing_to_say(crystals: Any) -> None:
    assert PhysicsBook().checks() == []
    gap = crystals.rocksalt().replace(labels={"gap": Label(np.array(1.0), "eV")})
    assert checked([gap]) == {}


def test_compositions_are_ignored() -> None:
    labels = {"energy": Label(np.array(-3.0), "eV"), AMOUNT: Label(np.ones(2), "1", per_atom=True)}
    composition = CrystalRecord(
        "NaCl", np.array([11, 17]), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3, bool), labels
    )
    assert checked([composition] * 3) == {}


def test_random_labels_confirm_nothing(crystals: Any) -> None:
    checks = checked(crystals.many(60))
    work = {"energy_work", "forces_work", "stress_work", "forces_direction", "stress_order"}
    assert not work & verdicts(checks, "confirmed")


def test_five_frames_contradict_nothing(alloys: list[CrystalRecord]) -> None:
    """Too little to be decisive, whatever is wrong."""
    for few in (alloys[:5], [change(r, "stress", lambda r, v: -v) for r in alloys[::27]]):
        assert not verdicts(checked(list(few)), "contradicted")


@pytest.mark.parametrize("max_frames", [20_000, 60])
def test_order_and_readers_do_not_matter(alloys: list[CrystalRecord], max_frames: int) -> None:
    whole, left, right = (PhysicsBook(max_frames=max_frames) for _ in range(3))
    for record in alloys:
        whole.add(record)
    order = np.random.default_rng(3).permutation(len(alloys))
    for position, index in enumerate(order):
        (left if position % 2 else right).add(alloys[index])
    left.merge(right)
    assert left.checks() == whole.checks()


def test_labels_may_lie_in_any_frame_of_reference(alloys: list[CrystalRecord]) -> None:
    """Each frame turned by itself, shifted, and its atoms moved into other cells."""
    rng = np.random.default_rng(0)
    turned = []
    for record in alloys:
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        rotation *= np.sign(np.linalg.det(rotation))
        places = record.positions + rng.integers(-2, 3, (record.num_atoms, 3)) @ record.cell
        labels = dict(record.labels)
        labels["forces"] = Label(labels["forces"].value @ rotation, "eV/Å", "EMT", per_atom=True)
        stress = rotation.T @ labels["stress"].value @ rotation
        labels["stress"] = Label(stress, "eV/Å^3", "EMT")
        positions = (places + rng.normal(size=3)) @ rotation
        cell = record.cell @ rotation
        turned.append(record.replace(positions=positions, cell=cell, labels=labels))
    there, here = checked(turned), checked(alloys)
    for name in ("stress_work", "forces_work"):
        for key, value in here[name].evidence.items():
            assert there[name].evidence[key] == pytest.approx(value, rel=0.02, abs=0.01), key

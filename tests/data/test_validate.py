"""Checks beyond those of every record: overlaps, printable ids, one meaning per label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epitaxy.data.validate import FieldBook, check_record, closest_pair
from epitaxy.errors import RecordError, UnitError
from epitaxy.graph.record import CrystalRecord, Label


def pair(distance: float, cell: np.ndarray | None = None, pbc: Any = True) -> CrystalRecord:
    cell = np.eye(3) * 4 if cell is None else cell
    positions = np.array([[0.0, 0, 0], [distance, 0, 0]])
    return CrystalRecord("pair", np.array([1, 1]), positions, cell, np.broadcast_to(pbc, 3))


def test_the_closest_pair_of_known_crystals(crystals: Any) -> None:
    """Rocksalt: a/2. Perovskite ABX3: B-X = a/2. Fcc: a/√2."""
    assert closest_pair(crystals.rocksalt(lattice=5.64))[2] == pytest.approx(2.82)
    assert closest_pair(crystals.perovskite(lattice=4.0))[2] == pytest.approx(2.0)
    assert closest_pair(crystals.fcc(primitive=False))[2] == pytest.approx(3.61 / np.sqrt(2))
    assert closest_pair(crystals.fcc())[2] == np.inf


def test_it_agrees_with_a_search_over_images(crystals: Any) -> None:
    images = np.stack(np.meshgrid(*[range(-2, 3)] * 3), axis=-1).reshape(-1, 3)
    for seed in range(12):
        record = crystals.triclinic(seed, num_atoms=7)
        best = np.inf
        for i in range(7):
            for j in range(i):
                vectors = record.positions[i] - record.positions[j] + images @ record.cell
                best = min(best, np.linalg.norm(vectors, axis=1).min())
        assert closest_pair(record)[2] == pytest.approx(best)


def test_it_works_in_blocks(crystals: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = crystals.triclinic(3, num_atoms=9)
    whole = closest_pair(record)
    monkeypatch.setattr("epitaxy.data.validate._PAIRS_PER_BLOCK", 20)
    assert closest_pair(record) == whole


@pytest.mark.parametrize(
    ("distance", "pbc"), [(0.0, True), (0.05, True), (3.95, True), (8.0, True), (0.05, False)]
)
def test_overlapping_atoms_are_refused(distance: float, pbc: bool) -> None:
    """Across the boundary as well: the cell is 4 Å long."""
    with pytest.raises(RecordError, match="atoms 0 and 1 are"):
        check_record(pair(distance, pbc=pbc))


def test_images_along_open_axes_do_not_exist() -> None:
    check_record(pair(3.95, pbc=[False, True, True]))
    check_record(pair(4.0, np.diag([0.0, 4, 4]), pbc=[False, True, True]))
    check_record(pair(0.5))


@pytest.mark.parametrize("identity", ["a\nb", " a", "a\t", "a\x00"])
def test_ids_fit_on_one_line(crystals: Any, identity: str) -> None:
    with pytest.raises(RecordError, match="unprintable characters or spaces"):
        check_record(crystals.fcc().replace(id=identity))
    with pytest.raises(RecordError, match="its group"):
        check_record(crystals.fcc().replace(group=identity))


def labelled(crystals: Any, **labels: Label) -> CrystalRecord:
    record: CrystalRecord = crystals.rocksalt()
    return record.replace(labels=labels)


GAP = Label(np.array(1.0), "eV", "PBE")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Label(np.array(1.0), "meV", "PBE"), "unit 'meV'.*unit 'eV'"),
        (Label(np.array(1.0), "eV", "HSE06"), "scheme 'HSE06'.*scheme 'PBE'"),
        (Label(np.ones(2), "eV", "PBE"), r"shape \(2,\).*shape \(\)"),
        (Label(np.ones(8), "eV", "PBE", per_atom=True), "per_atom True.*per_atom False"),
    ],
)
def test_a_label_that_differs_is_refused(crystals: Any, other: Label, what: str) -> None:
    book = FieldBook()
    book.check(labelled(crystals, gap=GAP))
    book.check(labelled(crystals))
    with pytest.raises(RecordError, match=what):
        book.check(labelled(crystals, gap=other))
    assert [field.name for field in book.fields] == ["gap"]


def test_a_refused_record_leaves_no_trace(crystals: Any) -> None:
    book = FieldBook()
    with pytest.raises(UnitError, match="expected 'eV'"):
        book.check(labelled(crystals, a=GAP, energy=Label(np.array(1.0), "Ry")))
    assert book.fields == ()


@pytest.mark.parametrize(
    ("name", "label", "what"),
    [
        ("energy", Label(np.ones(8), "eV", per_atom=True), r"\(per atom\), expected \(\)"),
        ("forces", Label(np.ones((8, 3)), "eV/Å"), r"expected \(3,\) \(per atom\)"),
        ("stress", Label(np.ones(6), "eV/Å^3"), r"shape \(6,\).*expected \(3, 3\)"),
        ("band gap", GAP, "must be a letter followed by"),
        ("../gap", GAP, "must be a letter followed by"),
        ("dos", Label(np.ones((0, 2)), "1"), "empty values"),
    ],
)
def test_labels_of_a_wrong_form_are_refused(
    crystals: Any, name: str, label: Label, what: str
) -> None:
    with pytest.raises(RecordError, match=what):
        FieldBook().check(labelled(crystals, **{name: label}))

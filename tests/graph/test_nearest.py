from __future__ import annotations

import numpy as np
import pytest

from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

SIMPLE_CUBIC = CrystalRecord("sc", [1], np.zeros((1, 3)), np.eye(3) * 3.0)


def rank(record: CrystalRecord, edges, distances, atom: int) -> list[tuple]:
    """All neighbours of ``atom`` in the order that the rule for ties defines."""
    mine = edges.target == atom
    rounded = np.rint(distances(record, edges)[mine] * 1e8).astype(int).tolist()
    keys = zip(
        rounded, edges.source[mine].tolist(), map(tuple, edges.shifts[mine].tolist()), strict=True
    )
    return sorted(keys)


@pytest.mark.parametrize("limit", [1, 6, 12, 17, 79, 80, 200])
def test_ties_fall_to_the_lower_neighbour_and_image(edges, limit):
    """Six images of the one atom lie at 3 Å, twelve at 4.24 Å: the lowest images are kept."""
    found = edges(SIMPLE_CUBIC, GraphSpec("nearest", 8.0, limit))
    integers = [(i, j, k) for i in range(-2, 3) for j in range(-2, 3) for k in range(-2, 3)]
    expected = sorted((i * i + j * j + k * k, (i, j, k)) for i, j, k in integers)
    expected = [image for square, image in expected if 0 < square <= 7][:limit]
    assert [tuple(shift) for shift in found.shifts.tolist()] == expected


@pytest.mark.parametrize("limit", [5, 12, 60])
def test_the_nearest_come_first(crystals, edges, distances, limit):
    record = crystals.triclinic(31, 5)
    everything = edges(record, GraphSpec(cutoff=8.0))
    found = edges(record, GraphSpec("nearest", 8.0, limit))
    for atom in range(5):
        expected = rank(record, everything, distances, atom)[:limit]
        mine = found.target == atom
        shifts = [tuple(shift) for shift in found.shifts[mine].tolist()]
        assert list(zip(found.source[mine].tolist(), shifts, strict=True)) == [
            key[1:] for key in expected
        ]


def test_a_cap_keeps_the_nearest_in_canonical_order(crystals, edges, distances):
    record = crystals.triclinic(32, 6)
    everything = edges(record, GraphSpec(cutoff=8.0))
    found = edges(record, GraphSpec(cutoff=8.0, max_neighbors=40))
    for atom in range(6):
        expected = sorted(key[1:] for key in rank(record, everything, distances, atom)[:40])
        mine = found.target == atom
        shifts = [tuple(shift) for shift in found.shifts[mine].tolist()]
        assert list(zip(found.source[mine].tolist(), shifts, strict=True)) == expected


def test_a_cap_that_nobody_reaches_changes_nothing(crystals, edges):
    record = crystals.triclinic(33, 4)
    plain = edges(record, GraphSpec(cutoff=6.0))
    capped = edges(record, GraphSpec(cutoff=6.0, max_neighbors=10_000))
    assert (plain.source == capped.source).all()
    assert (plain.shifts == capped.shifts).all()


def test_the_cap_of_250_is_active_in_diamond(edges):
    """8 Å around an atom of diamond hold more than 250 others."""
    fcc = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    fractions = np.concatenate([fcc, fcc + 0.25])
    diamond = CrystalRecord("diamond", [6] * 8, fractions * 3.567, np.eye(3) * 3.567)
    everything = np.bincount(edges(diamond, GraphSpec(cutoff=8.0)).target)
    capped = np.bincount(edges(diamond, GraphSpec(cutoff=8.0, max_neighbors=250)).target)
    assert (everything > 350).all()
    assert (capped == 250).all()


def test_lonely_atoms_are_padded_with_the_first_of_their_crystal(crystals):
    """Two dimers in large cells: one real neighbour, two slots of fill per atom."""
    from epitaxy.graph.neighbors import build_edges

    positions = np.array([[0.0, 0, 0], [2, 0, 0], [1, 1, 1], [1, 1, 4]])
    cells, pbc = np.stack([np.eye(3) * 30] * 2), np.ones((2, 3), bool)
    spec = GraphSpec("nearest", 8.0, 3, padded=True)
    found = build_edges(spec, positions, cells, pbc, np.array([0, 2, 4]))
    assert found.target.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert found.source.tolist() == [1, 0, 0, 0, 0, 0, 3, 2, 2, 2, 2, 2]
    assert found.padded.tolist() == [False, True, True] * 4
    assert found.edge_offsets.tolist() == [0, 6, 12]
    assert not found.shifts.any()


def test_without_padding_lonely_atoms_have_fewer_edges(edges):
    positions = np.array([[0.0, 0, 0], [2, 0, 0]])
    record = CrystalRecord("dimer", [1, 1], positions, np.eye(3) * 30)
    found = edges(record, GraphSpec("nearest", 8.0, 3))
    assert found.source.tolist() == [1, 0]
    assert found.padded is None


def _reference_names(reference_dir) -> list[str]:
    with np.load(reference_dir / "cgcnn" / "inputs.npz") as data:
        return sorted({key.split("/")[0] for key in data.files})


def test_the_published_cgcnn_graphs_are_reproduced(reference_dir, edges, distances):
    """Neighbours and padding of CGCNN's own loader (txie-93/cgcnn) on seventeen crystals."""
    spec = GraphSpec("nearest", 8.0, 12, padded=True)
    names = _reference_names(reference_dir)
    assert len(names) >= 17
    padded = 0
    with np.load(reference_dir / "cgcnn" / "inputs.npz") as data:
        for name in names:
            cell = data[f"{name}/lattice"]
            record = CrystalRecord(name, data[f"{name}/Z"], data[f"{name}/frac"] @ cell, cell)
            found = edges(record, spec)
            lengths = np.where(found.padded, 9.0, distances(record, found)).reshape(-1, 12)
            np.testing.assert_allclose(lengths, data[f"{name}/nbr_dist"], atol=1e-6)
            assert (found.padded == (data[f"{name}/nbr_dist"] > 8.5).reshape(-1)).all()
            padded += int(found.padded.sum())
            _compare_neighbours(found, data, name, lengths)
    assert padded > 0


def _compare_neighbours(found, data, name: str, lengths: np.ndarray) -> None:
    """Within a shell of equal distances the order is free, and so is the cut through one."""
    shells = np.rint(lengths / 1e-5).astype(int)
    ours, theirs = found.source.reshape(-1, 12), data[f"{name}/nbr_idx"]
    for atom, tied in enumerate(data[f"{name}/tie_at_cut"]):
        whole = shells[atom] < shells[atom, -1] if tied else np.ones(12, bool)
        mine = sorted(zip(shells[atom][whole], ours[atom][whole], strict=True))
        assert mine == sorted(zip(shells[atom][whole], theirs[atom][whole], strict=True))


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 1), (0, 0, 0)])
def test_of_each_other_atom_the_nearest_image(crystals, edges, distances, pbc):
    record = crystals.triclinic(34, 5).replace(pbc=np.array(pbc, bool))
    everything = edges(record, GraphSpec(cutoff=8.0))
    lengths = distances(record, everything)
    expected = []
    for centre in range(5):
        for other in range(5):
            mine = np.flatnonzero((everything.target == centre) & (everything.source == other))
            if centre != other and len(mine):
                expected.append(mine[np.argmin(lengths[mine])])
    found = edges(record, GraphSpec("minimum_image", 8.0))
    assert found.source.tolist() == everything.source[expected].tolist()
    assert found.target.tolist() == everything.target[expected].tolist()
    assert found.shifts.tolist() == everything.shifts[expected].tolist()
    two = edges(record, GraphSpec("minimum_image", 8.0, 2))
    assert np.bincount(two.target).max() == 2


def test_the_nearest_image_loses_neighbours_of_short_cells(edges):
    """Caesium chloride at 4 Å: 8 neighbours at 3.46 Å, of which one is left; none of itself."""
    positions = np.array([[0, 0, 0], [2.0, 2, 2]])
    record = CrystalRecord("CsCl", [55, 17], positions, np.eye(3) * 4)
    assert len(edges(record, GraphSpec(cutoff=3.5)).source) == 16
    found = edges(record, GraphSpec("minimum_image", 3.5))
    assert found.source.tolist() == [1, 0]
    assert found.shifts.tolist() == [[-1, -1, -1], [0, 0, 0]]

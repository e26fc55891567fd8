"""Whole shells of neighbours: invariances that a cut breaks, and the shell rule of ALIGNN."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

CUBIC = CrystalRecord("sc", [1], np.zeros((1, 3)), np.eye(3) * 3.0)
FCC = CrystalRecord("fcc", [29], np.zeros((1, 3)), 1.8 * (np.ones((3, 3)) - np.eye(3)))
ROCK_SALT = CrystalRecord(
    "salt", [11, 17], np.array([[0, 0, 0], [2.8, 2.8, 2.8]]), 2.8 * (np.ones((3, 3)) - np.eye(3))
)
KEPT = [
    GraphSpec("nearest", 8.0, 12, ties="keep"),
    GraphSpec("nearest", 6.0, 5, ties="keep"),
    GraphSpec("radius", 7.0, 20, ties="keep"),
    GraphSpec("shell", 4.0, 12),
    GraphSpec("shell", 8.0, 12, repeats="mutual"),
    GraphSpec("radius", 6.0),
]


def supercell(record: CrystalRecord, matrix: np.ndarray) -> CrystalRecord:
    """The same crystal in the cell ``matrix @ cell`` (upper triangular, positive diagonal)."""
    counts = [range(int(matrix[axis, axis])) for axis in range(3)]
    images = np.array([(i, j, k) for i in counts[0] for j in counts[1] for k in counts[2]])
    positions = (record.positions[None] + (images @ record.cell)[:, None]).reshape(-1, 3)
    return CrystalRecord(
        "super", np.tile(record.numbers, len(images)), positions, matrix @ record.cell
    )


def environments(record: CrystalRecord, spec: GraphSpec, edges: Any, distances: Any) -> Counter:
    """How often each environment occurs: element, neighbours' elements, distances to 1e-6 Å."""
    found = edges(record, spec)
    lengths = np.round(distances(record, found), 6)
    around = []
    for atom in range(record.num_atoms):
        mine = found.target == atom
        pairs = zip(
            record.numbers[found.source[mine]].tolist(), lengths[mine].tolist(), strict=True
        )
        around.append((int(record.numbers[atom]), tuple(sorted(pairs))))
    return Counter(around)


def per_cell(counted: Counter, cells: int) -> dict:
    return {around: count / cells for around, count in counted.items()}


@pytest.mark.parametrize(
    ("record", "limit", "expected"),
    [
        (CUBIC, 5, 6),
        (CUBIC, 7, 18),
        (FCC, 12, 12),
        (FCC, 13, 18),
        (ROCK_SALT, 3, 6),
        (ROCK_SALT, 12, 18),
    ],
)
def test_shells_of_textbook_crystals(edges, record, limit, expected):
    """Simple cubic 6 + 12, fcc 12 + 6, rock salt 6 + 12 neighbours."""
    found = edges(record, GraphSpec("nearest", 8.0, limit, ties="keep"))
    assert np.bincount(found.target).tolist() == [expected] * record.num_atoms


@pytest.mark.parametrize("spec", KEPT, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_nothing_but_the_crystal_decides(crystals, edges, distances, spec, data):
    """Another order of atoms, orientation, origin and cell: the same environments."""
    record = data.draw(st.sampled_from([CUBIC, FCC, ROCK_SALT, crystals.triclinic(5, 4)]))
    expected = per_cell(environments(record, spec, edges, distances), 1)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    matrix = np.triu(rng.integers(-2, 3, (3, 3)), 1) + np.diag(rng.integers(1, 3, 3))
    moved = supercell(record, matrix)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(moved.num_atoms)
    positions = (moved.positions + rng.normal(size=3)) @ rotation
    moved = CrystalRecord("moved", moved.numbers[order], positions[order], moved.cell @ rotation)
    cells = moved.num_atoms // record.num_atoms
    assert per_cell(environments(moved, spec, edges, distances), cells) == expected


@pytest.mark.parametrize("spec", KEPT, ids=str)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_niggli_cell_has_the_same_environments(crystals, edges, distances, spec, seed):
    from pymatgen.core import Lattice, Structure

    record = crystals.triclinic(seed, 5)
    skewed = supercell(record, np.array([[1, 2, -3], [0, 1, 2], [0, 0, 1]]))
    species = skewed.numbers.tolist()
    structure = Structure(
        Lattice(skewed.cell), species, skewed.positions, coords_are_cartesian=True
    ).get_reduced_structure("niggli")
    niggli = CrystalRecord(
        "n", structure.atomic_numbers, structure.cart_coords, structure.lattice.matrix
    )
    assert np.abs(niggli.cell).max() < np.abs(skewed.cell).max()
    expected = environments(skewed, spec, edges, distances)
    assert environments(niggli, spec, edges, distances) == expected


def test_a_cut_depends_on_the_cell_that_was_chosen(edges, distances):
    """Witness: of rock salt's 12 second neighbours the seventh to twelfth edge are cut at random.

    With 8 neighbours each atom keeps its 6 nearest and two of the 12 equally far; which two
    depends on the numbering, so the graph of a doubled cell is not the doubled graph.
    """
    spec = GraphSpec("nearest", 8.0, 8)
    doubled = supercell(ROCK_SALT, np.diag([1, 1, 2]))

    def directions(record):
        found = edges(record, spec)
        vectors = record.positions[found.source] + found.shifts @ record.cell
        vectors = np.round(vectors - record.positions[found.target], 6)
        return [
            frozenset(map(tuple, vectors[found.target == atom].tolist()))
            for atom in range(record.num_atoms)
        ]

    assert len(set(directions(doubled))) > len(set(directions(ROCK_SALT)))


def test_rounded_coordinates_do_not_part_a_shell(edges):
    """A CIF with five decimals moves atoms by 1e-5 Å; the twelve neighbours in fcc stay one."""
    rng = np.random.default_rng(0)
    cubic = CrystalRecord(
        "fcc",
        [29] * 4,
        np.array([[0, 0, 0], [0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]),
        np.eye(3) * 3.6,
    )
    rattled = cubic.replace(positions=cubic.positions + rng.uniform(-1e-5, 1e-5, (4, 3)))
    kept = edges(rattled, GraphSpec("nearest", 8.0, 5, ties="keep"))
    exact = edges(rattled, GraphSpec("nearest", 8.0, 5, ties="keep", tie_width=1e-8))
    assert np.bincount(kept.target).tolist() == [12] * 4
    assert np.bincount(exact.target).max() < 12


def test_the_cutoff_grows_until_every_atom_has_enough(edges):
    """A cubic cell of 10 Å with one atom: none within 8 Å, six at 10, twelve at 14.14."""
    lonely = CrystalRecord("lonely", [2], np.zeros((1, 3)), np.eye(3) * 10)
    found = edges(lonely, GraphSpec("shell", 8.0, 12))
    assert len(found.source) == 18
    assert np.unique(np.abs(found.shifts).sum(1)).tolist() == [1, 2]
    assert len(edges(lonely, GraphSpec("shell", 8.0, 6)).source) == 6


def test_alignn_counts_bonds_of_an_atom_to_its_own_images_twice(edges):
    """Witness: the same crystal in a doubled cell loses half of the repeats along that axis."""
    spec = GraphSpec("shell", 8.0, 6, repeats="self")
    doubled = supercell(CUBIC, np.diag([1, 1, 2]))
    assert len(edges(CUBIC, spec).source) == 12
    assert np.bincount(edges(doubled, spec).target).tolist() == [10, 10]
    plain = GraphSpec("shell", 8.0, 6)
    assert np.bincount(edges(doubled, plain).target).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([[0, 0, 0]], 0),
        ([[0, 0, 0], [50, 0, 0]], 2),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0], [30, 30, 30]], 12),
    ],
)
def test_a_molecule_ends_with_the_neighbours_it_has(edges, positions, expected):
    positions = np.array(positions, float)
    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    molecule = CrystalRecord("m", [6] * len(positions), positions, cell, pbc)
    found = edges(molecule, GraphSpec("shell", 8.0, 12))
    assert len(found.source) == expected
    assert not found.shifts.any()


@pytest.mark.parametrize("pbc", [(1, 0, 0), (1, 1, 0), (0, 1, 1)])
def test_wires_and_slabs_grow_along_their_axes_only(edges, pbc):
    record = CrystalRecord("w", [6], np.zeros((1, 3)), np.eye(3) * 9.0, np.array(pbc, bool))
    found = edges(record, GraphSpec("shell", 8.0, 12))
    assert len(np.unique(found.shifts, axis=0)) >= 12
    assert not found.shifts[:, ~np.array(pbc, bool)].any()


def test_one_sparse_crystal_of_a_batch_leaves_the_others_alone(crystals):
    from epitaxy.graph.neighbors import build_edges

    records = [crystals.triclinic(s, 4) for s in (1, 2)]
    lonely = CrystalRecord("lonely", [2], np.zeros((1, 3)), np.eye(3) * 10)
    spec = GraphSpec("shell", 8.0, 12, line_graph=True)

    def built(chosen):
        return build_edges(
            spec,
            np.concatenate([r.positions for r in chosen]),
            np.stack([r.cell for r in chosen]),
            np.stack([r.pbc for r in chosen]),
            np.cumsum([0, *(r.num_atoms for r in chosen)]),
        )

    batch = built([records[0], lonely, records[1]])
    alone = [built([r]) for r in (records[0], lonely, records[1])]
    atoms = np.array([0, 4, 5])
    bonds = np.cumsum([0, *(len(a.source) for a in alone)])
    for name in ("source", "target"):
        parts = [getattr(a, name) + first for a, first in zip(alone, atoms, strict=True)]
        assert getattr(batch, name).tolist() == np.concatenate(parts).tolist()
    assert batch.edge_offsets.tolist() == bonds.tolist()
    for side in (0, 1):
        parts = [a.meetings[side] + first for a, first in zip(alone, bonds, strict=False)]
        assert batch.meetings[side].tolist() == np.concatenate(parts).tolist()


def plain_shells(rows, record: CrystalRecord, limit: int, width: float) -> Counter:
    """Bonds (centre, neighbour, image) by the book, each as often as ``mutual`` asks for."""
    cutoff = 4.0
    while True:
        near = rows(record, cutoff)
        vectors = record.positions[near[:, 1]] + near[:, 2:] @ record.cell
        lengths = np.linalg.norm(vectors - record.positions[near[:, 0]], axis=1)
        of_atom = [lengths[near[:, 0] == atom] for atom in range(record.num_atoms)]
        if all(len(found) >= limit for found in of_atom) or (cutoff > 500 and not record.pbc.any()):
            break
        cutoff *= 2
    last = np.array(
        [np.sort(found)[limit - 1] if len(found) >= limit else 1e9 for found in of_atom]
    )
    chosen = Counter()
    for row, length in zip(near.tolist(), lengths, strict=True):
        if length <= last[row[0]] + width:
            back = (row[1], row[0], *(-image for image in row[2:]))
            chosen[tuple(row)] += 1
            chosen[back] += 1
    return chosen


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_atoms=st.integers(1, 5),
    limit=st.sampled_from([1, 4, 12]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_shells_of_random_cells_are_those_by_the_book(
    edges, brute_force_route, seed, num_atoms, limit, pbc
):
    rng = np.random.default_rng(seed)
    cell = 5 * (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    record = CrystalRecord(
        "r", np.ones(num_atoms), rng.uniform(-1, 2, (num_atoms, 3)) @ cell, cell, np.array(pbc)
    )
    expected = plain_shells(brute_force_route, record, limit, 1e-4)
    for repeats in ("never", "self", "mutual"):
        found = edges(record, GraphSpec("shell", 8.0, limit, repeats=repeats))
        rows = zip(
            found.target.tolist(), found.source.tolist(), *found.shifts.T.tolist(), strict=True
        )
        assert Counter(rows) == Counter(
            {
                row: times if repeats == "mutual" or (repeats == "self" and row[0] == row[1]) else 1
                for row, times in expected.items()
            }
        )


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 0), (0, 0, 0)])
def test_atoms_at_the_same_place_are_no_neighbours(edges, pbc):
    record = CrystalRecord("c", [1, 1], np.zeros((2, 3)), np.eye(3) * 4, np.array(pbc, bool))
    found = edges(record, GraphSpec("shell", 8.0, 2))
    expected = {0: 0, 1: 2, 3: 6}[sum(pbc)]  # images of itself, and as many of the other
    assert np.bincount(found.target, minlength=2).tolist() == [2 * expected] * 2
    assert found.shifts.any(axis=1).all()


@pytest.fixture(scope="module")
def alignn(reference_dir: Path):
    return np.load(reference_dir / "alignn" / "vectors.npz", allow_pickle=False)


def names_of(vectors) -> list[str]:
    return sorted({key.split("/")[0] for key in vectors.files} - {"batched"})


def test_edges_are_those_of_alignn(alignn, edges):
    """Sources, targets and vectors; the original's vector runs from source to target."""
    for name in names_of(alignn):
        record = CrystalRecord(
            name, alignn[f"{name}/Z"], alignn[f"{name}/pos"], alignn[f"{name}/cell"]
        )
        found = edges(record, GraphSpec("shell", 8.0, 12, tie_width=1e-8, repeats="self"))
        vectors = record.positions[found.target] - record.positions[found.source]
        vectors -= found.shifts @ record.cell
        ours = np.column_stack([found.source, found.target, np.round(vectors, 4) + 0.0])
        ends = [alignn[f"{name}/edge_{end}"] for end in ("src", "dst")]
        theirs = np.column_stack([*ends, np.round(alignn[f"{name}/edge_r"], 4) + 0.0])
        assert len(ours) == alignn[f"{name}/n_edges_canonical"]
        order, other = (np.lexsort(rows.T[::-1]) for rows in (ours, theirs))
        np.testing.assert_allclose(ours[order], theirs[other], atol=2e-4)
        twice = edges(record, GraphSpec("shell", 8.0, 12, tie_width=1e-8, repeats="mutual"))
        assert len(twice.source) == alignn[f"{name}/n_edges_noncanonical"]


def test_angles_are_those_of_alignn(alignn):
    from epitaxy.graph.collate import collate

    spec = GraphSpec("shell", 8.0, 12, tie_width=1e-8, repeats="self", line_graph=True)
    for name in names_of(alignn):
        record = CrystalRecord(
            name, alignn[f"{name}/Z"], alignn[f"{name}/pos"], alignn[f"{name}/cell"]
        )
        batch = collate([record], [spec])
        graph = batch.graph(spec)
        cosines = batch.cosines(spec).numpy()
        assert graph.line is not None
        assert graph.line.num_pairs == len(alignn[f"{name}/lg_src"])

        def pairs(first, second, lengths, cosines):
            return sorted(zip(*(np.round(x, 3) for x in (first, second, cosines)), strict=True))

        lengths = batch.edge_vectors(spec).norm(dim=-1).numpy()
        ours = np.column_stack([lengths[graph.line.source], lengths[graph.line.target], cosines])
        r = np.linalg.norm(alignn[f"{name}/edge_r"], axis=1)
        theirs = np.column_stack(
            [r[alignn[f"{name}/lg_src"]], r[alignn[f"{name}/lg_dst"]], alignn[f"{name}/lg_cos"]]
        )
        for column in range(3):
            np.testing.assert_allclose(
                np.sort(ours[:, column]), np.sort(theirs[:, column]), atol=2e-5
            )
        weights = np.array([1.0, np.sqrt(2), np.pi])
        np.testing.assert_allclose(np.sort(ours @ weights), np.sort(theirs @ weights), atol=1e-4)


@pytest.mark.parametrize("spec", [*KEPT, GraphSpec("nearest", 8.0, 12)], ids=str)
def test_no_crystals_have_no_edges(spec):
    from epitaxy.graph.collate import collate

    assert collate([], [spec]).graph(spec).num_edges == 0


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)])
@pytest.mark.parametrize("limit", [1, 12, 60])
def test_looking_at_few_edges_finds_the_same_as_looking_at_all(
    crystals, edges, distances, pbc, limit
):
    """A dense cluster in one corner of a large cell: no density to guess a radius from."""
    dense = crystals.triclinic(3, 6)
    record = CrystalRecord(
        "d", dense.numbers, dense.positions, dense.cell + np.eye(3) * 9, np.array(pbc, bool)
    )
    found = edges(record, GraphSpec("nearest", 8.0, limit, ties="keep"))
    everything = edges(record, GraphSpec(cutoff=8.0))
    lengths = distances(record, everything)
    expected = []
    for atom in range(6):
        mine = np.flatnonzero(everything.target == atom)
        nearest = np.sort(lengths[mine])
        last = nearest[min(limit, len(nearest)) - 1] if len(nearest) else 0.0
        expected += mine[lengths[mine] <= last + 1e-4].tolist()
    assert found.source.tolist() == everything.source[expected].tolist()
    assert found.shifts.tolist() == everything.shifts[expected].tolist()

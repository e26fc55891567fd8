"""The edge that runs back, and pairs of edges that meet, against plain enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epitaxy.errors import NeedsError, RecordError
from epitaxy.graph.collate import collate
from epitaxy.graph.neighbors import _with_reverse
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label, LabelField
from epitaxy.graph.search import Found
from epitaxy.graph.spec import GraphSpec

CUBIC = CrystalRecord("sc", [1], np.zeros((1, 3)), np.eye(3) * 3.0)


def test_every_edge_has_one_that_runs_back(crystals, edges):
    for seed, atoms in [(1, 1), (2, 3), (3, 9)]:
        found = edges(crystals.triclinic(seed, atoms), GraphSpec(cutoff=7.0, reverse=True))
        back = found.reverse
        assert back.tolist() != list(range(len(back)))
        assert found.source[back].tolist() == found.target.tolist()
        assert found.target[back].tolist() == found.source.tolist()
        assert (found.shifts[back] == -found.shifts).all()
        assert back[back].tolist() == list(range(len(back)))


def test_an_edge_without_its_way_back_is_left_out(edges):
    """What rounding at exactly the cutoff may do: one of the six edges of a cubic atom is lost."""
    found = edges(CUBIC, GraphSpec(cutoff=3.0))
    assert len(found.source) == 6
    lost = Found(found.source[1:], found.target[1:], found.shifts[1:], np.array([0, 5]))
    kept, reverse = _with_reverse(lost)
    assert kept.shifts.tolist() == [[0, -1, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0]]
    assert reverse.tolist() == [3, 2, 1, 0]
    assert kept.row_offsets.tolist() == [0, 4]


@pytest.mark.parametrize(
    "spec",
    [
        GraphSpec(cutoff=4.5, line_graph=True),
        GraphSpec("shell", 8.0, 4, line_graph=True),
        GraphSpec("nearest", 8.0, 5, line_graph=True),
    ],
    ids=str,
)
def test_edges_meet_where_one_ends_and_the_other_begins(crystals, edges, spec):
    found = edges(crystals.triclinic(7, 3), spec)
    first, second = found.meetings
    expected = [
        (one, other)
        for other in range(len(found.source))
        for one in range(len(found.source))
        if found.target[one] == found.source[other] and one != other
    ]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(expected)


def test_edges_of_an_atom_to_its_own_images_meet_each_other_but_not_themselves(edges):
    found = edges(CUBIC, GraphSpec(cutoff=3.0, line_graph=True))
    assert len(found.meetings[0]) == 6 * 5


@pytest.mark.parametrize("self_angles", [False, True])
def test_a_larger_cell_has_the_same_angles_only_with_those_of_an_edge_with_itself(self_angles):
    """Simple cubic: 6 edges into an atom and 6 out of it make 36 angles, 6 of them straight."""
    spec = GraphSpec(cutoff=3.0, line_graph=True, self_angles=self_angles)
    doubled = CrystalRecord("2", [1, 1], [[0, 0, 0], [3.0, 0, 0]], np.diag([6.0, 3.0, 3.0]))
    batches = [collate([record], [spec], (), torch.float64) for record in (CUBIC, doubled)]
    straight = [int((batch.cosines(spec) < -1 + 1e-9).sum()) for batch in batches]
    assert straight == ([6, 12] if self_angles else [0, 4])
    assert batches[0].graph(spec).line.num_pairs == (36 if self_angles else 30)


def test_cosines_are_those_of_plain_geometry(crystals):
    spec = GraphSpec("shell", 8.0, 4, line_graph=True)
    batch = collate([crystals.triclinic(1, 3), crystals.triclinic(2, 2)], [spec], (), torch.float64)
    graph, vectors = batch.graph(spec), batch.edge_vectors(spec)
    for pair in range(0, graph.line.num_pairs, 7):
        # From the middle atom to both ends: back along the first edge, on along the second.
        back = vectors[graph.line.source[pair]]
        on = -vectors[graph.line.target[pair]]
        expected = torch.dot(back, on) / (back.norm() * on.norm())
        assert abs(batch.cosines(spec)[pair] - expected) < 1e-12
    assert batch.cosines(spec).max() == 1.0, "there and back again"


def test_cosines_have_finite_gradients_along_straight_lines():
    """In a cubic crystal most angles are 0, 90 or 180 degrees, where arccos has no derivative."""
    spec = GraphSpec(cutoff=3.0, line_graph=True)
    batch = collate([CUBIC], [spec], (), torch.float64)
    batch = batch.replace(cell=batch.cell.requires_grad_())
    cosines = batch.cosines(spec)
    assert cosines.abs().max() <= 1
    (gradient,) = torch.autograd.grad(cosines.square().sum(), batch.cell)
    assert torch.isfinite(gradient).all()


def test_asking_for_angles_that_were_not_built_is_refused():
    with pytest.raises(NeedsError, match="line_graph=true"):
        collate([CUBIC], [GraphSpec()]).cosines(GraphSpec())


# PyG calls torch.jit.script on import.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_batches_carry_their_pairs_along(crystals):
    spec = GraphSpec(cutoff=4.0, line_graph=True, reverse=True)
    batch = collate([crystals.triclinic(1, 3)], [spec])
    moved = batch.to("cpu", dtype=torch.float64).graph(spec)
    assert moved.reverse.tolist() == batch.graph(spec).reverse.tolist()
    assert moved.line.source.tolist() == batch.graph(spec).line.source.tolist()
    data = batch.to_pyg(spec)
    assert data.pairs.tolist() == [moved.line.source.tolist(), moved.line.target.tolist()]
    assert data.reverse.tolist() == moved.reverse.tolist()


def composition(name, **amounts):
    numbers = {"Na": 11, "Cl": 17, "Sr": 38, "Ti": 22, "O": 8}
    label = Label(np.array([[amount] for amount in amounts.values()])[:, 0], "", per_atom=True)
    return CrystalRecord(
        name,
        [numbers[e] for e in amounts],
        np.zeros((len(amounts), 3)),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        {AMOUNT: label},
    )


def test_elements_of_a_composition_are_all_paired_with_themselves_too():
    spec = GraphSpec("composition", reverse=True)
    batch = collate([composition("a", Na=1, Cl=1), composition("b", Sr=1, Ti=1, O=3)], [spec])
    graph = batch.graph(spec)
    assert graph.target.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert graph.source.tolist() == [0, 1, 0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4]
    assert graph.source[graph.reverse].tolist() == graph.target.tolist()


def test_roost_pairs_the_same_elements(reference_dir):
    vectors = np.load(reference_dir / "roost" / "vectors.npz", allow_pickle=False)
    spec = GraphSpec("composition")
    names = {key.split("/")[0] for key in vectors.files} - {"batched"}
    for name in names:
        count = len(vectors[f"{name}/elements"])
        amounts = Label(np.ones(count), "", per_atom=True)
        record = CrystalRecord(
            name,
            np.arange(1, count + 1),
            np.zeros((count, 3)),
            np.zeros((3, 3)),
            np.zeros(3, bool),
            {AMOUNT: amounts},
        )
        graph = collate([record], [spec]).graph(spec)
        ours = sorted(zip(graph.target.tolist(), graph.source.tolist(), strict=True))
        ends = (vectors[f"{name}/self_idx"].tolist(), vectors[f"{name}/nbr_idx"].tolist())
        assert ours == sorted(zip(*ends, strict=True))


def test_structures_and_compositions_are_not_confused(crystals):
    with pytest.raises(RecordError, match="give each its own view"):
        collate([crystals.triclinic(1, 3)], [GraphSpec("composition"), GraphSpec()])
    with pytest.raises(RecordError, match="is a composition, but graph rule 'radius'"):
        collate([composition("a", Na=1, Cl=1)], [GraphSpec()])


def test_a_structure_is_read_as_its_composition(crystals):
    spec = GraphSpec("composition")
    salt = crystals.labelled(crystals.perovskite())  # BaTiO3
    fields = [LabelField("energy", "eV"), LabelField("forces", "eV/Å", (3,), per_atom=True)]
    batch = collate([salt, composition("a", Na=1, Cl=1)], [spec], fields)
    assert batch.numbers.tolist() == [8, 22, 56, 11, 17]
    assert batch.amounts.tolist() == [3, 1, 1, 1, 1]
    assert batch.num_atoms.tolist() == [3, 2]
    assert batch.graph(spec).num_edges == 9 + 4
    assert batch.labels["energy"][0] == pytest.approx(float(salt.labels["energy"].value))
    assert not batch.masks["forces"].any()  # there are no atoms to bear them
    assert collate([], [spec]).amounts.shape == (0,)
    assert collate([salt], [GraphSpec()]).amounts is None


def test_a_cap_on_images_loses_neighbours_of_short_cells(edges, rows):
    """At 3 Å a radius of 8 Å reaches two images along an axis; with one, those are lost."""
    whole = edges(CUBIC, GraphSpec(cutoff=8.0))
    capped = edges(CUBIC, GraphSpec(cutoff=8.0, max_images=1))
    assert len(capped.source) == 26
    near = np.abs(whole.shifts).max(axis=1) <= 1
    assert capped.shifts.tolist() == whole.shifts[near].tolist()
    same = edges(CUBIC, GraphSpec(cutoff=8.0, max_images=3))
    assert same.shifts.tolist() == whole.shifts.tolist()


def test_the_radius_graph_is_that_of_matdeeplearn(reference_dir, edges, distances):
    vectors = np.load(reference_dir / "cgcnn_mdl" / "vectors.npz", allow_pickle=False)
    names = {key.split("/")[0] for key in vectors.files} - {"batched"}
    for name in names:
        record = CrystalRecord(
            name, vectors[f"{name}/Z"], vectors[f"{name}/pos"], vectors[f"{name}/cell"][0]
        )
        found = edges(record, GraphSpec(cutoff=8.0, max_neighbors=250))
        ours = np.column_stack([found.source, found.target, np.round(distances(record, found), 6)])
        ends = vectors[f"{name}/edge_index"]
        theirs = np.column_stack([ends[0], ends[1], np.round(vectors[f"{name}/edge_dist"], 6)])
        order, other = (np.lexsort(x.T[::-1]) for x in (ours, theirs))
        np.testing.assert_allclose(ours[order], theirs[other], atol=2e-6)

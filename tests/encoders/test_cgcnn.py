from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from epitaxy.build import build
from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.collate import collate
from epitaxy.graph.elements import atom_features
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.scalar import ScalarHead
from epitaxy.train.settings import RunSettings

PAPER: dict[str, Any] = {
    "rule": "nearest",
    "cutoff": 8.0,
    "max_neighbors": 12,
    "padding": "index0",
    "num_basis": 41,
    "basis_width": 1.0,
    "envelope": "none",
    "message_scale": 1.0,
    "norm": "batch",
    "core_activation": "softplus",
    "outer_activation": "softplus",
}
PAPER_HEAD: dict[str, Any] = {"activation": "softplus", "activate_input": True, "order": "early"}


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_counts_of_the_original() -> None:
    default = parameters(CGCNN(64, 3, **PAPER), ScalarHead(64, (128,), **PAPER_HEAD))
    published = parameters(CGCNN(64, 4, **PAPER), ScalarHead(64, (32,), **PAPER_HEAD))
    classifier = ScalarHead(64, (32,), outputs=2, **PAPER_HEAD)
    assert (default, published) == (80_833, 96_641)
    assert parameters(CGCNN(64, 4, **PAPER), classifier) == 96_674


def literal_convolution(block: Any, node: Any, basis: Any, graph: Any, weight: Any) -> Any:
    """The formula edge by edge, with the concatenation written out."""
    rows = []
    for i in range(len(node)):
        total = torch.zeros_like(node[i])
        for k in torch.nonzero(graph.target == i).flatten().tolist():
            z = torch.cat([node[i], node[int(graph.source[k])], basis[k]])
            gate, core = (block.linear.weight @ z + block.linear.bias).chunk(2)
            total = total + weight[k] * torch.sigmoid(gate) * core * torch.sigmoid(core)
        rows.append(node[i] + block.message_scale * total)
    return torch.stack(rows)


def test_the_convolution_is_its_formula(crystals: Any) -> None:
    encoder = CGCNN(8, 1, cutoff=3.5, num_basis=6).double()
    batch = collate([crystals.triclinic(1, 3)], [encoder.spec], dtype=torch.float64)
    distances = batch.edge_vectors(encoder.spec).norm(dim=-1)
    u = distances / 3.5
    weight = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
    features = torch.from_numpy(atom_features("cgcnn92")[batch.numbers.numpy()]).double()
    node = features @ encoder.embedding.weight.T + encoder.embedding.bias
    graph = batch.graph(encoder.spec)
    expected = literal_convolution(
        encoder.interaction[0], node, encoder.basis(distances), graph, weight
    )
    torch.testing.assert_close(encoder(batch).node, expected, rtol=1e-10, atol=1e-10)


def test_fill_edges_have_the_cutoff_plus_one_and_no_slope() -> None:
    far = CrystalRecord(
        "sparse", np.array([1, 9]), np.array([[0.0, 0, 0], [0.92, 0, 0]]), np.eye(3) * 14.0
    )
    filled, masked = CGCNN(4, 1, **PAPER), CGCNN(4, 1, **{**PAPER, "padding": "masked"})
    batch = collate([far], [filled.spec, masked.spec])
    positions = batch.positions.requires_grad_()
    distances = batch.distances(filled.spec)
    assert sorted(distances.tolist()) == pytest.approx([0.92] * 2 + [9.0] * 22)
    (slope,) = torch.autograd.grad(distances[distances > 8.5].sum(), positions)
    assert not slope.any()
    assert batch.distances(masked.spec).tolist() == pytest.approx([0.92, 0.92])


def test_an_atom_without_neighbours_passes_through() -> None:
    encoder = CGCNN(8, 2)
    lonely = CrystalRecord("He", np.array([2]), np.zeros((1, 3)), np.eye(3) * 30.0)
    batch = collate([lonely], [encoder.spec])
    features = torch.from_numpy(atom_features("cgcnn92"))[[2]]
    torch.testing.assert_close(encoder(batch).node, encoder.embedding(features))


def test_an_element_without_features_is_refused(crystals: Any) -> None:
    encoder = CGCNN(8, 1)
    batch = collate([crystals.fcc(), crystals.fcc(number=104)], [encoder.spec])
    with pytest.raises(RecordError, match=r"no features for Rf \(Z = 104\)"):
        encoder(batch)


@pytest.mark.parametrize(
    ("arguments", "provided", "missing"),
    [
        ({}, "position_grad", None),
        ({"envelope": "none"}, "position_grad", "smooth_cutoff"),
        ({"max_neighbors": 250}, "position_grad", "supercell"),
        (PAPER, "node", "permutation"),
        ({"rule": "nearest", "max_neighbors": 12, "ties": "keep"}, "node", "smooth_cutoff"),
    ],
)
def test_promises_follow_the_arguments(
    arguments: dict[str, Any], provided: str, missing: str | None
) -> None:
    encoder = CGCNN(8, 1, **arguments)
    assert provided in encoder.provides
    assert ("position_grad" in encoder.provides) == (encoder.spec.rule == "radius")
    assert missing is None or missing not in encoder.invariances
    assert encoder.couples_records == (arguments.get("norm") == "batch")


def test_the_blocks_are_in_order_of_computation() -> None:
    blocks = ("embedding", "interaction.0", "interaction.1", "interaction.2")
    assert CGCNN(8, 3).blocks == blocks
    assert CGCNN(8, 3).spec == GraphSpec("radius", 5.0)


@pytest.mark.parametrize("ties", ["keep", "cut"])
def test_cut_ties_make_the_energy_depend_on_the_numbering(ties: str) -> None:
    """Rock salt of (Na, K)(F, Cl), each two in turn: of 12 equal neighbours, which 2 are kept?

    With 8 neighbours an atom sees the 6 nearest and 2 of its 12 second neighbours. Of those, some
    are of its own element and some of the other, so it matters which.
    """
    choice: dict[str, Any] = {"rule": "nearest", "cutoff": 8.0, "max_neighbors": 8, "ties": ties}
    encoder = CGCNN(8, 2, **choice).double()
    cations = 2.8 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    positions = np.concatenate([cations, cations + np.array([2.8, 0, 0])])
    numbers = np.array([11, 11, 19, 19, 9, 9, 17, 17])
    energies = []
    for order in (np.arange(8), np.array([5, 3, 7, 1, 6, 2, 4, 0])):
        record = CrystalRecord("salt", numbers[order], positions[order], np.eye(3) * 5.6)
        batch = collate([record], [encoder.spec], dtype=torch.float64)
        energies.append(float(encoder(batch).node.sum().detach()))
    assert (abs(energies[0] - energies[1]) < 1e-9) == (ties == "keep")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"padding": "mask"}, "did you mean 'masked'"),
        ({"envelope": "poly"}, "did you mean 'poly6'"),
        ({"outer_activation": "relu"}, "relu has no curvature"),
        ({"rule": "nearest"}, "needs max_neighbors"),
        ({**PAPER, "ties": "keep"}, "padded=true is only meaningful"),
        ({"ties": "kept"}, "did you mean 'keep'"),
        ({"layers": 0}, "layers ≥ 1"),
        ({"widht": 3}, "did you mean 'width'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "epitaxy.encoders.cgcnn.CGCNN", **arguments})


def test_ties_are_part_of_what_a_run_is_only_where_neighbours_are_limited() -> None:
    """Runs of the recommended preset were started before it had the argument."""

    def science(**encoder: Any) -> dict[str, Any]:
        target = {"_target_": "epitaxy.encoders.cgcnn.CGCNN"}
        return RunSettings("r", "/r", "/d", {**target, **encoder}, {}).science()

    assert science(max_neighbors=None, ties="keep") == science(max_neighbors=None)
    assert science(max_neighbors=12, ties="keep") != science(max_neighbors=12)


def test_fill_edges_to_the_first_atom_make_the_numbering_count(encoded: Any, preset: Any) -> None:
    """Hydrogen fluoride far apart: eleven of an atom's twelve slots lead to whoever comes first."""
    cell, places = np.eye(3) * 14.0, np.array([[0.0, 0, 0], [0.92, 0, 0]])
    one = CrystalRecord("HF", [1, 9], places, cell)
    other = CrystalRecord("FH", [9, 1], places[::-1], cell)
    for padding, equal in (("index0", False), ("masked", True)):
        encoder = preset("cgcnn_paper", padding=padding)
        difference = encoded(encoder, one).node - encoded(encoder, other).node.flip(0)
        assert (float(difference.abs().max()) < 1e-9) == equal


def test_the_mask_of_crysxpp_multiplies_features(encoded: Any, preset: Any, crystals: Any) -> None:
    encoder, plain = preset("crysxpp"), preset("cgcnn")
    state = {k: v for k, v in encoder.state_dict().items() if not k.startswith("selector")}
    plain.load_state_dict(state)
    record = crystals.perovskite()
    torch.testing.assert_close(encoded(encoder, record).node, encoded(plain, record).node)
    with torch.no_grad():  # a mask is the same as weaker columns of the embedding
        mask = torch.linspace(0.1, 2.0, 92)
        encoder.selector.weight.copy_(mask)
        plain.embedding.weight.mul_(mask)
    torch.testing.assert_close(encoded(encoder, record).node, encoded(plain, record).node)


def test_states_of_crysgnn_have_unit_length(encoded: Any, preset: Any, crystals: Any) -> None:
    node = encoded(preset("crysgnn"), crystals.triclinic(2, 5)).node
    torch.testing.assert_close(node.norm(dim=1), torch.ones(5).double())
    assert preset("crysgnn").embedding.bias is None


def test_the_crystal_vector_of_crystal_twins_is_its_formula(
    encoded: Any, preset: Any, crystals: Any
) -> None:
    encoder = preset("crystal_twins_paper")
    encoding = encoded(encoder, crystals.perovskite(), crystals.fcc())
    means = torch.stack([encoding.node[:5].mean(0), encoding.node[5]])
    hidden = torch.log1p(means.exp()) @ encoder.crystal.weight.T + encoder.crystal.bias
    torch.testing.assert_close(encoding.graph, torch.log1p(hidden.exp()))

"""What is read off an encoder: sums that must be 1, gates worked out by hand, nothing misplaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from epitaxy.build import build
from epitaxy.encoders.alignn import ALIGNN
from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.cgcnn_mdl import MatDeepLearnCGCNN
from epitaxy.encoders.gatgnn import GATGNN
from epitaxy.encoders.roost import Roost
from epitaxy.encoders.taps import Tap
from epitaxy.encoders.tensornet import TensorNet
from epitaxy.encoders.torchmd_et import EquivariantTransformer
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.elements import feature_names
from epitaxy.graph.record import AMOUNT, CrystalRecord
from epitaxy.predict.explain import Explanation, explain, has_taps

CONF = Path(__file__).parents[2] / "platform/epitaxy/conf/encoder"


def preset(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))).double().eval()


def one(encoder: Any, record: CrystalRecord) -> Explanation:
    return explain(encoder, [record]).crystals[0]


def poly6(distance: np.ndarray, cutoff: float) -> np.ndarray:
    u = distance / cutoff
    return 1 - 28 * u**6 + 48 * u**7 - 21 * u**8


def silent(encoder: nn.Module, bias: float = 0.0) -> Any:
    """``encoder`` with every weight 0 and every bias the same."""
    for name, weight in encoder.named_parameters():
        nn.init.constant_(weight, bias if name.endswith("bias") else 0.0)
    return encoder.double().eval()


@pytest.mark.parametrize("name", ["cgcnn_attention_paper", "gatgnn_paper"])
def test_softmax_attention_adds_up_to_one_for_every_atom(name: str, crystals: Any) -> None:
    for record in (crystals.perovskite(), crystals.rocksalt(), crystals.triclinic(1, 5)):
        found = one(preset(name), record)
        assert found.edges is not None
        np.testing.assert_allclose(found.received, 1.0, atol=1e-12)
        # What all atoms receive together, they send together.
        assert found.sent.sum() == pytest.approx(record.num_atoms)


def test_a_sink_takes_its_share(crystals: Any) -> None:
    found = one(preset("gatgnn"), crystals.perovskite())
    assert (found.received < 1).all()
    assert (found.received > 0).all()


@pytest.mark.parametrize("name", ["gatgnn", "gatgnn_paper", "roost"])
def test_pools_share_out_one(name: str, crystals: Any) -> None:
    found = one(preset(name), crystals.perovskite())
    assert found.pooled is not None
    assert found.pooled.sum() == pytest.approx(1.0)
    assert len(found.pooled) == found.record.num_atoms


@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_a_gate_is_a_sigmoid_times_the_envelope(bias: float, crystals: Any) -> None:
    record = crystals.triclinic(2, 4)
    for encoder in (CGCNN(4, 2, num_basis=4), MatDeepLearnCGCNN(4, 2, num_basis=4)):
        edges = one(silent(encoder, bias), record).edges
        assert edges is not None
        assert edges.layers.shape[1] == 2
        envelope = poly6(edges.distances, 5.0)
        np.testing.assert_allclose(edges.envelope, envelope, atol=1e-12)
        opened = 1 / (1 + np.exp(-bias))
        np.testing.assert_allclose(edges.layers, opened * envelope[:, None] * [1, 1], atol=1e-12)
        np.testing.assert_allclose(edges.mean, opened * envelope, atol=1e-12)


def test_a_gate_without_envelope_stays_as_it_is(crystals: Any) -> None:
    encoder = CGCNN(4, 1, rule="nearest", cutoff=8.0, max_neighbors=12, envelope="none")
    edges = one(silent(encoder), crystals.rocksalt()).edges
    assert edges is not None
    assert edges.envelope is None
    np.testing.assert_allclose(edges.mean, 0.5)


def test_edges_are_where_they_say(crystals: Any) -> None:
    for record in (crystals.triclinic(3, 5), crystals.fcc()):
        edges = one(preset("cgcnn"), record).edges
        assert edges is not None
        vectors = record.positions[edges.source] + edges.shifts @ record.cell
        vectors -= record.positions[edges.target]
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), edges.distances, atol=1e-12)


def test_fill_edges_are_left_out(crystals: Any) -> None:
    """Two atoms 2 Å apart in a cell of 30 Å: one true neighbour and eleven fill edges each."""
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    pair = CrystalRecord("pair", np.array([11, 17]), positions, np.eye(3) * 30)
    edges = one(preset("cgcnn_paper"), pair).edges
    assert edges is not None
    assert (edges.source.tolist(), edges.target.tolist()) == ([1, 0], [0, 1])
    np.testing.assert_allclose(edges.distances, 2.0)
    alone = CrystalRecord("alone", np.array([11]), positions[:1], np.eye(3) * 30)
    found = one(preset("cgcnn_paper"), alone)
    assert found.edges is not None
    assert len(found.edges) == 0
    assert found.sent.tolist() == [0.0]


def test_self_loops_come_after_the_neighbours(crystals: Any) -> None:
    record = crystals.perovskite()
    encoder = EquivariantTransformer(8, 1, heads=2, num_basis=4, self_loops=True).double().eval()
    edges = one(encoder, record).edges
    plain = EquivariantTransformer(8, 1, heads=2, num_basis=4).double().eval()
    without = one(plain, record).edges
    assert edges is not None
    assert without is not None
    assert len(edges) == len(without) + 5
    assert (edges.source[-5:] == edges.target[-5:]).all()
    assert (edges.distances[-5:] == 0).all()
    assert (without.distances > 0).all()


def test_angles_are_those_of_their_edges(crystals: Any) -> None:
    encoder = silent(ALIGNN(4, 4, 2, 1, num_basis=4, num_angles=4, angle_cutoff=3.2))
    record = crystals.triclinic(5, 4)
    found = one(encoder, record)
    edges, angles = found.edges, found.angles
    assert edges is not None
    assert angles is not None
    short = edges.distances < 3.2
    meet = (edges.target[:, None] == edges.source[None, :]) & short[:, None] & short[None, :]
    assert len(angles.first) == meet.sum() > 0
    vectors = record.positions[edges.source] + edges.shifts @ record.cell
    vectors -= record.positions[edges.target]
    back, on = vectors[angles.first], -vectors[angles.second]  # from b to a, from b to c
    cosines = (back * on).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(on, axis=1)
    expected = np.degrees(np.arccos(cosines.clip(-1, 1)))
    np.testing.assert_allclose(angles.degrees, expected, atol=1e-5)
    envelope = poly6(edges.distances, 3.2)
    product = envelope[angles.first] * envelope[angles.second]
    assert angles.layers.shape[1] == 2
    np.testing.assert_allclose(angles.mean, 0.5 * product, atol=1e-12)
    assert edges.layers.shape[1] == 3


def test_the_angles_of_a_perovskite(crystals: Any) -> None:
    """The octahedron of titanium: 90° between oxygens, 180° across, 0° back along an edge."""
    found = one(preset("alignn"), crystals.perovskite())
    edges, angles = found.edges, found.angles
    assert edges is not None
    assert angles is not None
    close = edges.distances < 2.1
    inside = close[angles.first] & close[angles.second] & (edges.target[angles.first] == 1)
    degrees, counts = np.unique(angles.degrees[inside].round(3), return_counts=True)
    assert dict(zip(degrees.tolist(), counts.tolist(), strict=True)) == {0: 6, 90: 24, 180: 6}


def test_a_mask_has_the_names_of_the_features(crystals: Any) -> None:
    encoder = CGCNN(4, 1, feature_selector=True)
    names = feature_names("cgcnn92")
    with torch.no_grad():
        encoder.selector.weight[names.index("block p")] = 2.5
        encoder.selector.weight[names.index("group 16")] = -1.0
    features = explain(encoder.eval(), [crystals.fcc()]).features
    assert tuple(features) == names
    assert {name for name in names if features[name] != 1} == {"block p", "group 16"}
    assert (features["block p"], features["group 16"]) == (2.5, -1.0)


def test_a_composition_has_pairs_of_elements(crystals: Any) -> None:
    encoder = Roost(8, 2, features="cgcnn92", gate=(4,), message=(4,), trunk=(8,)).eval()
    found = explain(encoder, [crystals.perovskite()])
    (crystal,) = found.crystals
    assert crystal.record.numbers.tolist() == [8, 22, 56]
    assert crystal.record.labels[AMOUNT].value.tolist() == [3, 1, 1]
    assert crystal.edges is not None
    assert crystal.edges.distances is None
    assert len(crystal.edges) == 9
    np.testing.assert_allclose(crystal.received, 1.0, atol=1e-6)
    assert found.names == {"edges": "attention", "atoms": "attention"}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_encoder_with_taps_can_be_explained(name: str, crystals: Any) -> None:
    encoder = preset(name)
    if not has_taps(encoder):
        pytest.skip("nothing is tapped")
    records = [crystals.perovskite(), crystals.triclinic(6, 3)]
    together = explain(encoder, records)
    for record, found in zip(records, together.crystals, strict=True):
        edges, alone = found.edges, one(encoder, record)
        assert found.record.id == record.id
        assert edges is not None
        assert np.isfinite(edges.layers).all()
        np.testing.assert_array_equal(edges.mean, alone.edges.mean)


def test_an_encoder_without_taps_is_refused(crystals: Any) -> None:
    with pytest.raises(NeedsError, match="TensorNet has no weights to show"):
        explain(TensorNet(4, 1, num_basis=4).eval(), [crystals.fcc()])


def test_training_mode_and_nothing_are_refused(crystals: Any) -> None:
    with pytest.raises(ConfigError, match=r"call encoder\.eval"):
        explain(CGCNN(4, 1), [crystals.fcc()])
    with pytest.raises(ConfigError, match="at least one record"):
        explain(CGCNN(4, 1).eval(), [])


class Halved(CGCNN):
    """Shows half of its gates, so that nobody can tell whose they are."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.other = Tap("edges", "half")

    def forward(self, batch: Any) -> Any:
        encoding = super().forward(batch)
        self.other(batch.distances(self.spec)[::2])
        return encoding


def test_weights_that_belong_to_no_edge_are_refused(crystals: Any) -> None:
    with pytest.raises(NeedsError, match="tap 'half' gives 21 weights for 42 edges"):
        explain(Halved().eval(), [crystals.fcc()])


def test_weights_before_and_after_the_envelope_do_not_mix(crystals: Any) -> None:
    encoder = CGCNN(4, 2, num_basis=4)
    encoder.interaction[1].gate = Tap("edges", "gate")
    with pytest.raises(NeedsError, match="cannot be compared"):
        explain(encoder.eval(), [crystals.fcc()])


def test_a_gatgnn_averages_its_heads(crystals: Any) -> None:
    """With all weights 0 every neighbour is alike: c(d) / (Σ c(d) + e^(−l)) with one logit."""
    encoder = silent(GATGNN(4, 1, heads=3, num_basis=4))
    edges = one(encoder, crystals.fcc()).edges
    assert edges is not None
    logit = np.log(1 + np.exp(np.log(2)))  # softplus(softplus(0))
    envelope = poly6(edges.distances, 5.0)
    expected = envelope / (envelope.sum() + np.exp(-logit))
    np.testing.assert_allclose(edges.mean, expected, atol=1e-12)
    assert edges.envelope is None

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import yaml

from epitaxy.encoders.cgcnn_mdl import MatDeepLearnCGCNN
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.heads.scalar import ScalarHead


def test_the_convolution_is_its_formula(crystals: Any) -> None:
    torch.manual_seed(0)
    options = {"basis_width": 0.2, "norm": "none"}
    encoder = MatDeepLearnCGCNN(6, 1, cutoff=3.5, num_basis=5, **options).double()
    batch = collate([crystals.triclinic(1, 3)], [encoder.spec], (), torch.float64)
    graph, distances = batch.graph(encoder.spec), batch.distances(encoder.spec)
    centers = torch.linspace(0, 3.5, 5).double()
    basis = torch.exp(-0.5 * ((distances[:, None] - centers) / 0.7) ** 2)
    u = distances / 3.5
    weight = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
    one_hot = torch.eye(100).double()[batch.numbers - 1]
    node = one_hot @ encoder.embedding.weight.T + encoder.embedding.bias
    node = node * torch.sigmoid(node)
    linear, rows = encoder.interaction[0].linear, []
    for i in range(3):
        total, share = torch.zeros(6).double(), 1.0
        for k in torch.nonzero(graph.target == i).flatten().tolist():
            z = torch.cat([node[i], node[int(graph.source[k])], basis[k]])
            gate, core = (linear.weight @ z + linear.bias).chunk(2)
            total = total + weight[k] * torch.sigmoid(gate) * torch.log1p(core.exp())
            share = share + weight[k]
        rows.append(node[i] + total / share)
    torch.testing.assert_close(encoder(batch).node, torch.stack(rows))


def test_added_before_the_last_layers_energy_is_neither_intensive_nor_extensive(
    preset: Any, crystals: Any, repeated: Any
) -> None:
    """A doubled cell should have twice the energy; a sum of atomic energies has it."""
    encoder = preset("cgcnn_mdl", width=8, layers=1).double()
    salt = crystals.rocksalt()
    small, large = (
        collate([record], [encoder.spec], (), torch.float64)
        for record in (salt, repeated(salt, (2, 1, 1)))
    )
    ratios = {}
    for order in ("early", "late"):
        torch.manual_seed(1)
        head = ScalarHead(8, (8, 8), order=order, pool="sum").double()
        ratios[order] = float((head(encoder(large), large) / head(encoder(small), small)).detach())
    assert abs(ratios["late"] - 2.0) < 1e-9
    assert abs(ratios["early"] - 2.0) > 1e-3
    assert abs(ratios["early"] - 1.0) > 1e-3


def test_lost_images_change_a_crystal_with_a_short_cell(
    preset: Any, encoded: Any, repeated: Any
) -> None:
    """With at most two images along an axis of 2.5 Å, neighbours beyond 5 Å vanish."""
    cell = CrystalRecord("short", [26, 8], [[0, 0, 0], [1.2, 2.0, 2.0]], np.diag([2.5, 5.0, 5.0]))
    for images, equal in ((None, True), (2, False)):
        encoder = preset("cgcnn_mdl_paper", width=8, max_neighbors=None, max_images=images)
        small, large = encoded(encoder, cell).node, encoded(encoder, repeated(cell, (2, 1, 1))).node
        assert (float((large[:2] - small).abs().max()) < 1e-9) == equal


def test_a_cap_of_250_cuts_dense_crystals(encoded: Any, preset: Any) -> None:
    """Diamond has 380 atoms within 8 Å; which of them count depends on the numbering."""
    corner = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) * 3.567 / 2
    atoms = np.concatenate([corner, corner + 3.567 / 4])
    numbers = np.array([14, 14, 32, 32, 6, 6, 50, 50])  # else all atoms of a shell are alike
    order = np.array([5, 3, 7, 1, 6, 2, 4, 0])
    one = CrystalRecord("one", numbers, atoms, np.eye(3) * 3.567)
    other = CrystalRecord("other", numbers[order], atoms[order], np.eye(3) * 3.567)
    for cap, equal in ((250, False), (None, True)):
        encoder = preset("cgcnn_mdl_paper", width=8, max_neighbors=cap)
        assert collate([one], [encoder.spec]).graph(encoder.spec).num_edges == 8 * (cap or 380)
        difference = encoded(encoder, one).node[order] - encoded(encoder, other).node
        assert (float(difference.abs().max()) < 1e-9) == equal


def test_relu_gives_up_forces() -> None:
    assert "position_grad" not in MatDeepLearnCGCNN(8, 1, input_activation="relu").provides


def test_both_configurations_name_all_arguments(repository: Any) -> None:
    folder = repository / "platform/epitaxy/conf/encoder"
    one, other = (
        yaml.safe_load((folder / f"cgcnn_mdl{kind}.yaml").read_text("utf-8"))
        for kind in ("", "_paper")
    )
    assert one.keys() == other.keys()

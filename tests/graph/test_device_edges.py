"""Edges built by torch are those of the kernels, edge by edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph import device_edges
from epitaxy.graph.batch import Geometry
from epitaxy.graph.collate import collate, geometry
from epitaxy.graph.device_edges import build_edges_on_device, builds_on_device
from epitaxy.graph.neighbors import build_edges
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

SPECS = [
    GraphSpec(cutoff=6.0),
    GraphSpec(cutoff=7.0, max_neighbors=30),
    GraphSpec(cutoff=7.0, max_neighbors=30, ties="keep"),
    GraphSpec(cutoff=6.0, max_images=1),
    GraphSpec("nearest", 8.0, 12),
    GraphSpec("nearest", 8.0, 12, ties="keep"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def batch(crystals):
    odd = crystals.triclinic(8, 5)
    records = [
        crystals.triclinic(1, 1),
        crystals.triclinic(2, 7).replace(positions=crystals.triclinic(2, 7).positions + 37.0),
        CrystalRecord("cubic", [1], np.zeros((1, 3)), np.eye(3) * 2.5),
        odd.replace(pbc=np.array([True, False, True])),
        CrystalRecord("m", odd.numbers, odd.positions, np.zeros((3, 3)), np.zeros(3, bool)),
        CrystalRecord("lonely", [2], np.zeros((1, 3)), np.eye(3) * 30),
        odd.replace(cell=odd.cell[[1, 0, 2]]),
        crystals.triclinic(11, 24),
    ]
    return (
        np.concatenate([r.positions for r in records]),
        np.stack([r.cell for r in records]),
        np.stack([r.pbc for r in records]),
        np.array([r.num_atoms for r in records]),
    )


def on_device(spec, batch, device):
    return build_edges_on_device(Geometry(*map(torch.from_numpy, batch)).to(device), spec)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("at_once", [1 << 24, 5000])
def test_edges_and_their_order_are_those_of_the_host(spec, batch, device, at_once, monkeypatch):
    monkeypatch.setattr(device_edges, "CANDIDATES", at_once)
    positions, cells, pbc, sizes = batch
    expected = build_edges(spec, positions, cells, pbc, np.cumsum([0, *sizes]))
    found = on_device(spec, batch, device)
    assert found.source.device.type == device
    assert found.source.tolist() == expected.source.tolist()
    assert found.target.tolist() == expected.target.tolist()
    assert found.shifts.tolist() == expected.shifts.tolist()
    assert found.shifts.dtype == torch.int32


def test_an_empty_batch_has_no_edges():
    empty = (np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3), bool), np.zeros(0, np.int64))
    for spec in SPECS:
        assert on_device(spec, empty, "cpu").num_edges == 0


def test_other_rules_are_left_to_the_host(batch):
    for spec in (GraphSpec("shell", 8.0, 12), GraphSpec(line_graph=True), GraphSpec(reverse=True)):
        assert not builds_on_device(spec)
        with pytest.raises(ConfigError, match=r"compute\.edges=host"):
            on_device(spec, batch, "cpu")


def test_a_cell_in_wrong_units_is_refused():
    tiny = (np.zeros((1, 3)), np.eye(3)[None] * 0.03, np.ones((1, 3), bool), np.ones(1, np.int64))
    with pytest.raises(RecordError, match="check the units of the cell"):
        on_device(GraphSpec(cutoff=8.0), tiny, "cpu")


def test_records_give_the_edges_that_collate_builds(crystals):
    records, spec = [crystals.triclinic(1, 3), crystals.triclinic(2, 5)], GraphSpec(cutoff=5.0)
    expected = collate(records, [spec]).graph(spec)
    exact = geometry(records)
    assert exact.to("cpu").positions.dtype == torch.float64
    found = build_edges_on_device(exact, spec)
    assert found.source.tolist() == expected.source.tolist()
    assert found.shifts.tolist() == expected.shifts.tolist()
    assert build_edges_on_device(geometry([]), spec).num_edges == 0

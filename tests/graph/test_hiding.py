"""What a view hides is gone from every graph, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epitaxy.data.codec import encode
from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.batch import Graph
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, Hiding
from epitaxy.graph.spec import GraphSpec


def crystal(seed: int, atoms: int = 5) -> CrystalRecord:
    rng = np.random.default_rng(seed)
    cell = np.diag([4.0, 5.0, 6.0]) + rng.normal(0, 0.3, (3, 3))
    numbers = rng.integers(1, 90, atoms)
    return CrystalRecord(f"c{seed}", numbers, rng.random((atoms, 3)) @ cell, cell)


def edge_set(graph: Graph, first: int = 0) -> set[tuple[int, ...]]:
    ends = torch.stack([graph.source - first, graph.target - first], 1)
    return {tuple(row) for row in torch.cat([ends, graph.shifts.long()], 1).tolist()}


def test_hidden_elements_become_zero_in_the_batch_only() -> None:
    record = crystal(0)
    hidden = np.array([False, True, False, False, True])
    view = record.replace(hiding=Hiding(atoms=hidden))
    batch = collate([record, view], [GraphSpec(cutoff=4.0)])
    assert batch.numbers[:5].tolist() == record.numbers.tolist()
    assert batch.numbers[5:].tolist() == np.where(hidden, 0, record.numbers).tolist()
    assert view.numbers.tolist() == record.numbers.tolist()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_every_atom_keeps_its_share_of_edges(share: float) -> None:
    spec = GraphSpec(cutoff=5.0)
    record = crystal(1)
    whole = collate([record], [spec]).graph(spec)
    graph = collate([record.replace(hiding=Hiding(edges=share, key=3))], [spec]).graph(spec)
    degree = np.bincount(whole.target, minlength=5)
    left = np.bincount(graph.target, minlength=5)
    expected = [-(-round((1 - share) * 10) * int(count) // 10) for count in degree]
    assert left.tolist() == expected
    assert edge_set(graph) < edge_set(whole)
    assert graph.target.tolist() == sorted(graph.target.tolist())


def test_the_key_alone_chooses_the_edges() -> None:
    spec = GraphSpec(cutoff=5.0)
    records = [crystal(seed).replace(hiding=Hiding(edges=0.2, key=seed)) for seed in range(3)]
    together = collate([crystal(9), *records], [spec]).graph(spec)
    for place, record in enumerate(records):
        alone = collate([record], [spec]).graph(spec)
        first = 5 * (place + 1)
        inside = (together.target >= first) & (together.target < first + 5)
        part = Graph(together.source[inside], together.target[inside], together.shifts[inside])
        assert edge_set(part, first) == edge_set(alone)
    other = records[0].replace(hiding=Hiding(edges=0.2, key=77))
    alone = collate([other], [spec]).graph(spec)
    assert edge_set(alone) != edge_set(collate([records[0]], [spec]).graph(spec))


def test_each_edge_is_hidden_about_as_often_as_any_other() -> None:
    spec = GraphSpec("nearest", 8.0, 10)
    record = crystal(2)
    whole = sorted(edge_set(collate([record], [spec]).graph(spec)))
    views = [record.replace(id=f"v{k}", hiding=Hiding(edges=0.2, key=k)) for k in range(400)]
    seen = dict.fromkeys(whole, 0)
    for view in views:
        for edge in edge_set(collate([view], [spec]).graph(spec)):
            seen[edge] += 1
    counts = np.array(list(seen.values()))
    # Binomial with p = 0.8: a standard deviation of 8; 50 edges stay within five of them.
    assert counts.sum() == 400 * 5 * 8
    assert np.abs(counts - 320).max() < 40


def test_in_a_padded_graph_hidden_edges_become_fill() -> None:
    spec = GraphSpec("nearest", 8.0, 12, padded=True)
    records = [crystal(3), crystal(4).replace(hiding=Hiding(edges=0.1, key=5))]
    batch = collate(records, [spec])
    graph = batch.graph(spec)
    assert graph.padded is not None
    second = graph.target >= 5
    fill = np.bincount(graph.target[graph.padded].numpy(), minlength=10)
    assert fill.tolist() == [0] * 5 + [1] * 5  # ceil(0.9 * 12) = 11 stay
    hidden = graph.padded & second
    assert graph.source[hidden].tolist() == [5] * 5
    assert not graph.shifts[hidden].any()
    assert batch.distances(spec)[hidden].tolist() == [9.0] * 5


def test_pairs_of_edges_go_with_their_edges() -> None:
    spec = GraphSpec("shell", 8.0, 6, line_graph=True, self_angles=True)
    record = crystal(5)
    view = record.replace(hiding=Hiding(edges=0.25, key=1))
    whole, graph = (collate([r], [spec]).graph(spec) for r in (record, view))
    assert whole.line is not None
    assert graph.line is not None

    def pairs(one: Graph) -> set[tuple[tuple[int, ...], ...]]:
        ends = torch.cat([one.source[:, None], one.target[:, None], one.shifts.long()], 1)
        rows = [tuple(row) for row in ends.tolist()]
        assert one.line is not None
        return {
            (rows[a], rows[b])
            for a, b in zip(one.line.source.tolist(), one.line.target.tolist(), strict=True)
        }

    kept = edge_set(graph)
    assert pairs(graph) == {pair for pair in pairs(whole) if kept >= set(pair)}


def test_graphs_that_cannot_lose_edges_are_refused() -> None:
    view = crystal(6).replace(hiding=Hiding(edges=0.1))
    with pytest.raises(ConfigError, match="edge_mask=0"):
        collate([view], [GraphSpec(cutoff=4.0, reverse=True)])


def test_a_view_that_hides_something_cannot_be_stored() -> None:
    with pytest.raises(RecordError, match="'c7' is a view"):
        encode(crystal(7).replace(hiding=Hiding(edges=0.1)))

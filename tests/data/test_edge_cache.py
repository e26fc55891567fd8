"""Cached edges are the built ones, the cache stays small, and moved atoms are other structures."""

import threading

import numpy as np
import pytest
import torch

from epitaxy.data.edge_cache import EdgeCache, is_cacheable
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec

RADIUS, NEAREST = GraphSpec(cutoff=6.0), GraphSpec("nearest", 8.0, 12)


def same(found, expected):
    return all(
        torch.equal(getattr(found, name), getattr(expected, name))
        for name in ("source", "target", "shifts")
    )


@pytest.mark.parametrize("spec", [RADIUS, NEAREST])
def test_cached_edges_are_the_built_ones_in_any_company(crystals, spec):
    cache, records = EdgeCache(10**8), crystals.many(20)
    rng = np.random.default_rng(0)
    for _ in range(10):
        chosen = [records[i] for i in rng.integers(0, 20, 7)]
        assert same(cache.graph(spec, chosen), collate(chosen, (spec,)).graph(spec))
    assert cache.misses < 40 < cache.hits + cache.misses == 70
    assert same(cache.graph(spec, []), collate([], (spec,)).graph(spec))


def test_two_rules_do_not_mix(crystals):
    cache, records = EdgeCache(10**8), crystals.many(4)
    for spec in (RADIUS, NEAREST, RADIUS):
        assert same(cache.graph(spec, records), collate(records, (spec,)).graph(spec))
    assert (cache.misses, cache.hits) == (8, 4)


def test_a_moved_atom_is_another_structure_and_another_label_is_not(crystals):
    cache, record = EdgeCache(10**8), crystals.labelled(crystals.triclinic(1, 5))
    cache.graph(RADIUS, [record])
    cache.graph(RADIUS, [record.replace(id="other", labels={})])
    assert (cache.misses, cache.hits) == (1, 1)
    moved = record.replace(positions=record.positions + np.array([1e-9, 0, 0]))
    assert same(cache.graph(RADIUS, [moved]), collate([moved], (RADIUS,)).graph(RADIUS))
    assert cache.misses == 2


def test_the_longest_unused_are_forgotten(crystals):
    records = [crystals.triclinic(seed, 6) for seed in range(12)]
    one = EdgeCache(10**9)
    one.graph(RADIUS, records[:1])
    cache = EdgeCache(int(one.size * 4.5))
    for record in records:
        cache.graph(RADIUS, [record])
        cache.graph(RADIUS, [records[0]])  # used again and again
        assert cache.size <= one.size * 4.5
    assert cache.hits == 11 + 1, "the first was never forgotten"
    cache.graph(RADIUS, [records[1]])
    assert cache.misses == 13, "the second was"


def test_images_far_away_fit(crystals):
    """A cell 0.05 Å thin: images up to ±160, beyond one byte."""
    cell = np.diag([0.05, 9.0, 9.0])
    thin = CrystalRecord("thin", np.array([6], np.uint8), np.zeros((1, 3)), cell)
    graph = EdgeCache(10**8).graph(GraphSpec(cutoff=8.0), [thin])
    assert int(graph.shifts.abs().max()) == 160
    assert same(graph, collate([thin], (GraphSpec(cutoff=8.0),)).graph(GraphSpec(cutoff=8.0)))


def test_threads_share_a_cache(crystals):
    cache, records = EdgeCache(20_000), crystals.many(30)  # it forgets all the time
    expected, wrong = collate(records, (RADIUS,)).graph(RADIUS), []

    def work():
        for _ in range(10):
            wrong.extend([1] * (not same(cache.graph(RADIUS, records), expected)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_only_plain_graphs_are_cached():
    assert is_cacheable(RADIUS)
    assert is_cacheable(NEAREST)
    assert not is_cacheable(GraphSpec("nearest", 8.0, 12, padded=True))

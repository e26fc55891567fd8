"""Classes of pairs by hand, the weighted mean, blocks and draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted import enlarged

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.decoders import EdgeDecoder
from epitaxy.objectives.connectivity import (
    CLASS_WEIGHTS,
    connectivity_loss,
    draw_centers,
    pairs_in,
)

NEAREST = GraphSpec("nearest", 8.0, 12)
PADDED = GraphSpec("nearest", 8.0, 12, padded=True)
SHELLS = GraphSpec("nearest", 8.0, 12, ties="keep")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def to_batch(*records: CrystalRecord, spec: GraphSpec = NEAREST) -> CrystalBatch:
    return collate(records, [spec], (), torch.float64)


def classes_of(record: CrystalRecord, spec: GraphSpec = NEAREST) -> np.ndarray:
    batch = to_batch(record, spec=spec)
    classes = pairs_in(batch, batch.graph(spec)).classes.numpy()
    return classes.reshape(record.num_atoms, record.num_atoms)


def test_twelve_images_of_one_atom_count_as_five(crystals: Any) -> None:
    assert classes_of(crystals.fcc()).tolist() == [[5]]


def test_fcc_in_its_cube_has_four_edges_to_each_other_atom(crystals: Any) -> None:
    expected = 4 * (1 - np.eye(4, dtype=int))
    np.testing.assert_array_equal(classes_of(crystals.fcc(primitive=False)), expected)


def test_a_doubled_primitive_cell_of_fcc_has_two_edges_to_six_atoms(crystals: Any) -> None:
    """±a, ±b, ±c, ±(a − b), … are 12 vectors, modulo 2 six classes; a + b + c is the seventh."""
    classes = classes_of(enlarged(crystals.fcc(), 2 * np.eye(3, dtype=int)))
    for row in classes:
        assert sorted(row.tolist()) == [0, 0, 2, 2, 2, 2, 2, 2]
    assert not classes.diagonal().any()
    np.testing.assert_array_equal(classes, classes.T)


def test_rocksalt_has_two_edges_to_near_ions_and_four_to_alike_ones(crystals: Any) -> None:
    """Six unlike neighbours are three atoms twice; the 12 alike ones share one shell: kept whole.

    The fourth unlike ion sits in the centre of the cube around an ion: no neighbour.
    """
    classes = classes_of(crystals.rocksalt(), SHELLS)
    alike, unlike = classes[:4, :4], classes[:4, 4:]
    np.testing.assert_array_equal(alike, 4 * (1 - np.eye(4, dtype=int)))
    for row in unlike:
        assert sorted(row.tolist()) == [0, 2, 2, 2]
    np.testing.assert_array_equal(classes[4:, 4:], alike)
    np.testing.assert_array_equal(classes[4:, :4], unlike.T)
    nearest = classes_of(crystals.rocksalt(), GraphSpec("nearest", 8.0, 6))
    assert not nearest[:4, :4].any()
    np.testing.assert_array_equal(nearest[:4, 4:], unlike)


def test_the_row_is_the_centre(crystals: Any) -> None:
    """With one neighbour each: 1 is nearest to 0 and to 2, which 1 does not choose."""
    fractions = np.array([[0.1, 0, 0], [0.2, 0, 0], [0.35, 0, 0]])
    record = crystals.record("row", [3, 8, 9], fractions, 10 * np.eye(3))
    classes = classes_of(record, GraphSpec("nearest", 8.0, 1))
    np.testing.assert_array_equal(classes, [[0, 1, 0], [1, 0, 0], [0, 1, 0]])


def test_fill_counts_as_edges_to_the_first_atom(crystals: Any) -> None:
    """A lone pair: one neighbour each, and eleven times fill."""
    fractions = np.array([[0, 0, 0], [0.05, 0, 0]])
    record = crystals.record("pair", [1, 9], fractions, 20 * np.eye(3))
    np.testing.assert_array_equal(classes_of(record), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(classes_of(record, PADDED), [[5, 1], [5, 0]])


def test_classes_follow_the_numbering_of_atoms(crystals: Any) -> None:
    record = crystals.triclinic(3, 6)
    order = np.random.default_rng(0).permutation(6)
    shuffled = record.replace(numbers=record.numbers[order], positions=record.positions[order])
    np.testing.assert_array_equal(classes_of(shuffled), classes_of(record)[np.ix_(order, order)])


def test_a_batch_has_the_pairs_of_its_crystals_and_no_others(crystals: Any) -> None:
    records = [crystals.triclinic(seed, count) for seed, count in enumerate((3, 1, 5))]
    batch = to_batch(*records)
    pairs = pairs_in(batch, batch.graph(NEAREST))
    expected = np.concatenate([classes_of(record).ravel() for record in records])
    np.testing.assert_array_equal(pairs.classes, expected)
    assert len(pairs.classes) == 9 + 1 + 25


def test_pairs_without_an_edge_weigh_a_tenth(crystals: Any) -> None:
    """fcc in its cube: 4 pairs of weight 0.1 and 12 of weight 1."""
    batch = to_batch(crystals.fcc(primitive=False))
    pairs = pairs_in(batch, batch.graph(NEAREST))
    assert pairs.count == pytest.approx(4 * 0.1 + 12)
    batch = to_batch(crystals.fcc(primitive=False), crystals.fcc())
    assert pairs_in(batch, batch.graph(NEAREST)).count == pytest.approx(12.4 + 1.0)


def test_the_weighted_mean_by_hand(crystals: Any) -> None:
    """States that all give the same logits: each pair costs −log p of its class."""
    decoder = EdgeDecoder(2, len(CLASS_WEIGHTS)).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.out.bias.copy_(torch.tensor([0.5, 0.1, 0.1, 0.1, 0.15, 0.05]).log())
    batch = to_batch(crystals.fcc(primitive=False), crystals.fcc())
    node = torch.randn(5, 2).double()
    pairs = pairs_in(batch, batch.graph(NEAREST))
    total = connectivity_loss(decoder, node, pairs, 100)
    by_hand = 4 * 0.1 * -np.log(0.5) + 12 * -np.log(0.15) - np.log(0.05)
    assert float(total.detach()) == pytest.approx(by_hand)
    each = pairs_in(batch, batch.graph(NEAREST), reduction="per_crystal")
    total = connectivity_loss(decoder, node, each, 100)
    cube = (4 * 0.1 * -np.log(0.5) + 12 * -np.log(0.15)) / 12.4
    assert float(total.detach()) / each.count == pytest.approx((cube - np.log(0.05)) / 2)


@pytest.mark.parametrize("block_pairs", [1, 7, 36, 50])
def test_blocks_change_neither_the_loss_nor_its_gradient(crystals: Any, block_pairs: int) -> None:
    """Blocks of less than a row, of parts of a crystal, and of several crystals."""
    records = [crystals.triclinic(seed, count) for seed, count in enumerate((4, 6, 1, 3, 2))]
    batch = to_batch(*records)
    pairs = pairs_in(batch, batch.graph(NEAREST))
    decoder = EdgeDecoder(3, len(CLASS_WEIGHTS)).double()
    node = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)

    def with_gradients(limit: int) -> list[torch.Tensor]:
        total = connectivity_loss(decoder, node, pairs, limit)
        return [total.detach(), *torch.autograd.grad(total, [node, *decoder.parameters()])]

    for found, expected in zip(with_gradients(block_pairs), with_gradients(10**9), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_no_tensor_of_a_blocked_loss_is_larger_than_its_block(crystals: Any) -> None:
    """Of what the backward pass keeps: states, classes and weights, but no logits of all pairs."""
    batch = to_batch(crystals.triclinic(0, 20))
    pairs = pairs_in(batch, batch.graph(NEAREST))
    decoder = EdgeDecoder(3, len(CLASS_WEIGHTS)).double()
    node = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    largest: dict[int, int] = {}
    for limit in (40, 400):
        sizes = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            if tensor.is_floating_point():
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            connectivity_loss(decoder, node, pairs, limit)
        largest[limit] = max(sizes)
    assert largest[40] <= 400
    assert largest[400] == 6 * 400


def test_drawn_centres_stand_for_those_left_out(crystals: Any) -> None:
    """Over all single centres, sums and counts average to those of all pairs."""
    record = crystals.triclinic(1, 4)
    batch = to_batch(record)
    decoder = EdgeDecoder(3, len(CLASS_WEIGHTS)).double()
    node = torch.randn(4, 3).double()
    whole = pairs_in(batch, batch.graph(NEAREST))
    totals, counts = [], []
    for center in range(4):
        drawn = torch.arange(4) == center
        pairs = pairs_in(batch, batch.graph(NEAREST), drawn=drawn)
        np.testing.assert_array_equal(pairs.classes, classes_of(record)[center])
        totals.append(connectivity_loss(decoder, node, pairs, 100))
        counts.append(pairs.count)
    expected = connectivity_loss(decoder, node, whole, 100)
    torch.testing.assert_close(torch.stack(totals).mean(), expected, **EXACT)
    assert np.mean(counts) == pytest.approx(whole.count)


@pytest.mark.parametrize(("atoms", "limit", "centers"), [(10, 35, 3), (10, 4, 1), (3, 100, 3)])
def test_as_many_centres_are_drawn_as_fit(atoms: int, limit: int, centers: int) -> None:
    drawn = [draw_centers(atoms, limit, np.random.default_rng(seed)) for seed in range(60)]
    assert {int(one.sum()) for one in drawn} == {centers}
    assert np.any(drawn, axis=0).all()

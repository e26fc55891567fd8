"""Views hide and move what they say, as often as they say, and each on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.roost import Roost
from epitaxy.errors import ConfigError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.spec import GraphSpec
from epitaxy.objectives.augmentation import Augmentation, displacements, hidden_atoms
from epitaxy.train.random import generator

COMPOSITION = {"edge_mask": 0.0, "perturb": 0.0, "composition": True}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def formula(*numbers: int) -> CrystalRecord:
    amounts = Label(np.arange(1, len(numbers) + 1), "", per_atom=True)
    flat = np.zeros((len(numbers), 3)), np.zeros((3, 3)), np.zeros(3, bool)
    return CrystalRecord("formula", numbers, *flat, {AMOUNT: amounts})


@pytest.mark.parametrize(
    ("atoms", "share", "hidden"),
    [(1, 0.1, 1), (9, 0.1, 1), (10, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (100, 0.29, 29)],
)
def test_number_of_hidden_atoms(atoms: int, share: float, hidden: int) -> None:
    """⌊0.29 · 100⌋ is 29 although 0.29 · 100 is 28.999… in floating point."""
    mask = hidden_atoms(atoms, share, rng())
    assert mask is not None
    assert (len(mask), int(mask.sum())) == (atoms, hidden)
    assert hidden_atoms(atoms, 0.0, rng()) is None


def test_every_atom_is_hidden_equally_often() -> None:
    draws = rng()
    counts = sum(hidden_atoms(5, 0.4, draws).astype(int) for _ in range(2000))  # type: ignore[union-attr]
    # Binomial with p = 2/5: a standard deviation of 22.
    assert counts.sum() == 4000
    assert np.abs(counts - 800).max() < 110


def test_atoms_move_by_a_uniform_distance_in_any_direction() -> None:
    moves = displacements(20_000, 0.05, rng())
    lengths = np.linalg.norm(moves, axis=1)
    assert 0 <= lengths.min() < 1e-4
    assert 0.0499 < lengths.max() <= 0.05
    shares, _ = np.histogram(lengths, bins=10, range=(0, 0.05))
    assert np.abs(shares - 2000).max() < 5 * np.sqrt(2000)
    # On a sphere every component of a unit vector is uniform: mean 0, mean square 1/3.
    units = moves / lengths[:, None]
    assert np.abs(units.mean(0)).max() < 5 * np.sqrt(1 / 3 / 20_000)
    squares, _ = np.histogram(units[:, 2], bins=10, range=(-1, 1))
    assert np.abs(squares - 2000).max() < 5 * np.sqrt(2000)


def test_the_views_of_a_structure(crystals: Any) -> None:
    record = crystals.labelled(crystals.triclinic(3, 20))
    first, second = Augmentation(edge_mask=0.2, perturb=0.03).views(record, rng())
    for view in (first, second):
        assert view.hiding is not None
        assert view.hiding.atoms is not None
        assert int(view.hiding.atoms.sum()) == 2
        assert view.hiding.edges == 0.2
        moved = np.linalg.norm(view.positions - record.positions, axis=1)
        assert 0 < moved.min() <= moved.max() <= 0.03
        assert view.labels == {}  # a force holds where the atom was
        assert (view.id, view.numbers.tolist()) == (record.id, record.numbers.tolist())
        np.testing.assert_array_equal(view.cell, record.cell)
    assert first.hiding.key != second.hiding.key
    assert (first.positions != second.positions).all()


def test_what_is_switched_off_stays_as_it_is(crystals: Any) -> None:
    record = crystals.labelled(crystals.triclinic(3, 20))
    for view in Augmentation(perturb=0.0).views(record, rng()):
        np.testing.assert_array_equal(view.positions, record.positions)
        assert dict(view.labels) == dict(record.labels)
    for view in Augmentation(atom_mask=0.0).views(record, rng()):
        assert view.hiding is not None
        assert view.hiding.atoms is None
    for view in Augmentation(edge_mask=0.0).views(record, rng()):
        assert view.hiding is not None
        assert view.hiding.edges == 0.0
    plain, other = Augmentation(masked_views="one").views(record, rng())
    assert plain is record
    assert other.hiding is not None


def test_eleven_of_twelve_neighbours_stay(crystals: Any) -> None:
    """⌈0.9 · 12⌉ = 11, as in the code of Crystal Twins."""
    spec = GraphSpec("nearest", 8.0, 12)
    views = Augmentation().views(crystals.triclinic(3, 7), rng())
    for view in views:
        target = collate([view], [spec]).graph(spec).target
        assert np.bincount(target).tolist() == [11] * 7


@pytest.mark.parametrize("elements", [1, 2, 9, 10, 20])
def test_one_element_of_a_composition_is_hidden(elements: int) -> None:
    record = formula(*range(1, elements + 1))
    plain, masked = Augmentation(**COMPOSITION, masked_views="one").views(record, rng())
    assert plain is record
    assert masked.hiding is not None
    assert masked.hiding.atoms is not None
    assert int(masked.hiding.atoms.sum()) == {20: 2}.get(elements, 1)
    for view in Augmentation(**COMPOSITION).views(record, rng()):
        assert view.hiding is not None
        assert view.hiding.atoms is not None
        assert view.hiding.atoms.any()


def test_structures_are_masked_by_element(crystals: Any) -> None:
    """Of BaTiO3's five atoms three are oxygen: it has three elements to hide."""
    views = Augmentation(**COMPOSITION).views(crystals.perovskite(), rng())
    for view in views:
        assert view.numbers.tolist() == [8, 22, 56]
        assert view.labels[AMOUNT].value.tolist() == [3, 1, 1]
        assert view.hiding is not None
        assert view.hiding.atoms is not None
        assert int(view.hiding.atoms.sum()) == 1


def test_a_hidden_element_has_no_features_but_keeps_weight_and_edges() -> None:
    encoder = Roost(6, 1, heads=2, gate=(5,), message=(7,), trunk=(8, 4), features="cgcnn92")
    encoder = encoder.double()
    plain, masked = Augmentation(**COMPOSITION, masked_views="one").views(formula(26, 8), rng())
    whole, hidden = (collate([v], [encoder.spec], (), torch.float64) for v in (plain, masked))
    graphs = [batch.graph(encoder.spec) for batch in (whole, hidden)]
    assert torch.equal(graphs[0].source, graphs[1].source)
    assert torch.equal(graphs[0].target, graphs[1].target)
    assert torch.equal(whole.amounts, hidden.amounts)
    found = encoder(hidden).graph
    gone = int(np.flatnonzero(masked.hiding.atoms)[0])  # type: ignore[union-attr, arg-type]
    encoder.features.table[whole.numbers[gone]] = 0.0
    torch.testing.assert_close(found, encoder(whole).graph, rtol=0, atol=0)


def test_views_depend_on_seed_epoch_and_crystal_alone(crystals: Any) -> None:
    record = crystals.triclinic(3, 20)

    def positions(seed: int, epoch: int, stream: str = "views") -> np.ndarray:
        drawn = Augmentation().views(record, generator(seed, epoch, record.id, stream))
        return np.stack([view.positions for view in drawn])

    np.testing.assert_array_equal(positions(0, 3), positions(0, 3))
    for other in (positions(1, 3), positions(0, 4), positions(0, 3, "validation")):
        assert (other != positions(0, 3)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atom_mask": 1.0}, "atom_mask is a share"),
        ({"edge_mask": -0.1}, "edge_mask is a share"),
        ({"perturb": -0.1}, "perturb is a distance"),
        ({"masked_views": "boht"}, "did you mean 'both'"),
        ({"composition": True, "perturb": 0.0}, "set edge_mask=0 perturb=0"),
        ({"composition": True, "edge_mask": 0.0}, "set edge_mask=0 perturb=0"),
        ({"atom_mask": 0.0, "edge_mask": 0.0, "perturb": 0.0}, "would be the same crystal"),
    ],
)
def test_impossible_views_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)

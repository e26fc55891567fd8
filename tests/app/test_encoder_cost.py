"""Costs of an encoder against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from epitaxy.app.encoder_cost import (
    count_flop,
    edges_per_atom,
    gflop,
    milliseconds,
    standard_crystal,
)
from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.roost import Roost


def neighbours_within(radius: float) -> float:
    """Mean number of neighbours of the five atoms of BaTiO3, counted over all images."""
    atoms = np.array([[0, 0, 0], [2, 2, 2], [2, 2, 0], [2, 0, 2], [0, 2, 2]], float)
    images = np.stack(np.meshgrid(*[np.arange(-3, 4) * 4.0] * 3), -1).reshape(-1, 3)
    every = (atoms[:, None] + images).reshape(-1, 3)
    distances = np.linalg.norm(every[None] - atoms[:, None], axis=-1)
    return float(((distances > 0.01) & (distances <= radius)).sum() / 5)


def test_the_crystal_is_barium_titanate() -> None:
    crystal = standard_crystal()
    numbers, counts = np.unique(crystal.numbers, return_counts=True)
    assert (numbers.tolist(), counts.tolist()) == ([8, 22, 56], [24, 8, 8])
    assert crystal.volume == pytest.approx(8 * 4.0**3)
    titanium = crystal.positions[crystal.numbers == 22][0]
    oxygen = crystal.positions[crystal.numbers == 8]
    assert np.linalg.norm(oxygen - titanium, axis=1).min() == pytest.approx(2.0)


@pytest.mark.parametrize("radius", [3.0, 5.0])
def test_edges_are_all_neighbours_within_the_cutoff(radius: float) -> None:
    assert edges_per_atom(CGCNN(cutoff=radius)) == neighbours_within(radius)


def test_nearest_neighbours_are_as_many_as_asked_for() -> None:
    encoder = CGCNN(rule="nearest", cutoff=8.0, max_neighbors=12, padding="index0")
    assert edges_per_atom(encoder) == 12


def test_a_linear_layer_multiplies_and_adds() -> None:
    assert count_flop(nn.Linear(10, 20), torch.zeros(5, 10)) == 2 * 5 * 10 * 20


def test_the_operations_of_a_cgcnn() -> None:
    """Embedding, then each layer: both atoms of an edge once per atom, its Gaussians per edge."""
    atoms, width, basis, layers = 40, 16, 8, 2
    edges = round(neighbours_within(5.0) * atoms)
    embedding = 2 * atoms * 92 * width
    layer = 2 * (2 * atoms * width * 2 * width) + 2 * edges * basis * 2 * width
    images = 2 * edges * 3 * 3  # shift times cell, for the vector of each edge
    expected = (embedding + layers * layer + images) / 1e9 * 1000 / atoms
    assert gflop(CGCNN(width, layers, num_basis=basis)) == pytest.approx(expected)


def test_a_composition_has_nine_pairs() -> None:
    assert edges_per_atom(Roost(features="cgcnn92")) == 9 / 40


def test_times_leave_threads_and_mode_as_they_were() -> None:
    encoder, threads = CGCNN(4, 1, num_basis=4), torch.get_num_threads()
    alone, both = milliseconds(encoder)
    assert alone > 0
    assert both > 0
    assert torch.get_num_threads() == threads
    assert not encoder.training
    assert all(weight.grad is None for weight in encoder.parameters())

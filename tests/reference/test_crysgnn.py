"""CrysGNN and CrysXPP's auto-encoder: states with and without unit length, decoders, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from published_models import HIDDEN, OUTPUT, Case, Pair, case, close
from torch import Tensor

from epitaxy.build import build
from epitaxy.encoders.pooling import pool
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.heads.model import Model
from epitaxy.objectives.connectivity import pairs_in
from epitaxy.objectives.crysgnn import CrysGNN

FAMILY = "crysgnn"
RELATIVE = 1e-5
"""Of the largest logarithm of a crystal: bilinear forms of states of any length reach hundreds."""
VARIANTS = {"plain": ("", False), "unit length": ("l2_", True)}


def test_states_and_the_mean_of_those_of_unit_length(pair: Pair) -> None:
    plain, normalised = case(pair, unit_length=False), case(pair, unit_length=True)
    for name in plain.names:
        batch = plain.batch(name)
        with torch.no_grad():
            close(plain.model.encoder(batch).node, plain.vector(name, "node_states"), **HIDDEN)
            node = normalised.model.encoder(batch).node
        close(node, plain.vector(name, "node_states_l2"), **OUTPUT)
        crystal = pool("mean", node, batch)
        close(crystal, plain.vector(name, "graph_embedding"), **OUTPUT)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def variant(request: pytest.FixtureRequest, pair: Pair) -> tuple[str, Case, CrysGNN]:
    """Prefix of the vectors, and the published model with its own objective."""
    prefix, unit_length = request.param
    original = case(pair, unit_length=unit_length)
    return prefix, original, build(original.published.objective)


def batch_of(original: Case, objective: CrysGNN, name: str) -> CrystalBatch:
    specs = [original.model.encoder.spec, objective.graph]
    return collate([original.record(name)], specs, (), original.dtype)


def test_classes_of_pairs_count_the_fill_too(variant: Any) -> None:
    _, original, objective = variant
    assert "sparse_HF" in original.names  # two atoms with 2 neighbours each: 10 are fill
    for name in original.names:
        batch = batch_of(original, objective, name)
        expected = original.vector(name, "adjacency_target").reshape(-1)
        classes = pairs_in(batch, batch.graph(objective.graph)).classes
        np.testing.assert_array_equal(classes.numpy(), expected)


def test_decoders_give_the_original_logits(variant: Any) -> None:
    prefix, original, objective = variant
    for name in original.names:
        batch = batch_of(original, objective, name)
        with torch.no_grad():
            node = original.model.encoder(batch).node
            edges = original.model.head["connectivity"]([node], [node])
            features = original.model.head["features"](node)
        expected = original.vector(name, f"{prefix}edge_logp")
        close(edges.log_softmax(1), expected, rtol=0.0, atol=RELATIVE * np.abs(expected).max())
        close(features, original.vector(name, f"{prefix}feature_logits"), **HIDDEN)


def test_terms_are_the_original_losses(variant: Any) -> None:
    prefix, original, objective = variant
    for name in original.names:
        means = term_means(objective, original.model, batch_of(original, objective, name))
        connectivity = original.vector(name, f"{prefix}loss_connectivity_weighted_mean")
        close(means["connectivity"], connectivity, rtol=1e-5, atol=1e-5)
        close(means["features"], original.vector(name, f"{prefix}loss_feature_bce"), **OUTPUT)


def term_means(objective: CrysGNN, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
    with torch.no_grad():
        terms = objective.terms(model, (batch,))
    return {name: term.total / term.count for name, term in terms.items()}  # type: ignore[union-attr]

"""ALIGNN: its edges, its line graph, states of atoms and bonds, outputs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from published_models import HIDDEN, OUTPUT, Case, Pair, case, close

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec

FAMILY = "alignn"
EDGE_WIDTH = 1e-5
"""Å. The original stores bond vectors in single precision."""


def edge_order(case: Case, name: str, batch: Any) -> np.ndarray:
    """For each edge of the original, the index of the same one of ours.

    Bonds of an atom to its own images occur twice; doubles are alike in every respect.
    """
    spec = case.model.encoder.spec
    graph = batch.graph(spec)
    # Theirs runs from u to v with the vector u → v; ours is the one from neighbour to centre.
    ours = np.column_stack([graph.source, graph.target, -batch.edge_vectors(spec)])
    theirs = np.column_stack([case.vector(name, k) for k in ("edge_src", "edge_dst", "edge_r")])
    first, second = (np.lexsort(np.round(rows, 4).T[::-1]) for rows in (ours, theirs))
    np.testing.assert_allclose(ours[first], theirs[second], rtol=0, atol=EDGE_WIDTH)
    order = np.empty(len(theirs), int)
    order[second] = first
    return order


class GivenVectors(CrystalBatch):
    """A batch whose edges have the vectors that somebody else computed."""

    given: torch.Tensor

    def edge_vectors(self, spec: GraphSpec) -> torch.Tensor:
        return self.given


def with_their_vectors(
    case: Case, name: str, batch: CrystalBatch, order: np.ndarray
) -> CrystalBatch:
    """Their bond vectors are off by 3e-6 Å in skew cells, which narrow Gaussians make visible."""
    vectors = torch.empty(len(order), 3)
    vectors[torch.from_numpy(order)] = -torch.from_numpy(case.vector(name, "edge_r"))
    twin = GivenVectors(**{field.name: getattr(batch, field.name) for field in fields(batch)})
    object.__setattr__(twin, "given", vectors)
    return twin


def test_edges_and_angles(pair: Pair) -> None:
    original = case(pair)
    for name in original.names:
        batch = original.batch(name)
        order = edge_order(original, name, batch)
        line = batch.line_graph(original.model.encoder.spec)
        cosines = batch.cosines(original.model.encoder.spec)
        ours = np.column_stack([line.source, line.target, cosines])
        theirs = np.column_stack(
            [
                order[original.vector(name, "lg_src")],
                order[original.vector(name, "lg_dst")],
                original.vector(name, "lg_cos"),
            ]
        )
        assert len(ours) == len(theirs)
        # Doubled bonds may be numbered either way, so compare what does not depend on it.
        ends = batch.graph(original.model.encoder.spec)
        rows = [in_order(describe(one, ends)) for one in (ours, theirs)]
        np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=2e-5)


def describe(pairs: np.ndarray, graph: Any) -> np.ndarray:
    """The three atoms and the cosine of each pair of edges."""
    first, second = pairs[:, 0].astype(int), pairs[:, 1].astype(int)
    return np.column_stack(
        [graph.source[first], graph.target[first], graph.target[second], pairs[:, 2]]
    )


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])] if len(rows) else rows


def test_graphs_with_and_without_canonical_edges(pair: Pair) -> None:
    for repeats, kind in (("self", "canonical"), ("mutual", "noncanonical")):
        original = case(pair, repeats=repeats)
        spec = original.model.encoder.spec
        for name in original.names:
            edges = original.batch(name).graph(spec).num_edges
            assert edges == int(original.vector(name, f"n_edges_{kind}"))


def test_states_of_atoms_and_bonds(pair: Pair) -> None:
    original = case(pair)
    angular = original.published.encoder["angular"]
    plain = original.published.encoder["plain"]
    modules = {"x0": "embedding", "y0": "bond_embedding"}
    modules |= {f"alignn{n}": f"interaction.{n}" for n in range(angular)}
    modules |= {f"gcn{n}": f"interaction.{angular + n}" for n in range(plain)}
    for name in original.names:
        batch = original.batch(name)
        order = edge_order(original, name, batch)
        states = original.states(with_their_vectors(original, name, batch, order), modules)
        for key in (key for key in original.vectors if key.startswith(f"{name}/")):
            quantity = key.partition("/")[2]
            layer, _, rest = quantity.partition("_")
            if quantity == "x0":
                close(states["x0"], original.vectors[key], **HIDDEN)
            elif rest == "x":
                close(states[layer][0], original.vectors[key], **HIDDEN)
            elif rest.endswith("first50"):
                bonds = states["y0"] if layer == "y0" else states[layer][1]
                close(bonds[torch.from_numpy(order[:50])], original.vectors[key], **HIDDEN)


@pytest.mark.parametrize("together", [False, True])
def test_outputs(pair: Pair, together: bool) -> None:
    original = case(pair)
    if together:
        names = original.vectors["batched/names"].tolist()
        close(original.output(original.batch(*names)), original.vectors["batched/out"], **OUTPUT)
        return
    for name in original.names:
        close(original.output(original.batch(name)), original.vector(name, "out"), **OUTPUT)

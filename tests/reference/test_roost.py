"""Roost: pooled elements, trunk, output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from published_models import HIDDEN, OUTPUT, Case, Pair, case, close

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.elements import atom_features, known_elements
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.symbols import ATOMIC_NUMBERS

FAMILY = "roost"


def batch(original: Case, *names: str) -> CrystalBatch:
    records = []
    for name in names:
        elements = original.vector(name, "elements").tolist()
        weights = original.vector(name, "weights").ravel()
        records.append(
            CrystalRecord(
                name,
                [ATOMIC_NUMBERS[symbol] for symbol in elements],
                np.zeros((len(elements), 3)),
                np.zeros((3, 3)),
                np.zeros(3, bool),
                {AMOUNT: Label(3.0 * weights, "", per_atom=True)},  # any multiple of the formula
            )
        )
    return collate(records, [original.model.encoder.spec])


def test_pool_trunk_and_output(pair: Pair) -> None:
    original = case(pair)
    for name in original.names:
        given = batch(original, name)
        seen: list[torch.Tensor] = []
        trunk = original.model.encoder.trunk
        handle = trunk.register_forward_pre_hook(lambda m, x, to=seen: to.append(x[0]))
        crystal = original.model.encoder(given).graph
        handle.remove()
        close(seen[0], original.vector(name, "pooled"), **HIDDEN)
        close(crystal, original.vector(name, "trunk_relu"), **HIDDEN)
        close(original.output(given), original.vector(name, "out"), **OUTPUT)


def test_a_batch(pair: Pair) -> None:
    original = case(pair)
    given = batch(original, *original.vectors["batched/formulas"].tolist())
    close(original.output(given), original.vectors["batched/out"], **OUTPUT)


def test_element_features_are_those_of_the_original(reference_dir: Path) -> None:
    theirs = json.loads((reference_dir / "roost/matscholar-embedding.json").read_text("utf-8"))
    ours = atom_features("matscholar200")
    assert known_elements("matscholar200") == {ATOMIC_NUMBERS[symbol] for symbol in theirs}
    for symbol, values in theirs.items():
        np.testing.assert_array_equal(ours[ATOMIC_NUMBERS[symbol]], np.float32(values))

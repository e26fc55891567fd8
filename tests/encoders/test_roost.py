from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.encoders.roost import Roost
from epitaxy.encoders.taps import tapped
from epitaxy.errors import ConfigError, NeedsError, RecordError
from epitaxy.graph.collate import collate
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.spec import GraphSpec
from epitaxy.graph.symbols import ATOMIC_NUMBERS


def formula(**amounts: float) -> CrystalRecord:
    return CrystalRecord(
        "-".join(amounts),
        [ATOMIC_NUMBERS[symbol] for symbol in amounts],
        np.zeros((len(amounts), 3)),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        {AMOUNT: Label(np.array(list(amounts.values())), "", per_atom=True)},
    )


def test_a_layer_is_its_formula() -> None:
    torch.manual_seed(0)
    encoder = Roost(6, 1, heads=2, gate=(5,), message=(7,), trunk=(8, 4)).double()
    layer = encoder.interaction[0]
    node, fraction = torch.randn(2, 6).double(), torch.tensor([[0.25], [0.75]]).double()
    rows = []
    for i in range(2):
        heads = []
        for head in layer.heads:
            raised, messages = [], []
            for j in range(2):
                both = torch.cat([node[i], node[j]])
                results = []
                for network in (head.gate, head.message):
                    first, last = network.layers
                    hidden = first.weight @ both + first.bias
                    hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
                    results.append(last.weight @ hidden + last.bias)
                raised.append(fraction[j] ** head.power * results[0].exp())
                messages.append(results[1])
            shares = torch.stack(raised) / torch.stack(raised).sum(0)
            heads.append((shares * torch.stack(messages)).sum(0))
        rows.append(node[i] + torch.stack(heads).mean(0))
    source, target = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    found = layer(node, fraction, source, target)
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-7, atol=1e-9)


def test_only_fractions_count_in_any_order(preset: Any, encoded: Any) -> None:
    encoder = preset("roost")
    given = (formula(Fe=2, O=3), formula(Fe=4, O=6), formula(O=3, Fe=2), formula(Fe=3, O=4))
    one, doubled, turned, other = encoded(encoder, *given).graph
    torch.testing.assert_close(one, doubled)
    torch.testing.assert_close(one, turned)
    assert (one - other).abs().max() > 1e-4


def test_a_structure_is_its_composition(preset: Any, encoded: Any, crystals: Any) -> None:
    encoder = preset("roost")
    salt, perovskite = encoded(encoder, crystals.rocksalt(), crystals.perovskite()).graph
    torch.testing.assert_close(salt, encoded(encoder, formula(Na=1, Cl=1)).graph[0])
    torch.testing.assert_close(perovskite, encoded(encoder, formula(Ba=1, Ti=1, O=3)).graph[0])
    batch = collate([crystals.fcc()], [GraphSpec()])
    with pytest.raises(NeedsError, match="this batch holds structures"):
        encoder(batch)


def test_attention_over_the_elements_adds_up_to_one(preset: Any) -> None:
    encoder = preset("roost")
    batch = collate([formula(Na=1, Cl=1), formula(Li=1, Fe=1, P=1, O=4)], [encoder.spec])
    with tapped(encoder) as seen:
        encoder(batch)
    *layers, pooled = seen
    graph = batch.graph(encoder.spec)
    for tap, share in layers:
        assert tap.over == "edges"
        sums = torch.zeros(6, 3).index_add(0, graph.target, share)
        torch.testing.assert_close(sums, torch.ones(6, 3))
    sums = torch.zeros(2, 3).index_add(0, batch.graph_index, pooled[1])
    torch.testing.assert_close(sums, torch.ones(2, 3))


def test_other_tables_and_wrong_sizes(encoded: Any) -> None:
    torch.manual_seed(0)
    plain = Roost(8, 1, features="cgcnn92", trunk=(16, 8))
    assert encoded(plain, formula(Fe=2, O=3)).graph.shape == (1, 8)
    with pytest.raises(RecordError, match=r"Md \(Z = 101\)"):
        encoded(plain, formula(Md=1))
    with pytest.raises(ConfigError, match="did you mean 'matscholar200'"):
        Roost(features="matscholar")
    with pytest.raises(ConfigError, match="a trunk"):
        Roost(trunk=())

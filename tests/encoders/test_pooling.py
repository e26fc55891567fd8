from __future__ import annotations

import pytest
import torch

from epitaxy.encoders.contract import Encoding
from epitaxy.encoders.pooling import check_pool, crystal_vector, pool
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.collate import collate


def test_pools_by_hand(crystals: object) -> None:
    batch = collate([crystals.triclinic(1, 1), crystals.triclinic(2, 2)], [])
    values = torch.tensor([[1.0, -5.0], [2.0, -6.0], [4.0, -2.0]])
    assert pool("sum", values, batch).tolist() == [[1, -5], [6, -8]]
    assert pool("mean", values, batch).tolist() == [[1, -5], [3, -4]]
    assert pool("max", values, batch).tolist() == [[1, -5], [4, -2]]
    for name in ("sum", "mean", "max"):
        assert pool(name, values[:0], collate([], [])).shape == (0, 2)


def test_unknown_pools_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        check_pool("meam")


def test_an_encoders_own_vector_comes_before_a_pool(crystals: object) -> None:
    batch = collate([crystals.triclinic(1, 1), crystals.triclinic(2, 2)], [])
    node, own = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[7.0], [8.0]])
    assert crystal_vector(Encoding(node=node, graph=own), batch) is own
    assert crystal_vector(Encoding(node=node), batch).tolist() == [[1.0], [3.0]]
    assert crystal_vector(Encoding(node=node), batch, "sum").tolist() == [[1.0], [6.0]]
    with pytest.raises(NeedsError, match="neither a crystal vector nor states of atoms"):
        crystal_vector(Encoding(), batch)

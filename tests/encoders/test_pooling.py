from __future__ import annotations

import pytest
import torch

from epitaxy.encoders.pooling import check_pool, pool
from epitaxy.errors import ConfigError
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

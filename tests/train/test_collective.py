"""Collectives over three processes, and without any."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from epitaxy.errors import ShardError
from epitaxy.train import collective


def test_three_processes(peers: Any) -> None:
    for answer in peers.values("collective", 3):
        assert answer["sums"] == {"a": 3.0, "b": 3.0}
        assert answer["tensors"] == [[6.0] * 6, [0.0, 6.0, 12.0, 18.0]]
        assert answer["broadcast"] == {"from": 0}
        assert answer["gather"] == [0, 10, 20]


def test_alone() -> None:
    assert (collective.rank(), collective.world_size()) == (0, 1)
    assert collective.sum_numbers({"a": 2, "b": 0.5}) == {"a": 2.0, "b": 0.5}
    assert collective.sum_numbers({}) == {}
    assert collective.broadcast("x") == "x"
    assert collective.gather(3) == [3]
    collective.barrier()
    tensor = torch.ones(2)
    collective.sum_tensors([tensor])
    assert tensor.tolist() == [1.0, 1.0]
    collective.raise_together(None)
    with pytest.raises(ShardError, match="mine"):
        collective.raise_together(ShardError("mine"))


def test_large_and_mixed_tensors_fill_several_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collective, "BUCKET_BYTES", 64)
    tensors = [
        torch.zeros(n, dtype=d) for n in (4, 4, 8, 40) for d in (torch.float32, torch.float64)
    ]
    buckets = collective._buckets(tensors)
    assert sorted(id(t) for bucket in buckets for t in bucket) == sorted(id(t) for t in tensors)
    for bucket in buckets:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert len(bucket) == 1 or sum(tensor.nbytes for tensor in bucket) <= 64
    assert max(len(bucket) for bucket in buckets) > 1

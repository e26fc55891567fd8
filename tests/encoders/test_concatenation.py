from __future__ import annotations

import torch

from epitaxy.encoders.concatenation import ConcatenationLinear


def test_it_equals_the_concatenation_written_out() -> None:
    torch.manual_seed(0)
    layer = ConcatenationLinear(3, 2, 5).double()
    node, edge = torch.randn(4, 3).double(), torch.randn(6, 2).double()
    source, target = torch.tensor([0, 1, 2, 3, 0, 2]), torch.tensor([1, 0, 3, 3, 2, 0])
    joined = torch.cat([node[target], node[source], edge], dim=1)
    expected = joined @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(node, edge, source, target), expected)
    bare = ConcatenationLinear(3, 0, 5, bias=False).double()
    expected = joined[:, :6] @ bare.weight.T
    torch.testing.assert_close(bare(node, None, source, target), expected)

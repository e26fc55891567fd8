from __future__ import annotations

import torch

from epitaxy.encoders.tensors import directions, pack, squared_norms, unpack


def test_packing_keeps_every_matrix() -> None:
    matrices = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(unpack(pack(matrices)), matrices)


def test_the_three_parts_add_up_to_the_squared_length() -> None:
    matrices = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    parts = squared_norms(pack(matrices))
    torch.testing.assert_close(torch.stack(parts).sum(0), matrices.square().sum((-1, -2)))
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(parts[0], trace.square() / 3)
    skew = 0.5 * (matrices - matrices.transpose(-1, -2))
    torch.testing.assert_close(parts[1], skew.square().sum((-1, -2)))


def test_a_direction_is_one_plus_cross_product_plus_quadrupole() -> None:
    unit = torch.nn.functional.normalize(torch.tensor([[1.0, -2.0, 0.5]]).double(), dim=-1)
    (matrix,) = unpack(directions(unit).unsqueeze(-1))[0]
    other = torch.tensor([0.3, 0.7, -1.1]).double()
    expected = other + torch.linalg.cross(unit[0], other)
    expected = expected + unit[0] * (unit[0] @ other) - other / 3
    torch.testing.assert_close(matrix @ other, expected)

"""3×3 matrices as ten numbers: scalar, vector and symmetric quadrupole.

Component 0 is ``tr X / 3``; 1 to 3 are the vector ``a`` of the antisymmetric part ``[a]×``; 4 to 9
are xx, yy, zz, xy, xz, yz of the symmetric traceless part. (Ten, not nine: zz would follow
from xx and yy, but is cheaper kept.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from epitaxy.shapes import EdgeVectors

RANKS = (1, 3, 6)
SIZE = sum(RANKS)

Packed = Float[Tensor, "rows 10 width"]
Matrices = Float[Tensor, "rows width 3 3"]


def directions(units: EdgeVectors) -> Float[Tensor, "edges 10"]:
    """Returns ``1 + [r̂]× + (r̂ r̂ᵀ − ⅓)`` of unit vectors, packed."""
    x, y, z = units.unbind(-1)
    third = 1.0 / 3.0
    one = torch.ones_like(x)
    square = [x * x - third, y * y - third, z * z - third, x * y, x * z, y * z]
    return torch.stack([one, x, y, z, *square], dim=-1)


def unpack(state: Packed) -> Matrices:
    """Returns the matrices, channels first."""
    scalar, x, y, z, xx, yy, zz, xy, xz, yz = state.unbind(1)
    rows = [
        torch.stack([scalar + xx, xy - z, xz + y], dim=-1),
        torch.stack([xy + z, scalar + yy, yz - x], dim=-1),
        torch.stack([xz - y, yz + x, scalar + zz], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def pack(matrices: Matrices) -> Packed:
    """Returns the ten components of each matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrices.unbind(-2))
    scalar = (xx + yy + zz) / 3.0
    vector = [0.5 * (zy - yz), 0.5 * (xz - zx), 0.5 * (yx - xy)]
    diagonal = [xx - scalar, yy - scalar, zz - scalar]
    others = [0.5 * (xy + yx), 0.5 * (xz + zx), 0.5 * (yz + zy)]
    return torch.stack([scalar, *vector, *diagonal, *others], dim=1)


def squared_norms(state: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``Σ x²`` over the entries of the scalar, antisymmetric and symmetric parts.

    Each is (rows, width); their sum is the squared Frobenius norm of the matrix.
    """
    scalar, vector, diagonal, others = state.square().split((1, 3, 3, 3), dim=1)
    symmetric = diagonal.sum(1) + 2.0 * others.sum(1)
    return 3.0 * scalar.sum(1), 2.0 * vector.sum(1), symmetric

"""Tensor aliases with shapes in whole words.

Axes: ``atoms`` (N), ``edges`` (E), ``graphs`` (B, crystals of a batch), ``features``.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

AtomicNumbers = Int[Tensor, " atoms"]
GraphIndex = Int[Tensor, " atoms"]
Positions = Float[Tensor, "atoms 3"]
Cells = Float[Tensor, "graphs 3 3"]
EdgeIndex = Int[Tensor, " edges"]
ImageShifts = Int[Tensor, "edges 3"]
EdgeVectors = Float[Tensor, "edges 3"]
Distances = Float[Tensor, " edges"]
NodeFeatures = Float[Tensor, "atoms features"]
GraphFeatures = Float[Tensor, "graphs features"]
GraphScalars = Float[Tensor, " graphs"]
Forces = Float[Tensor, "atoms 3"]
Displacements = Float[Tensor, "atoms 3"]
Stresses = Float[Tensor, "graphs 3 3"]
GraphMask = Bool[Tensor, " graphs"]

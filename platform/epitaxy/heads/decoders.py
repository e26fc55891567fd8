"""What can be read back from states of atoms: features of an element, edges between two atoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.graph.elements import ElementTable, atom_features
from epitaxy.shapes import AtomicNumbers, NodeFeatures


class ElementDecoder(nn.Module):
    """Logits of the binary features of an atom's element, from its state.

    Args:
        width: Features of a state.
        table: Whose features, see ``graph.elements.atom_features``.
    """

    table: Tensor

    def __init__(self, width: int, table: ElementTable = "cgcnn92") -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(atom_features(table)), persistent=False)
        self.out = nn.Linear(width, self.table.shape[1])

    def forward(self, node: NodeFeatures) -> Float[Tensor, "atoms columns"]:
        """Returns the logit of each feature."""
        logits: Tensor = self.out(node)
        return logits

    def targets(self, numbers: AtomicNumbers) -> Float[Tensor, "atoms columns"]:
        """Returns the features themselves, 0 or 1."""
        return self.table[numbers]


class EdgeDecoder(nn.Module):
    """Logits of how many edges lead from a neighbour ``v`` to a centre ``u``.

    ``l = W s + b`` with ``s_k = z_uᵀ A_k z_v + a_k``, one ``k`` for each class. ``A`` is not
    symmetric: that v is a neighbour of u does not make u one of v.

    Args:
        width: Features of a state.
        classes: Numbers of edges that are told apart: 0, 1, … and "more".
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(width, width, classes)
        self.out = nn.Linear(classes, classes)

    def forward(
        self, centers: Sequence[Tensor], neighbors: Sequence[Tensor]
    ) -> Float[Tensor, "pairs classes"]:
        """Returns the logits of each centre with each neighbour, group by group, neighbours fast.

        No vector of a pair is made, only numbers: ``z_uᵀ A_k`` is multiplied by all ``z_v`` at
        once.

        Args:
            centers: States of the centres of each group of atoms, (centers, features).
            neighbors: States of the neighbours of each group, (neighbors, features).
        """
        projected = torch.einsum("ui,kij->ukj", torch.cat(list(centers)), self.bilinear.weight)
        parts = projected.split([len(group) for group in centers])
        pairs = [
            (part @ group.T).transpose(1, 2).flatten(0, 1)
            for part, group in zip(parts, neighbors, strict=True)
        ]
        logits: Tensor = self.out(torch.cat(pairs) + self.bilinear.bias)
        return logits

"""Three numbers per atom: a vector that turns with the crystal, or three that do not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders import activations
from epitaxy.encoders.contract import Encoding
from epitaxy.errors import NeedsError
from epitaxy.shapes import Displacements, NodeFeatures

Vectors = Float[Tensor, "atoms 3 channels"]


class VectorHead(nn.Module):
    """A vector per atom that turns with the crystal: states and vectors → (atoms, 3).

    Gated equivariant blocks, the last of which has one channel and no scalars.

    Args:
        node_width: Features per atom.
        vector_width: Vectors per atom.
        hidden: Features and vectors per atom between the blocks.
        activation: Of the scalars.
    """

    def __init__(
        self,
        node_width: int,
        vector_width: int,
        hidden: Sequence[int] = (128,),
        *,
        activation: activations.ActivationName = "silu",
    ) -> None:
        super().__init__()
        scalars, vectors = (node_width, *hidden, 0), (vector_width, *hidden, 1)
        self.blocks = nn.ModuleList(
            GatedEquivariantBlock(*sizes, activation=activation)
            for sizes in zip(scalars, vectors, scalars[1:], vectors[1:], strict=False)
        )

    def forward(self, encoding: Encoding) -> Displacements:
        """Returns the vectors.

        Raises:
            NeedsError: If the encoder gives no states or no vectors of atoms.
        """
        node, vector = encoding.node, encoding.vector
        if node is None or vector is None:
            raise NeedsError("a vector head reads states and vectors of atoms (node, vector)")
        for block in self.blocks:
            node, vector = block(node, vector)
        return vector.squeeze(-1)


class GatedEquivariantBlock(nn.Module):
    """Mixes vectors, lets scalars see their lengths, and scales them by gates.

    ``x → a(o)`` and ``v → g · W v`` with ``o ⊕ g = L₂ a(L₁ [x ⊕ |U v|])``; ``W`` and ``U`` act on
    channels, without a bias that would point somewhere (Schütt et al., ICML 2021, fig. 3). Gates
    start near 1.

    # Differs from Schütt et al., whose ``|u|`` has no slope at 0, where the vectors of atoms on
    symmetric sites are: ours is ``√(|u|² + 1) − 1``.

    Args:
        node_width: Features in.
        vector_width: Vectors in.
        node_outputs: Features out, may be 0.
        vector_outputs: Vectors out.
        activation: ``a``.
    """

    def __init__(
        self,
        node_width: int,
        vector_width: int,
        node_outputs: int,
        vector_outputs: int,
        *,
        activation: activations.ActivationName = "silu",
    ) -> None:
        super().__init__()
        self.outputs = (node_outputs, vector_outputs)
        self.activation = activations.activation(activation)
        self.measured = nn.Linear(vector_width, vector_width, bias=False)
        self.mixed = nn.Linear(vector_width, vector_outputs, bias=False)
        self.hidden = nn.Linear(node_width + vector_width, node_width)
        self.out = nn.Linear(node_width, sum(self.outputs))
        # Closed gates would shut off what is learnt of the vectors, and of the encoder behind them.
        nn.init.ones_(self.out.bias[node_outputs:])

    def forward(self, node: NodeFeatures, vector: Vectors) -> tuple[Tensor, Tensor]:
        """Returns features and vectors, (atoms, node_outputs) and (atoms, 3, vector_outputs)."""
        lengths = (self.measured(vector).square().sum(1) + 1.0).sqrt() - 1.0
        hidden = self.activation(self.hidden(torch.cat([node, lengths], dim=-1)))
        scalars, gates = self.out(hidden).split(self.outputs, dim=-1)
        return self.activation(scalars), gates.unsqueeze(1) * self.mixed(vector)


class ComponentHead(nn.Module):
    """Three numbers from the state of each atom: (atoms, width) → (atoms, 3).

    They are no vector: states do not change when the crystal turns, so these do not either.
    Parameters are ``hidden.{i}`` and ``out``.

    Args:
        width: Features per atom.
        hidden: Widths of the hidden layers.
        activation: After each hidden layer.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (128,),
        *,
        activation: activations.ActivationName = "silu",
    ) -> None:
        super().__init__()
        self.activation = activations.activation(activation)
        widths = (width, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.out = nn.Linear(widths[-1], 3)

    def forward(self, encoding: Encoding) -> Displacements:
        """Returns the numbers.

        Raises:
            NeedsError: If the encoder gives no states of atoms.
        """
        if encoding.node is None:
            raise NeedsError("a component head reads states of atoms (node)")
        features = encoding.node
        for layer in self.hidden:
            features = self.activation(layer(features))
        result: Displacements = self.out(features)
        return result

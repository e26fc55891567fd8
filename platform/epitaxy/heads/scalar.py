"""One number per crystal (or a few) from the states of its atoms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders import activations
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.shapes import GraphScalars, NodeFeatures

Order = Literal["late", "early"]
Pool = Literal["mean", "sum"]


class ScalarHead(nn.Module):
    """A small network and a pool, in either order: (atoms, width) → (graphs,).

    ``late`` applies the network to each atom and pools its numbers: with ``sum`` the result is
    extensive, a sum of atomic energies. ``early`` pools the states and applies the network to the
    crystal's vector, as CGCNN does. Parameters are ``hidden.{i}`` and ``out``.

    Args:
        width: Features per atom.
        hidden: Widths of the hidden layers.
        activation: After each hidden layer; twice differentiable.
        activate_input: Whether the activation also precedes the first layer (CGCNN does so).
        order: ``late`` or ``early``.
        pool: ``mean`` or ``sum`` over the atoms of a crystal.
        outputs: Numbers per crystal; the result is (graphs, outputs) unless this is 1.

    Raises:
        ConfigError: If a name is unknown.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (128,),
        *,
        activation: activations.ActivationName = "silu",
        activate_input: bool = False,
        order: Order = "late",
        pool: Pool = "mean",
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if order not in ("late", "early"):
            raise ConfigError(f"head order is {order!r}; {closest(order, ('late', 'early'))}")
        if pool not in ("mean", "sum"):
            raise ConfigError(f"head pool is {pool!r}; {closest(pool, ('mean', 'sum'))}")
        self.order: Order = order
        self.pool: Pool = pool
        self.activate_input = activate_input
        self.activation = activations.activation(activation)
        widths = (width, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, node: NodeFeatures, batch: CrystalBatch) -> GraphScalars | Tensor:
        """Returns the number(s) of each crystal; a batch without crystals gives none."""
        if self.order == "late":
            result = self._pool(self._network(node), batch)
        else:
            result = self._network(self._pool(node, batch))
        return result.squeeze(-1) if self.out.out_features == 1 else result

    def _network(self, features: Float[Tensor, "rows width"]) -> Float[Tensor, "rows outputs"]:
        if self.activate_input:
            features = self.activation(features)
        for layer in self.hidden:
            features = self.activation(layer(features))
        return self.out(features)

    def _pool(
        self, values: Float[Tensor, "atoms features"], batch: CrystalBatch
    ) -> Float[Tensor, "graphs features"]:
        total = values.new_zeros(batch.num_graphs, values.shape[1])
        total = total.index_add(0, batch.graph_index, values)
        if self.pool == "sum":
            return total
        return total / batch.num_atoms.to(values.dtype).unsqueeze(-1)

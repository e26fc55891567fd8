"""One number per crystal (or a few) from what an encoder says of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders import activations
from epitaxy.encoders.contract import Encoder, Encoding
from epitaxy.encoders.pooling import Pool, check_pool, crystal_vector, pool
from epitaxy.encoders.residual import ResidualLayer
from epitaxy.errors import ConfigError, NeedsError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.shapes import GraphScalars

Order = Literal["auto", "late", "early"]


class ScalarHead(nn.Module):
    """A small network and a pool, in either order: (atoms, width) → (graphs,).

    ``late`` applies the network to each atom and pools its numbers: with ``sum`` the result is
    extensive, a sum of atomic energies. ``early`` pools the states and applies the network to the
    crystal's vector, as CGCNN does; if the encoder has a crystal vector of its own, it takes that.
    Parameters are ``hidden.{i}`` and ``out``.

    Args:
        width: Features per atom (``late``) or of the crystal (``early``), see ``head_input``.
        hidden: Widths of the hidden layers.
        activation: After each hidden layer; twice differentiable.
        activate_input: Whether the activation also precedes the first layer (CGCNN does so).
        order: ``late`` or ``early``.
        pool: ``mean``, ``sum`` or ``max`` over the atoms of a crystal.
        outputs: Numbers per crystal; the result is (graphs, outputs) unless this is 1.
        residual: Whether each hidden layer adds a linear map of its input to its output (Roost).
        dropout: Share of the last hidden features that are set to 0 in training mode.

    Raises:
        ConfigError: If a name is unknown or the dropout is no share.
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
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, got {dropout}")
        if order not in ("late", "early"):
            raise ConfigError(f"head order is {order!r}; {closest(order, ('late', 'early'))}")
        check_pool(pool)
        self.order: Order = order
        self.pool: Pool = pool
        self.activate_input = activate_input
        self.activation = activations.activation(activation)
        layer = ResidualLayer if residual else nn.Linear
        widths = (width, *hidden)
        self.hidden = nn.ModuleList(layer(before, after) for before, after in pairwise(widths))
        self.residual = residual
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, encoding: Encoding, batch: CrystalBatch) -> GraphScalars | Tensor:
        """Returns the number(s) of each crystal; a batch without crystals gives none.

        Raises:
            NeedsError: If the encoder gives no states of atoms, but the order is ``late``.
        """
        if self.order == "early":
            result = self._network(crystal_vector(encoding, batch, self.pool))
        elif encoding.node is None:
            raise NeedsError(f"a head of order 'late' reads {_STATES}; choose order 'early'")
        else:
            result = pool(self.pool, self._network(encoding.node), batch)
        return result.squeeze(-1) if self.out.out_features == 1 else result

    def adds_up(self, encoding: Encoding) -> bool:
        """Whether a crystal's result is a sum over its atoms, or a network of one.

        An encoder's own crystal vector does not grow with the cell, so what is read from it does
        not either.
        """
        return self.pool == "sum" and not (self.order == "early" and encoding.graph is not None)

    def _network(self, features: Float[Tensor, "rows width"]) -> Float[Tensor, "rows outputs"]:
        if self.activate_input:
            features = self.activation(features)
        for layer in self.hidden:
            if self.residual:
                features = layer(features, self.activation)
            else:
                features = self.activation(layer(features))
        return self.out(self.dropout(features))


_STATES = "states of atoms (``node``)"


def head_input(encoder: Encoder, order: Order, pool: Pool | None = None) -> tuple[Order, int]:
    """Returns the order that ``auto`` stands for, and the width of what a head then reads.

    ``auto`` is ``early`` for encoders with a crystal vector of their own, ``late`` for others.

    Args:
        encoder: Gives the widths.
        order: Of the head.
        pool: What the user asks the head to pool with; ``None`` leaves it open.

    Raises:
        ConfigError: If the order is unknown, or there is nothing to pool with ``pool``.
        NeedsError: If it is ``late`` and the encoder gives no states of atoms.
    """
    if order not in ("auto", "late", "early"):
        raise ConfigError(f"head order is {order!r}; {closest(order, ('auto', 'late', 'early'))}")
    if order == "auto":
        order = "early" if encoder.graph_width else "late"
    if order == "early":
        if encoder.graph_width and pool is not None:
            raise ConfigError(
                f"pool={pool} would have no effect: a head of order 'early' reads the crystal "
                f"vector of {type(encoder).__name__}; leave it out, or set objective.order=late"
            )
        return order, encoder.graph_width or encoder.node_width
    if not encoder.node_width:
        raise NeedsError(
            f"a head of order 'late' reads {_STATES}, which {type(encoder).__name__} does not "
            "give; set objective.order=early (its crystal vector) or auto"
        )
    return order, encoder.node_width

"""Regression of a whole vector from the crystal's vector: what its objectives share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import crystal_vector, crystal_width
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.heads.model import Model
from epitaxy.heads.projector import Projector
from epitaxy.shapes import GraphFeatures

HeadName = Literal["mlp", "linear"]
HIDDEN = (1024, 512, 256)
"""Of PretrainRoost."""


def check_head(name: str, hidden: Sequence[int]) -> None:
    """Refuses unknown heads, and one without layers.

    Raises:
        ConfigError: With the closest known name, or the remedy.
    """
    if name not in get_args(HeadName):
        raise ConfigError(f"head is {name!r}; {closest(name, get_args(HeadName))}")
    if name == "mlp" and not hidden:
        raise ConfigError("head=mlp needs hidden layers; head=linear has none")


def target_head(encoder: Encoder, name: HeadName, hidden: Sequence[int], outputs: int) -> nn.Module:
    """Returns a head that reads ``outputs`` numbers from the crystal's vector.

    ``linear`` is one layer. ``mlp`` projects the vector first: ``hidden`` layers with ReLUs between
    them, but none between the last of them and the output, as in PretrainRoost.
    """
    width = crystal_width(encoder)
    if name == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(Projector(width, hidden, "relu"), nn.Linear(hidden[-1], outputs))


def read(model: Model, role: str, batch: CrystalBatch) -> GraphFeatures:
    """Returns what the head ``role`` reads from the vectors of the crystals."""
    vector: GraphFeatures = model.head[role](crystal_vector(model.encoder(batch), batch))
    return vector


def mean_squares(error: GraphFeatures) -> Float[Tensor, " graphs"]:
    """Returns each crystal's mean over columns of the squared error."""
    return error.square().mean(-1)

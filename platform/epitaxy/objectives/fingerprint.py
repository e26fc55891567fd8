"""Fingerprint learning: a vector of descriptors is read from the crystal (roost_pretraining)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.heads.losses import where_present
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import BaseObjective, Term, Terms, Views
from epitaxy.objectives.crystal_target import (
    HIDDEN,
    HeadName,
    check_head,
    mean_squares,
    read,
    target_head,
)
from epitaxy.shapes import GraphFeatures

HEAD = "fingerprint"
CONSTANT = 1e-9
"""A column whose range is a smaller part of its values than this is constant but for rounding."""


class Fingerprint(BaseObjective):
    """A vector label ``y`` of each crystal: the mean over columns of ``(out − t(y))²``.

    ``t`` maps each column linearly so that it spans [0, 1] over the training split; a column that
    is constant there has the target 0 everywhere, and is predicted as that constant. Records
    without the label add nothing. Predictions are in the label's unit, (graphs, size).

    ``magpie`` (matminer's descriptors of a composition) has 145 columns, 144 without the flag
    whether a compound of these elements can be neutral: ``epitaxy prepare fingerprint=magpie``
    stores it.

    Args:
        label: Name of the label.
        size: Number of its columns.
        head: ``mlp`` or ``linear``; ``fingerprint`` in the model.
        hidden: Widths of the hidden layers of ``mlp``.

    Raises:
        ConfigError: If the head is unknown or has no layers, or there are no columns.
    """

    def __init__(
        self,
        label: str = "magpie",
        size: int = 145,
        *,
        head: HeadName = "mlp",
        hidden: Sequence[int] = HIDDEN,
    ) -> None:
        check_head(head, hidden)
        if size < 1:
            raise ConfigError(f"a fingerprint has at least 1 column, got size={size}")
        self.label = label
        self.labels = self.fits_on = (label,)
        self.size = size
        self.head: HeadName = head
        self.hidden = tuple(hidden)
        self.units: Mapping[str, str] = {label: ""}
        self._lowest, self._range = np.zeros(size), np.ones(size)

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns the head ``fingerprint``."""
        return {HEAD: target_head(encoder, self.head, self.hidden, self.size)}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns (and adopts) the lowest and highest value of each column.

        Raises:
            NeedsError: If no record of the training split has the label, or it is of another size.
        """
        values = table.tensor(self.label)
        if values.shape[1:] != (self.size,):
            raise NeedsError(self._wrong_size(values.shape[1:]))
        values = values[~np.isnan(values).any(1)]
        if not len(values):
            raise NeedsError(
                f"objective Fingerprint asks for the label {self.label!r}, but no record of the "
                "training split has it"
            )
        statistics = {
            "lowest": values.min(0).tolist(),
            "highest": values.max(0).tolist(),
            "units": {self.label: table.units.get(self.label, "")},
        }
        self.adopt(statistics)
        return statistics

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over ``lowest`` and ``highest`` of each column, and ``units``."""
        self._lowest, highest = np.array(statistics["lowest"]), np.array(statistics["highest"])
        scale = np.maximum(abs(self._lowest), abs(highest))
        spread = highest - self._lowest
        self._range = np.where(spread > CONSTANT * scale, spread, 0.0)
        self.units = dict(statistics["units"])

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns how many records carry the label."""
        return {self.label: int(views[0].masks[self.label].sum())}

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the squared error, averaged over the columns of each record."""
        (batch,) = views
        output = read(model, HEAD, batch)
        mask = batch.masks[self.label]
        target = where_present(batch.labels[self.label], mask)
        losses = mean_squares(output - self._scaled(target))
        total = torch.where(mask, losses, 0.0).sum()
        return {self.label: Term(total, self.counts(views)[self.label])}

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns the vector of each crystal in the label's own unit."""
        output = read(model, HEAD, batch)
        return {self.label: output * _like(self._range, output) + _like(self._lowest, output)}

    def _scaled(self, values: GraphFeatures) -> GraphFeatures:
        inverse = np.divide(1.0, self._range, out=np.zeros(self.size), where=self._range > 0)
        return (values - _like(self._lowest, values)) * _like(inverse, values)

    def _wrong_size(self, shape: tuple[int, ...]) -> str:
        found = f"the label {self.label!r} of the data set has the shape {shape}"
        if len(shape) == 1:
            return (
                f"objective Fingerprint asks for {self.size} columns, but {found}; set "
                f"objective.size={shape[0]}"
            )
        return f"objective Fingerprint asks for one vector of each crystal, but {found}"


def _like(values: np.ndarray, tensor: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)

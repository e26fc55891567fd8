"""The objective of an encoder that came without a head: it predicts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Term


class EncoderOnly:
    """Stands in model folders of published encoders whose pre-training had no property to predict.

    Fine-tuning replaces it by an objective with a head. It has no configuration to choose it by:
    there is nothing to train it for.
    """

    labels: tuple[str, ...] = ()
    units: Mapping[str, str] = {}
    requires: frozenset[str] = frozenset()
    specs: tuple[GraphSpec, ...] = ()
    couples_records = False
    forbids_coupling = False

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns none."""
        return {}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns no statistics."""
        return {}

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over nothing."""

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record as it is."""
        return (record,)

    def counts(self, views: tuple[CrystalBatch, ...]) -> dict[str, int]:
        """Returns none: there are no terms."""
        return {}

    def terms(self, model: Model, views: tuple[CrystalBatch, ...]) -> dict[str, Term]:
        """Refuses to train.

        Raises:
            NeedsError: Always.
        """
        self._refuse("be trained")

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Refuses to predict.

        Raises:
            NeedsError: Always.
        """
        self._refuse("predict")

    def _refuse(self, what: str) -> NoReturn:
        raise NeedsError(
            f"this model is an encoder without a head and cannot {what}; train a head for it on "
            "labelled data: epitaxy finetune from=FOLDER objective.label=NAME …"
        )

"""The objective of an encoder that came without a head: it predicts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import BaseObjective, Terms, Views


class EncoderOnly(BaseObjective):
    """Stands in model folders of published encoders whose pre-training had no property to predict.

    Fine-tuning replaces it by an objective with a head. It has no configuration to choose it by:
    there is nothing to train it for.
    """

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns none."""
        return {}

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns none: there are no terms."""
        return {}

    def terms(self, model: Model, views: Views) -> Terms:
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

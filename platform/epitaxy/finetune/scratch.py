"""Training from random weights: the baseline that transfer has to beat."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from epitaxy.errors import ConfigError
from epitaxy.finetune.contract import Report, fresh
from epitaxy.heads.model import Model


class Scratch:
    """Loads nothing and trains everything."""

    needs_source = False

    def apply(self, model: Model, source: Mapping[str, Tensor] | None) -> Report:
        """Leaves the model as it was built.

        Raises:
            ConfigError: If a source is given: it would be ignored in silence.
        """
        if source is not None:
            raise ConfigError(
                "finetune=scratch ignores the model to start from: leave out from=, or choose "
                "finetune=full"
            )
        multipliers = {name: 1.0 for name, _ in model.named_parameters()}
        return Report(multipliers, reinitialised=fresh(model, ()))

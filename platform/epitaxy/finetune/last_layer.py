"""Only the last linear layer of each head is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from epitaxy.errors import ConfigError
from epitaxy.finetune.contract import (
    FrozenNorm,
    Report,
    freeze,
    fresh,
    load_fitting,
    require_source,
)
from epitaxy.heads.model import Model

LAST_LAYER = re.compile(r"head\..+\.out\.(weight|bias)")


class LastLayer:
    """Loads every weight that fits and trains ``head.*.out`` alone.

    Strategy 3 of pt_ft_pairs.
    # Differs from pt_ft_pairs, whose frozen norms keep moving their running statistics:
    ``frozen_norm="batch"`` does the same.

    Args:
        frozen_norm: ``eval`` or ``batch``, see ``freeze``.
    """

    needs_source = True

    def __init__(self, *, frozen_norm: FrozenNorm = "eval") -> None:
        self.frozen_norm: FrozenNorm = frozen_norm

    def apply(self, model: Model, source: Mapping[str, Tensor] | None) -> Report:
        """Loads what fits and freezes everything but the last layers.

        Raises:
            ConfigError: If the model's heads have no layer ``out``, or a frozen weight would stay
                at its random initial value.
        """
        source = require_source(source, "last_layer")
        loaded, unused = load_fitting(model, source)
        names = [name for name, _ in model.named_parameters()]
        trained = [name for name in names if LAST_LAYER.fullmatch(name)]
        if not trained:
            raise ConfigError("finetune=last_layer trains head.*.out, which this model lacks")
        frozen = tuple(name for name in names if name not in set(trained))
        random = sorted(set(frozen) - set(loaded))
        if random:
            raise ConfigError(
                f"finetune=last_layer would freeze {len(random)} weights that the source does not "
                f"have, such as {random[0]!r}: choose the head the source was trained with, or "
                "finetune=full"
            )
        eval_modules = freeze(model, frozen, self.frozen_norm)
        return Report(
            dict.fromkeys(trained, 1.0), loaded, fresh(model, loaded), unused, frozen, eval_modules
        )

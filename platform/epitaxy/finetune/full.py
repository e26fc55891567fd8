"""Everything is loaded and everything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from epitaxy.errors import ConfigError
from epitaxy.finetune.contract import Report, fresh, load_fitting, require_source
from epitaxy.heads.model import Model


class Full:
    """Loads every weight whose name and shape fit, the head's included, and trains all.

    Strategy 1 of pt_ft_pairs, and the fine-tuning of force_pretraining.

    Args:
        reset_head: Leave the heads at their fresh initial values.
        encoder_rate: Factor on the learning rate of the encoder.

    Raises:
        ConfigError: If ``encoder_rate`` is not positive.
    """

    needs_source = True

    def __init__(self, *, reset_head: bool = False, encoder_rate: float = 1.0) -> None:
        if not encoder_rate > 0:
            raise ConfigError(
                f"finetune.encoder_rate must be positive, got {encoder_rate}; to freeze the "
                "encoder choose finetune=last_layer"
            )
        self.reset_head = reset_head
        self.encoder_rate = encoder_rate

    def apply(self, model: Model, source: Mapping[str, Tensor] | None) -> Report:
        """Loads what fits."""
        source = require_source(source, "full")
        loaded, unused = load_fitting(model, source, skip="head." if self.reset_head else None)
        multipliers = {
            name: self.encoder_rate if name.startswith("encoder.") else 1.0
            for name, _ in model.named_parameters()
        }
        return Report(multipliers, loaded, fresh(model, loaded), unused)

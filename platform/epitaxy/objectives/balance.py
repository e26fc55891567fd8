"""How a combined objective asks for its parts to be kept in proportion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epitaxy.build import check_arguments
from epitaxy.errors import ConfigError
from epitaxy.objectives.contract import Balance


def make_balance(options: Mapping[str, Any], num_parts: int) -> Balance:
    """Returns the rule that ``options`` describe.

    Raises:
        ConfigError: If an option is unknown or out of range, or there is nothing to balance.
    """
    check_arguments(Balance, "balance", options)
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"balance.{key} must be a number, got {value!r}")
    rule = Balance(**options)
    if num_parts < 2:
        raise ConfigError("balance needs at least two parts")
    if rule.every < 1 or not 0 <= rule.decay < 1 or not rule.limit > 1:
        raise ConfigError(f"balance needs every ≥ 1, 0 ≤ decay < 1 and limit > 1, got {rule}")
    return rule

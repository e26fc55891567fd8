"""One part of a combined objective: what it minimises, and how much that weighs during a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from epitaxy.errors import ConfigError, closest
from epitaxy.graph.spec import GraphSpec
from epitaxy.objectives.contract import Objective

_NAME = re.compile(r"[A-Za-z_]\w*")
_RAMP = ("start", "end", "from", "to")
_OPTIONS = ("objective", "weight", "share")
_ANY_SPEC = GraphSpec("radius", 1.0)


@dataclass(frozen=True)
class Ramp:
    """A weight that goes straight from one value to another while the run advances.

    Attributes:
        start: Weight up to ``first``.
        end: Weight from ``last`` on.
        first: Fraction of the run's records at which it starts to move.
        last: Fraction at which it has arrived.
    """

    start: float
    end: float
    first: float = 0.0
    last: float = 1.0

    def at(self, progress: float) -> float:
        """Returns the weight when this fraction of the run's records is consumed."""
        way = (progress - self.first) / (self.last - self.first)
        return self.start + (self.end - self.start) * min(max(way, 0.0), 1.0)


@dataclass(frozen=True)
class Part:
    """An objective among others.

    Attributes:
        name: Its terms are ``<name>.<term>``.
        objective: What it minimises.
        ramp: Its weight.
        share: Whether it reads the heads that parts before it own under the same roles.
        num_views: Batches that its objective reads.
    """

    name: str
    objective: Objective
    ramp: Ramp
    share: bool
    num_views: int

    def generator(self, key: bytes) -> np.random.Generator:
        """Returns the part's own random numbers for a record, which depend on no other part.

        Args:
            key: Of the record, the same for all parts.
        """
        digest = hashlib.blake2b(key + self.name.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def make_parts(
    described: Mapping[str, Mapping[str, Any]], order: Sequence[str] | None
) -> tuple[Part, ...]:
    """Returns the parts of a combined objective as its configuration describes them.

    Args:
        described: Options by name.
        order: The names; ``None`` for alphabetical order.

    Raises:
        ConfigError: If there are none, a name cannot be one, or a part makes no sense.
    """
    if not isinstance(described, Mapping) or not described:
        raise ConfigError(
            f"parts must hold at least one part, got {described!r}; such as "
            "parts={forces: {use: energy_force_stress, weight: 1}}"
        )
    names = sorted(described) if order is None else list(order)
    if sorted(names) != sorted(described):
        raise ConfigError(f"order must hold each of {sorted(described)} once, got {names}")
    return tuple(_make_part(name, described[name]) for name in names)


def _make_part(name: str, options: Mapping[str, Any]) -> Part:
    where = f"parts.{name}"
    if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            f"{where}: {name!r} cannot name a part: take letters, digits and underscores, and no "
            "word that torch modules use themselves"
        )
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where} must hold objective and weight, got {options!r}")
    _check_keys(options, _OPTIONS, where)
    objective = options.get("objective")
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"{where} needs an objective, got {objective!r}; write use: NAME, one of the options "
            "of objective=, or objective: {_target_: …}"
        )
    if objective.part_weights:
        raise ConfigError(f"{where} is combined itself: list its parts among the others")
    num_views = len(objective.view_specs(_ANY_SPEC))
    share = bool(options.get("share", False))
    return Part(name, objective, _make_ramp(options.get("weight", 1.0), where), share, num_views)


def _make_ramp(weight: Any, where: str) -> Ramp:
    if isinstance(weight, Mapping):
        _check_keys(weight, _RAMP, f"{where}.weight")
        numbers = {"start": 1.0, "end": 1.0, "from": 0.0, "to": 1.0, **weight}
    else:
        numbers = {"start": weight, "end": weight, "from": 0.0, "to": 1.0}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{where}.weight: {key} must be a number, got {value!r}")
    ramp = Ramp(*(float(numbers[key]) for key in _RAMP))
    if not 0 <= ramp.first < ramp.last <= 1:
        raise ConfigError(
            f"{where}.weight goes from {ramp.first:g} to {ramp.last:g}: these are fractions of "
            "the run, 0 ≤ from < to ≤ 1"
        )
    if not all(0 <= value < float("inf") for value in (ramp.start, ramp.end)):
        raise ConfigError(f"{where}.weight must be ≥ 0 and finite, got {weight!r}")
    if ramp.start == ramp.end == 0:
        raise ConfigError(f"{where}.weight is 0 for the whole run; leave the part out")
    return ramp


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} takes no {key!r}; {closest(str(key), known)}")

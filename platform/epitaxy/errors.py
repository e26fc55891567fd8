"""Exceptions that a user can cause. Every message says what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EpitaxyError(Exception):
    """Base of every error raised on purpose by epitaxy."""


class RecordError(EpitaxyError):
    """A structure or its labels are unusable (shape, finiteness, unknown element, zero volume)."""


class SourceError(EpitaxyError):
    """A source file cannot be read; the message names the file and, where known, the record."""


class UnitError(EpitaxyError):
    """An unknown unit, or one of another dimension than the quantity needs."""


class LabelError(EpitaxyError):
    """Labels contradict physics: their unit, sign, order or scheme is not what the recipe says."""


class ShardError(EpitaxyError):
    """A prepared data set is damaged, incomplete, or written by a newer version."""


class ConfigError(EpitaxyError):
    """A configuration key or value is wrong."""


class NeedsError(EpitaxyError):
    """Encoder, objective and data do not fit together."""


class PlanError(EpitaxyError):
    """A plan cannot be made, or a run is resumed with another plan than it was started with."""


class StreamError(EpitaxyError):
    """A stream delivered another share than the plan expects next."""


class CheckpointError(EpitaxyError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class NonFiniteError(EpitaxyError):
    """A loss or gradient is not finite; raised on every rank before the optimiser moves."""


class RegistryError(EpitaxyError):
    """A model reference cannot be resolved, or a registry operation is refused."""


def closest(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as ``did you mean 'cgcnn'? Known: a, b`` for an unknown ``name``."""
    choices = sorted({str(item) for item in known})
    listing = ", ".join(choices) or "none"
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? Known: {listing}" if near else f"Known: {listing}"

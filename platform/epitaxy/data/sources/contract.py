"""What every source of records promises, and how raw values become labels in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from epitaxy.data.validate import CANONICAL_UNITS
from epitaxy.errors import ConfigError, RecordError, UnitError, closest
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.units import factor, normalise

VOIGT = "xx,yy,zz,yz,xz,xy"
"""Order of six stress components in ASE."""

_AXES = {"x": 0, "y": 1, "z": 2}
_MAX_ASYMMETRY = 1e-3


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be read; the ones after it can.

    Attributes:
        where: File and record, for people.
        error: Why.
    """

    where: str
    error: Exception


@runtime_checkable
class Source(Protocol):
    """Reads one kind of file. Built from a recipe: ``_target_``, plain arguments, ``fields``."""

    def read(self, uri: str) -> Iterator[CrystalRecord | BadRecord]:
        """Yields the records of one file in order, one item for every record, good or bad.

        Raises:
            SourceError: If the file as a whole cannot be read (on).
        """
        ...


@dataclass(frozen=True)
class FieldRule:
    """Where a label stands in a source and what it means there.

    Attributes:
        key: Name of the column, key or array in the source.
        unit: Unit there. ``energy``, ``forces`` and ``stress`` are converted to eV, eV/Å and
            eV/Å^3; any other label keeps its unit, which may be any text (``1/cm``).
        scheme: How the value came about, e.g. ``PBE uncorrected``.
        per_atom: Whether the source has one value per atom.
        sign: Of a stress: which pressure sign the source has; needed for ``stress`` only.
        components: Order of the components of a stress given as six numbers.
        optional: Whether a record may lack the key; an empty value is a missing label in any case.
    """

    key: str
    unit: str = ""
    scheme: str = ""
    per_atom: bool = False
    sign: Literal["tension_positive", "compression_positive"] | None = None
    components: str = VOIGT
    optional: bool = False

    def check(self, name: str) -> None:
        """Refuses a rule that cannot work for label ``name``.

        Raises:
            UnitError: If energy, forces or stress are in an unknown unit.
            ConfigError: If the sign or the order of a stress is missing or unknown.
        """
        try:
            self.scale(name)
        except UnitError as error:
            raise UnitError(f"field {name!r}: {error}") from error
        if name != "stress":
            if self.sign is not None:
                raise ConfigError(f"field {name!r}: sign is for stress only")
            return
        if self.sign not in ("tension_positive", "compression_positive"):
            raise ConfigError(
                f"field 'stress': sign is {self.sign!r}; it must say 'tension_positive' (ASE) or "
                "'compression_positive' (VASP)"
            )
        if sorted(self.components.split(",")) != sorted(VOIGT.split(",")):
            raise ConfigError(
                f"field 'stress': components {self.components!r} must order {VOIGT!r}"
            )

    def scale(self, name: str) -> float:
        """Returns what values of label ``name`` are multiplied by, sign included."""
        wanted = CANONICAL_UNITS.get(name)
        scale = 1.0 if wanted is None else factor(self.unit, wanted)
        return -scale if self.sign == "compression_positive" else scale

    def label(self, name: str, raw: ArrayLike) -> Label:
        """Returns the label for a raw value: converted, its sign turned, a stress as 3×3.

        Raises:
            RecordError: If the value has no such form.
        """
        try:
            value = np.asarray(raw, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise RecordError(f"{self.key!r} is {str(raw)[:60]!r}, not a number") from error
        if name == "stress":
            value = self._tensor(value)
        elif name == "energy" and value.shape != ():
            raise RecordError(f"{self.key!r} has shape {value.shape}, expected one number")
        return Label(
            value * self.scale(name),
            CANONICAL_UNITS.get(name, self.unit),
            self.scheme,
            self.per_atom,
        )

    def conversion(self, name: str) -> dict[str, Any]:
        """Returns what was done to label ``name``, for the manifest."""
        unit = CANONICAL_UNITS.get(name, self.unit)
        record = {"label": name, "key": self.key, "from": self.unit, "to": unit}
        if name in CANONICAL_UNITS:
            record["from"] = normalise(self.unit)
        if name == "stress":
            record |= {"sign": str(self.sign), "components": self.components}
        return record | {"multiplied_by": self.scale(name)}

    def _tensor(self, value: np.ndarray) -> np.ndarray:
        if value.shape == (9,):
            value = value.reshape(3, 3)
        if value.shape == (6,):
            tensor = np.empty((3, 3))
            for component, entry in zip(self.components.split(","), value, strict=True):
                first, second = (_AXES[axis] for axis in component)
                tensor[first, second] = tensor[second, first] = entry
            return tensor
        if value.shape != (3, 3):
            raise RecordError(
                f"{self.key!r} has shape {value.shape}, expected 9 numbers (3×3) or 6 "
                f"({self.components})"
            )
        asymmetry = np.abs(value - value.T).max()
        if asymmetry > _MAX_ASYMMETRY * np.abs(value).max():
            raise RecordError(f"{self.key!r} is not symmetric: it differs by {asymmetry:.3g}")
        return (value + value.T) / 2


def read_labels(
    fields: Mapping[str, FieldRule],
    lookup: Callable[[FieldRule], ArrayLike | None],
    keys: Iterable[str],
) -> dict[str, Label]:
    """Returns the labels of one record.

    Args:
        fields: Label name to rule.
        lookup: Gives the raw value for a rule, ``None`` where it is empty; raises ``KeyError`` if
            the record has no such key.
        keys: Keys the record has, for the error message.

    Raises:
        RecordError: If a key that is not optional is absent, or a value has the wrong form.
    """
    labels = {}
    for name, rule in fields.items():
        try:
            raw = lookup(rule)
        except KeyError as error:
            if rule.optional:
                continue
            raise RecordError(
                f"there is no {rule.key!r} for label {name!r} (say optional: true if records may "
                f"lack it); {closest(rule.key, keys)}"
            ) from error
        if raw is not None:
            labels[name] = rule.label(name, raw)
    return labels


def check_fields(fields: Mapping[str, FieldRule]) -> None:
    """Checks every rule of a source."""
    for name, rule in fields.items():
        rule.check(name)

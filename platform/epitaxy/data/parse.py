"""From raw pieces to checked, encoded records: the half of ``prepare`` that any process can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from epitaxy.data.codec import encode
from epitaxy.data.sidecars import neighbor_counts
from epitaxy.data.sources.contract import BadRecord, Piece, PieceSource, parse_piece
from epitaxy.data.validate import check_record
from epitaxy.errors import ConfigError, EpitaxyError, RecordError, closest
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.symbols import SYMBOLS, atomic_number

Item = CrystalRecord | BadRecord | Piece
"""What a source gives: a record, the raw piece of one, or why there is none."""


@dataclass(frozen=True)
class Accepted:
    """A record that passed every check.

    Attributes:
        blob: Its encoded bytes.
        neighbors: Directed neighbours at each stored radius, (radii,).
    """

    blob: bytes
    neighbors: np.ndarray


@dataclass(frozen=True)
class Refused:
    """A record that cannot be used, and why."""

    where: str
    error: EpitaxyError


@dataclass(frozen=True)
class LeftOut:
    """A sound record that a rule of the recipe leaves out."""

    rule: str


Outcome = Accepted | Refused | LeftOut


@dataclass(frozen=True)
class Sieve:
    """Rules of a recipe that leave records out; each is counted.

    Attributes:
        max_atoms: Largest number of atoms.
        max_atomic_number: Heaviest element.
        exclude_elements: Symbols of elements that must not occur.
        require: Labels that must be present.
        range: Label to its lowest and highest value, ``null`` for an open end.
    """

    max_atoms: int | None = None
    max_atomic_number: int | None = None
    exclude_elements: Sequence[str] = ()
    require: Sequence[str] = ()
    range: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Sieve:
        """Returns the rules that a recipe's ``filter`` states.

        Raises:
            ConfigError: For an unknown rule, element or range.
        """
        known = cls.__dataclass_fields__
        for name in settings:
            if name not in known:
                raise ConfigError(f"unknown filter rule {name!r}; {closest(name, known)}")
        for symbol in settings.get("exclude_elements") or ():
            if symbol not in SYMBOLS[1:]:
                raise ConfigError(f"filter.exclude_elements: {closest(symbol, SYMBOLS[1:])}")
        for label, bounds in (settings.get("range") or {}).items():
            if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
                raise ConfigError(f"filter.range.{label} must be [low, high], got {bounds!r}")
        return cls(**{name: value for name, value in settings.items() if value is not None})

    def broken(self, record: CrystalRecord) -> str:
        """Returns the first rule that ``record`` breaks; empty if it passes."""
        if self.max_atoms is not None and record.num_atoms > self.max_atoms:
            return f"num_atoms > {self.max_atoms}"
        heaviest = self.max_atomic_number
        if heaviest is not None and int(record.numbers.max()) > heaviest:
            return f"atomic number > {heaviest}"
        for symbol in self.exclude_elements:
            if atomic_number(symbol) in record.numbers:
                return f"element {symbol}"
        for label in self.require:
            if label not in record.labels:
                return f"no {label}"
        return self._out_of_range(record)

    def _out_of_range(self, record: CrystalRecord) -> str:
        for label, (low, high) in self.range.items():
            if label not in record.labels:
                continue
            value = record.labels[label].value
            if low is not None and value.min() < low:
                return f"{label} < {low:g}"
            if high is not None and value.max() > high:
                return f"{label} > {high:g}"
        return ""


@dataclass(frozen=True)
class Parser:
    """Turns items into outcomes; plain data, so that it can be sent to other processes.

    Attributes:
        source: Parses pieces; not needed for records.
        sieve: Which records to leave out.
        symmetry: Whether to add space group and crystal system.
        fingerprint: ``magpie`` to add that vector of every composition.
    """

    source: PieceSource | None = None
    sieve: Sieve = field(default_factory=Sieve)
    symmetry: bool = False
    fingerprint: str | None = None

    def __call__(self, items: Sequence[tuple[str, Item]]) -> list[Outcome]:
        """Returns one outcome for each (place, item), in order."""
        parsed = [self._parse(where, item) for where, item in items]
        good = [place for place, entry in enumerate(parsed) if isinstance(entry, CrystalRecord)]
        counts = dict(zip(good, _counted([parsed[place] for place in good]), strict=True))
        outcomes: list[Outcome] = []
        for place, entry in enumerate(parsed):
            if not isinstance(entry, CrystalRecord):
                outcomes.append(entry)
                continue
            try:
                found = counts[place]
                if isinstance(found, EpitaxyError):
                    raise found
                outcomes.append(Accepted(encode(entry), found))
            except EpitaxyError as error:
                outcomes.append(Refused(items[place][0], error))
        return outcomes

    def _parse(self, where: str, item: Item) -> CrystalRecord | Refused | LeftOut:
        try:
            if isinstance(item, Piece) and self.source is not None:
                where = item.where
                item = parse_piece(self.source, item)
            if isinstance(item, BadRecord):
                return Refused(item.where, _as_epitaxy_error(item.error))
            if not isinstance(item, CrystalRecord):
                raise RecordError(f"got a {type(item).__name__}, expected a CrystalRecord")
            rule = self.sieve.broken(item)
            if rule:
                return LeftOut(rule)
            check_record(item)
            return self._with_fingerprint(self._with_symmetry(item))
        except EpitaxyError as error:
            return Refused(where, error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # What a parser stumbles over in a malformed record must not end the whole import.
            return Refused(where, _as_epitaxy_error(error))

    def _with_symmetry(self, record: CrystalRecord) -> CrystalRecord:
        if not self.symmetry or record.is_composition:
            return record
        from epitaxy.data.symmetry import with_symmetry

        return with_symmetry(record)[0]  # where spglib fails, the labels are missing

    def _with_fingerprint(self, record: CrystalRecord) -> CrystalRecord:
        if self.fingerprint is None:
            return record
        from epitaxy.data.magpie import MAGPIE, magpie_label

        return record.replace(labels={**record.labels, MAGPIE: magpie_label(record)})


def _counted(records: Sequence[Any]) -> list[Any]:
    """Returns each record's neighbour counts, or the error that counting raised."""
    try:
        return list(neighbor_counts(records))
    except EpitaxyError as error:
        if len(records) == 1:
            return [error]
        return [found for record in records for found in _counted([record])]


def _as_epitaxy_error(error: Exception) -> EpitaxyError:
    if isinstance(error, EpitaxyError):
        return error
    return RecordError(f"{type(error).__name__}: {error}")

"""Sources whose records are entries with keys: dictionaries, rows of a table or of a database.

They differ in how a file is walked; what an entry means is said by the same arguments everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from epitaxy.data.field_rule import FieldRule, read_labels
from epitaxy.data.sources.arrays import ARRAY_KEYS, Geometry, decode_arrays
from epitaxy.data.sources.contract import Piece, PieceSource
from epitaxy.data.sources.paths import fill, find, first_present, lookup, printable
from epitaxy.data.sources.structures import parse_structure
from epitaxy.errors import ConfigError, RecordError, closest
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.symbols import MOST, atomic_number, parse_formula

STRUCTURE_KEYS = ("structure", "atoms", "cif", "crystal", "final_structure", "poscar")
"""Where an entry's structure is looked for unless the source says where it stands."""

_NOTATIONS = ("cif", "poscar", "json")


class EntrySource(PieceSource):
    """Turns entries into records; a subclass walks the file.

    Args:
        fields: Label name to where it stands in an entry.
        structure: Path of the structure within an entry; if empty, a usual name is looked for, and
            then the entry itself.
        arrays: Paths of bare arrays that make up the structure: ``numbers`` or ``elements``,
            ``positions`` or ``fractional``, ``cell``, ``pbc``.
        notation: ``cif``, ``poscar`` or ``json`` for a structure given as text that could be any.
        composition: Path of a chemical formula, or of a dictionary from element to amount; then
            records are compositions without a structure.
        id: Path of the record's id, or a template such as ``{jid}-{number}``. Besides the entry's
            keys there are ``number`` (from 0), ``row`` (from 1), ``file`` (its name without
            endings) and ``key`` (of an entry in a dictionary). If empty, ``{file}-{number}``.
        group: Path or template of the record's group; if empty, the id is the group.
    """

    default_id = "{file}-{number}"

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        *,
        structure: str = "",
        arrays: Mapping[str, str] | None = None,
        notation: str = "",
        composition: str = "",
        id: str = "",
        group: str = "",
    ) -> None:
        if notation and notation not in _NOTATIONS:
            raise ConfigError(f"unknown notation {notation!r}; {closest(notation, _NOTATIONS)}")
        for name in arrays or ():
            if name not in ARRAY_KEYS:
                raise ConfigError(f"arrays: unknown name {name!r}; {closest(name, ARRAY_KEYS)}")
        if composition and (structure or arrays):
            raise ConfigError("a source has a composition or a structure, not both")
        self._fields = fields
        self._structure = structure
        self._arrays = dict(arrays or {})
        self._notation = notation
        self._composition = composition
        self._id = id or self.default_id
        self._group = group

    def record(self, piece: Piece) -> CrystalRecord:
        """Returns the record in a piece, whose content is (context, entry).

        Raises:
            RecordError: If the entry holds no usable record.
        """
        context, raw = piece.content
        if not isinstance(raw, Mapping):
            raise RecordError(f"the entry is {str(raw)[:60]!r}, expected a dictionary")
        entry = decode_arrays(raw)
        identity = fill(self._id, "id", entry, context)
        group = fill(self._group, "group", entry, context) if self._group else identity
        if self._composition:
            geometry, amounts = composition_of(lookup_or_refuse(entry, self._composition))
            labels = self._labels(entry, None) | {AMOUNT: amounts}
        else:
            geometry = parse_structure(
                self._find_structure(entry), piece.where, self._arrays, self._notation
            )
            labels = self._labels(entry, geometry)
        return CrystalRecord(identity, *geometry, labels=labels, group=group)

    def _labels(self, entry: Mapping[str, Any], geometry: Geometry | None) -> dict[str, Label]:
        return read_labels(self._fields, lambda rule: raw_value(entry, rule), entry, geometry)

    def _find_structure(self, entry: Mapping[str, Any]) -> Any:
        if self._structure:
            return lookup_or_refuse(entry, self._structure)
        found = first_present(entry, STRUCTURE_KEYS)
        usable = isinstance(found, (str, Mapping))
        return found if usable and not self._arrays else entry


def raw_value(entry: Mapping[str, Any], rule: FieldRule) -> Any:
    """Returns the raw value for ``rule``; empty text is a missing value.

    Raises:
        KeyError: If the entry has no such key.
        RecordError: If some of several columns are empty.
    """
    columns = column_range(rule.key)
    if columns:
        values = [raw_value(entry, FieldRule(str(column))) for column in columns]
        empty = sum(value is None for value in values)
        if empty not in (0, len(values)):
            raise RecordError(f"{empty} of the {len(values)} columns {rule.key!r} are empty")
        return None if empty else values
    value = lookup(entry, rule.key)
    if isinstance(value, str):
        return value.strip() or None
    if rule.per_atom and isinstance(value, (list, tuple)) and any(item is None for item in value):
        return None
    return value


def column_range(key: str) -> range:
    """Returns the columns that a key such as ``1:301`` stands for; empty for any other key."""
    start, colon, stop = key.partition(":")
    if colon and start.isdecimal() and stop.isdecimal():
        return range(int(start), int(stop))
    return range(0)


def lookup_or_refuse(entry: Mapping[str, Any], path: str) -> Any:
    """Returns the value at ``path``.

    Raises:
        RecordError: If it is absent or empty; the message tells what there is.
    """
    found = find(entry, path)
    if found is None:
        known = printable(", ".join(map(str, entry)))
        raise RecordError(f"the entry has no {path!r}, only {known}")
    return found


def composition_of(formula: Any) -> tuple[Geometry, Label]:
    """Returns a record's arrays for a composition: one entry per element, and its amounts.

    Args:
        formula: A text, or a dictionary from symbol to amount.

    Raises:
        RecordError: If ``formula`` is none.
    """
    amounts = parse_formula(str(formula)) if not isinstance(formula, Mapping) else _amounts(formula)
    numbers = np.array(sorted(amounts), dtype=np.int64)
    geometry = Geometry(
        numbers, np.zeros((len(numbers), 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool)
    )
    values = np.array([amounts[number] for number in numbers.tolist()])
    return geometry, Label(values, "", "", per_atom=True)


def _amounts(by_symbol: Mapping[str, Any]) -> dict[int, float]:
    amounts: dict[int, float] = {}
    for symbol, amount in by_symbol.items():
        number = atomic_number(symbol)
        try:
            amounts[number] = amounts.get(number, 0.0) + float(amount)
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(f"the amount of {symbol} is {str(amount)[:40]!r}") from error
    if not all(0 <= amount <= MOST for amount in amounts.values()):
        raise RecordError(f"the amounts of a composition are {str(dict(by_symbol))[:80]}")
    present = {number: amount for number, amount in amounts.items() if amount > 0}
    if not present:
        raise RecordError("the composition has no element with an amount above 0")
    return present

"""Crystals from Python code: whatever a function of yours yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from epitaxy.build import locate
from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.structures import from_pymatgen
from epitaxy.errors import EpitaxyError, RecordError, SourceError
from epitaxy.graph.record import CrystalRecord


class PythonRecords(EntrySource):
    """Reads what a function yields: records, ASE ``Atoms``, pymatgen structures, dictionaries.

    Args:
        fields: Label name to where it stands: a key of the dictionary, of ``Atoms.info`` or
            ``Atoms.arrays``, of the calculator's results or of ``Structure.properties``.
        function: Dotted path of the function, such as ``mypackage.module.crystals``; it gets the
            ``uri``.
        **entry: How a dictionary is understood; see ``EntrySource``.
    """

    default_id = "{number}"

    def __init__(self, fields: Mapping[str, FieldRule], *, function: str, **entry: Any) -> None:
        super().__init__(fields, **entry)
        self._function = function

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields what the function yields, numbered from 0.

        Raises:
            SourceError: If the function fails other than by an error of epitaxy.
        """
        function = locate(self._function)
        try:
            for number, item in enumerate(function(uri)):
                where = f"{self._function}, item {number}"
                context = {"number": number, "row": number + 1, "file": self._function}
                try:
                    yield Piece(where, (context, as_entry(item)))
                except RecordError as error:
                    yield BadRecord(where, error)
        except EpitaxyError:
            raise
        except Exception as error:  # it is not ours: anything may happen in it
            reason = f"{type(error).__name__}: {error}"[:400]
            raise SourceError(f"{self._function}({uri!r}) failed: {reason}") from error

    def record(self, piece: Piece) -> CrystalRecord:
        """Returns the record in a piece.

        Raises:
            RecordError: If the item holds no usable record.
        """
        _, entry = piece.content
        return entry if isinstance(entry, CrystalRecord) else super().record(piece)


def as_entry(item: Any) -> Any:
    """Returns an ASE ``Atoms`` or a pymatgen structure as a dictionary; anything else as it is.

    A pymatgen entry (``ComputedStructureEntry``) or whatever else has ``as_dict`` is what that
    says.

    Raises:
        RecordError: If it is nothing that describes a crystal.
    """
    if isinstance(item, (CrystalRecord, Mapping)):
        return item
    if hasattr(item, "get_positions") and hasattr(item, "info"):
        results = dict(getattr(item.calc, "results", {}) or {})
        return {**results, **item.arrays, **item.info} | {
            "numbers": item.numbers,
            "positions": item.positions,
            "cell": item.cell.array,
            "pbc": item.pbc,
        }
    if hasattr(item, "cart_coords") and hasattr(item, "species"):
        properties = dict(getattr(item, "site_properties", None) or {})
        properties |= getattr(item, "properties", None) or {}
        return {**properties, **from_pymatgen(item)._asdict()}
    found = item.as_dict() if hasattr(item, "as_dict") else None
    if isinstance(found, Mapping):
        return found
    raise RecordError(
        f"got a {type(item).__name__}, expected a CrystalRecord, Atoms, Structure or dictionary"
    )

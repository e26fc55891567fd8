"""LMDB files of pickled entries: graphs of PyTorch Geometric, dictionaries, structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import stem
from epitaxy.data.sources.stand_ins import unwrap
from epitaxy.errors import RecordError
from epitaxy.foreign.unpickle import BadValue, read_lmdb


class LmdbEntries(EntrySource):
    """Reads an LMDB file, or a folder with ``data.mdb``, of pickled or JSON entries.

    A process of its own reads it, with an allow-list of types. Bookkeeping (``length`` and other
    keys that are no numbers and hold no entry) is passed over.

    Args:
        fields: Label name to where it stands in an entry.
        allow: Further classes that may occur in the pickles (``mypackage.Crystal``); they are not
            imported, their state is the entry.
        **entry: How an entry is understood; see ``EntrySource``. Templates know ``key``.
    """

    default_id = "{file}-{key}"

    def __init__(
        self, fields: Mapping[str, FieldRule], *, allow: Sequence[str] = (), **entry: Any
    ) -> None:
        super().__init__(fields, **entry)
        self._allow = tuple(allow)

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the entries in the order of their keys.

        Raises:
            SourceError: If the file is no LMDB, or damaged.
        """
        number = 0
        for key, value in read_lmdb(uri, allow=self._allow):
            where = f"{uri}, key {key!r}"
            if isinstance(value, BadValue):
                yield BadRecord(where, value.error)
            elif isinstance(value, Mapping):
                context = {"number": number, "row": number + 1, "file": stem(uri), "key": key}
                yield Piece(where, (context, unwrap(value)))
            elif key.isdecimal():
                text = f"the value is {str(value)[:60]!r}, expected an entry with keys"
                yield BadRecord(where, RecordError(text))
            else:
                continue
            number += 1

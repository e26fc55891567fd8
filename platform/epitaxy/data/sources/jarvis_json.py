"""A JSON list of crystals as JARVIS and ALIGNN write them: id, ``atoms``, targets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

from epitaxy.data.sources.contract import BadRecord, FieldRule, read_labels
from epitaxy.data.sources.files import open_text
from epitaxy.data.sources.structures import parse_jarvis
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

_CHUNK = 1 << 20
_BETWEEN = tuple(" \t\r\n,")


class JarvisJson:
    """Reads ``.json`` and ``.json.gz`` files, one entry at a time.

    Args:
        fields: Label name to its key in an entry; ``null`` and ``"na"`` mean missing.
        id_key: Key of the record's id.
        id_prefix: Put before every id, where ids are mere numbers.
        group_key: Key of the record's group; if empty, the id is the group.
    """

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        id_key: str = "jid",
        id_prefix: str = "",
        group_key: str = "",
    ) -> None:
        self._fields = fields
        self._id_key = id_key
        self._id_prefix = id_prefix
        self._group_key = group_key

    def read(self, uri: str) -> Iterator[CrystalRecord | BadRecord]:
        """Yields the entries of the list; they are numbered from 0.

        Raises:
            SourceError: If the file is no JSON list, or is cut off.
        """
        with open_text(uri) as stream:
            for number, entry in enumerate(iterate_list(uri, stream)):
                try:
                    yield self._record(entry)
                except RecordError as error:
                    identity = entry.get(self._id_key) if isinstance(entry, dict) else None
                    yield BadRecord(f"{uri}, entry {number} ({identity})", error)

    def _record(self, entry: Any) -> CrystalRecord:
        if not isinstance(entry, dict):
            raise RecordError(f"the entry is {str(entry)[:60]!r}, expected a dictionary")

        def value(key: str) -> Any:
            if key not in entry:
                raise RecordError(f"the entry has no {key!r}, only {', '.join(entry)}")
            return entry[key]

        def raw(rule: FieldRule) -> Any:
            found = entry[rule.key]
            return None if found in (None, "na") else found

        identity = f"{self._id_prefix}{value(self._id_key)}"
        return CrystalRecord(
            identity,
            *parse_jarvis(value("atoms")),
            labels=read_labels(self._fields, raw, entry),
            group=str(value(self._group_key)) if self._group_key else identity,
        )


def iterate_list(uri: str, stream: IO[str]) -> Iterator[Any]:
    """Yields the entries of a JSON list without holding the whole text.

    Raises:
        SourceError: If the text is no list, or is malformed or cut off; the message counts the
            entries before that.
    """
    decoder = json.JSONDecoder()
    buffer, at, count = _more(uri, stream, "", 0).lstrip(), 1, 0
    if buffer[:1] != "[":
        raise SourceError(f"{uri} must hold a JSON list of entries, it starts with {buffer[:20]!r}")
    while True:
        while buffer[at : at + 1] in _BETWEEN:
            at += 1
        if buffer.startswith("]", at):
            return
        try:
            entry, at = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:  # most often: the entry goes on in the next chunk
            rest = buffer[at:]
            buffer, at = _more(uri, stream, rest, count), 0
            if buffer == rest:
                raise SourceError(
                    f"{uri} is malformed or cut off after {count} entries: {error}"
                ) from error
        else:
            yield entry
            count += 1


def _more(uri: str, stream: IO[str], buffer: str, count: int) -> str:
    try:  # reading at least as much again keeps the work linear for entries of any length
        return buffer + stream.read(max(_CHUNK, len(buffer)))
    except EOFError as error:
        raise SourceError(f"{uri} is cut off after {count} entries: {error}") from error

"""JSON files entry by entry: nested containers are walked, only one entry is in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

from epitaxy.data.sources.paths import printable
from epitaxy.errors import RecordError, SourceError

_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_MARGIN = 16
"""Characters at the end of what was read that may be the first part of something."""

Path = tuple[str | int, ...]


def walk(
    uri: str, stream: IO[str], levels: int = 1, under: Sequence[str] = ()
) -> Iterator[tuple[Path, Any]]:
    """Yields (keys, entry) of everything ``levels`` deep in nested lists and objects.

    ``levels=1`` gives the items of a list or of an object; ``levels=2`` those of an object of
    objects, with both keys; ``levels=0`` the whole. Something that is no container where one is
    expected is an entry.

    Args:
        uri: The file, for messages.
        stream: Its text.
        levels: How deep the entries lie.
        under: Keys that lead to the container of the entries; what stands beside it is passed over.

    Raises:
        SourceError: If the text is malformed or cut off; the message counts the entries before.
    """
    reader = JsonReader(uri, stream)
    if reader.peek() not in ("[", "{"):
        raise reader.error("must hold a JSON list or object of entries")
    yield from _under(reader, levels, tuple(under))
    if reader.peek():
        raise reader.error("has more text after its end (one entry per line? say lines: true)")


def _under(reader: JsonReader, levels: int, under: tuple[str, ...]) -> Iterator[tuple[Path, Any]]:
    if not under:
        yield from _walk(reader, levels, ())
        return
    seen = []
    if reader.peek() in ("[", "{"):
        for key in reader.items():
            if str(key) == under[0] and under[0] not in seen:
                yield from _under(reader, levels, under[1:])
            else:
                reader.value()
                reader.count -= 1
            seen.append(str(key))
    if under[0] not in seen:
        raise SourceError(f"{reader.uri} has no {under[0]!r} to look under; {_keys(seen)}")


def _keys(seen: Sequence[str]) -> str:
    return f"there is {printable(', '.join(seen))}" if seen else "there are no keys"


def walk_lines(uri: str, stream: IO[str]) -> Iterator[tuple[Path, Any]]:
    """Yields (number,) and entry, or what is wrong with it, of a file with one entry per line.

    Raises:
        SourceError: If the file ends inside an entry.
    """
    number = 0
    while line := stream.readline():
        if not line.strip():
            continue
        try:
            yield (number,), json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                raise SourceError(
                    f"{uri} is malformed or cut off after {number} entries: {error}"
                ) from error
            yield (number,), RecordError(f"the line is no JSON: {error}")
        number += 1


def _walk(reader: JsonReader, levels: int, path: Path) -> Iterator[tuple[Path, Any]]:
    opening = reader.peek()
    if levels == 0 or opening not in ("[", "{"):
        yield path, reader.value()
        return
    for key in reader.items():
        yield from _walk(reader, levels - 1, (*path, key))


class JsonReader:
    """A cursor in JSON text.

    Attributes:
        uri: The file, for messages.
        count: Values read so far.
    """

    def __init__(self, uri: str, stream: IO[str]) -> None:
        self.uri, self._stream = uri, stream
        self._decoder = json.JSONDecoder()
        self._buffer, self._at, self._done = "", 0, False
        self.count = 0

    def error(self, what: str) -> SourceError:
        """Returns an error that says where in the file it happened."""
        here = self._buffer[self._at : self._at + 30]
        goes_on = f"it goes on {here!r}" if here else "it ends"
        return SourceError(f"{self.uri} {what}; after {self.count} entries {goes_on}")

    def peek(self) -> str:
        """Returns the next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def items(self) -> Iterator[str | int]:
        """Walks the container that begins here: yields each key with the cursor at its value."""
        closing = {"[": "]", "{": "}"}[self.peek()]
        self._at += 1
        place = 0
        while (character := self.peek()) != closing:
            if place:
                if character != ",":
                    raise self.error("is malformed or cut off: expected ',' or the end of a list")
                self._at += 1
            yield self._key() if closing == "}" else place
            place += 1
        self._at += 1

    def _key(self) -> str:
        if self.peek() != '"':
            raise self.error("is malformed or cut off: expected a key in double quotes")
        key = str(self._decode())
        if self.peek() != ":":
            raise self.error(f"is malformed or cut off: expected ':' after {key[:40]!r}")
        self._at += 1
        return key

    def value(self) -> Any:
        """Returns the value that begins here."""
        self.peek()
        found = self._decode()
        self.count += 1
        return found

    def _decode(self) -> Any:
        while True:
            try:
                found, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._may_go_on(error) and self._more():
                    continue
                reason = str(error).partition(": line")[0]
                raise self.error(f"is malformed or cut off: {reason}") from error
            except RecursionError as error:
                raise self.error("is nested too deeply to be read") from error
            except ValueError as error:  # a whole number of more digits than Python converts
                raise self.error(f"holds a number that is too long: {error}") from error
            if end > len(self._buffer) - _MARGIN and self._more():
                continue  # a number may go on: of 1.5 or 1e-9 just 1. or 1e- may be here
            self._at = end
            return found

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether more text could mend ``error``: it is at the end, or of a string without end."""
        return error.pos > len(self._buffer) - _MARGIN or error.msg.startswith("Unterminated")

    def _more(self) -> bool:
        """Reads on; at least as much again, so that the work is linear for entries of any size."""
        if self._done:
            return False
        rest = self._buffer[self._at :]
        try:
            chunk = self._stream.read(max(_CHUNK, len(rest)))
        except EOFError as error:
            raise SourceError(
                f"{self.uri} is cut off after {self.count} entries: {error}"
            ) from error
        if chunk:
            self._buffer, self._at = rest + chunk, 0
        self._done = not chunk
        return bool(chunk)

"""Extended XYZ: frames of ``count``, ``key=value`` comment, one line per atom.

Read here rather than by ``ase.io``, which guesses types (the id ``000802`` becomes 802), moves
energy, forces and stress into a calculator under names of its own, ignores surplus columns and
stops at the first bad frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import ArrayLike

from epitaxy.data.field_rule import FieldRule, read_labels
from epitaxy.data.sources.arrays import Geometry, cartesian, read_numbers
from epitaxy.data.sources.contract import Piece, PieceSource
from epitaxy.data.sources.files import open_text, stem
from epitaxy.errors import ConfigError, RecordError, SourceError, closest
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.symbols import atomic_number

_PAIR = re.compile(
    r"""(?P<key>[^\s=]+)\s*
        (?:=\s*(?P<value>"(?:\\.|[^"\\])*"|'[^']*'|\{[^}]*\}|\[(?:[^\[\]]|\[[^\]]*\])*\]|\S*))?""",
    re.VERBOSE,
)
_DEFAULT_COLUMNS = "species:S:1:pos:R:3"
_STRUCTURE = ("elements", "numbers", "positions", "fractional")
_TRUE = {"t", "true", "1"}
_FALSE = {"f", "false", "0"}


class ExtendedXyz(PieceSource):
    """Reads ``.xyz`` files, compressed or not.

    Args:
        fields: Label name to its key: a column (``per_atom``) or an entry of the comment.
        id_keys: Comment keys of the record's id, the first one present counts; if empty, ids are
            ``<file name>-<frame>``, counting from 0.
        group_keys: Comment keys of the record's group, likewise; if empty, the id is the group.
        columns: Names of the columns that make up the structure, where they are other than
            ``species`` (or ``Z``, ``numbers``) and ``pos``: ``{positions: xyz, elements: name}``;
            ``fractional`` instead of ``positions`` for coordinates in units of the cell.
        lattice_key: Comment key of the cell.
    """

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        id_keys: Sequence[str] = (),
        group_keys: Sequence[str] = (),
        *,
        columns: Mapping[str, str] | None = None,
        lattice_key: str = "Lattice",
    ) -> None:
        self._fields = fields
        self._id_keys = tuple(id_keys)
        self._group_keys = tuple(group_keys)
        self._names = {"elements": "species", "positions": "pos", **(columns or {})}
        self._lattice_key = lattice_key
        for name in self._names:
            if name not in _STRUCTURE:
                raise ConfigError(f"columns: {closest(name, _STRUCTURE)}")

    def pieces(self, uri: str) -> Iterator[Piece]:
        """Yields the frames of a file; frames are numbered from 0.

        Raises:
            SourceError: If the file ends inside a frame, or where a frame should begin there is
                something else.
        """
        with open_text(uri) as stream:
            for number, frame in enumerate(_frames(uri, stream)):
                yield Piece(f"{uri}, frame {number}", (f"{stem(uri)}-{number}", *frame))

    def record(self, piece: Piece) -> CrystalRecord:
        """Returns the record of a frame.

        Raises:
            RecordError: If it holds none.
        """
        default_id, comment, lines = piece.content
        info = _parse_comment(comment)
        columns = _columns(info.get("Properties", _DEFAULT_COLUMNS))
        rows = _rows(lines, sum(column.width for column in columns.values()))
        identity = _first(info, self._id_keys, "id") if self._id_keys else default_id
        group = _first(info, self._group_keys, "group") if self._group_keys else identity
        geometry = self._geometry(info, columns, rows)
        labels = read_labels(
            self._fields,
            lambda rule: _value(rule, info, columns, rows),
            {**info, **columns},
            geometry,
        )
        return CrystalRecord(identity, *geometry, labels=labels, group=group)

    def _geometry(
        self, info: Mapping[str, str], columns: Mapping[str, _Column], rows: np.ndarray
    ) -> Geometry:
        cell = np.zeros((3, 3))
        periodic = self._lattice_key in info
        if periodic:
            cell = _numbers(self._lattice_key, info[self._lattice_key], 9).reshape(3, 3)
        pbc = _booleans(info["pbc"]) if "pbc" in info else np.full(3, periodic)
        numbers = _atomic_numbers(self._names, columns, rows)
        if "fractional" in self._names:
            positions = cartesian(_vectors(columns, rows, self._names["fractional"]), cell)
        else:
            positions = _vectors(columns, rows, self._names["positions"])
        return Geometry(numbers, positions, cell, pbc)


@dataclass(frozen=True)
class _Column:
    start: int
    width: int


def _frames(uri: str, stream: IO[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields (comment, atom lines) of every frame."""
    number = 0
    try:
        while line := stream.readline():
            if not line.strip():
                continue
            if not re.fullmatch(r"\s*\d{1,9}\s*", line):
                raise SourceError(
                    f"{uri}, frame {number}: expected a number of atoms, found "
                    f"{line.strip()[:60]!r}{_after(number)}"
                )
            wanted = int(line)
            comment = stream.readline()
            lines: list[str] = []
            while len(lines) < wanted and (line := stream.readline()):
                lines.append(line)
            if not comment or len(lines) < wanted:
                raise SourceError(
                    f"{uri} ends inside frame {number}: it has {len(lines)} of its {wanted} atoms"
                    f"{_after(number)}"
                )
            yield comment, lines
            number += 1
    except EOFError as error:
        raise SourceError(
            f"{uri} is cut off inside frame {number}: {error}{_after(number)}"
        ) from error


def _after(number: int) -> str:
    return f"; the last good frame is {number - 1}" if number else "; no frame before it is good"


def _parse_comment(comment: str) -> dict[str, str]:
    """Returns the entries of a comment as text; a key without a value is ``T``."""
    entries = {}
    for match in _PAIR.finditer(comment):
        value = match["value"]
        if value is None:
            value = "T"
        elif value[:1] in ("'", '"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        entries[match["key"].strip("'\"")] = value
    return entries


def _first(info: Mapping[str, str], keys: Sequence[str], what: str) -> str:
    for key in keys:
        if key in info:
            return info[key].strip()
    raise RecordError(f"no {what}: none of {', '.join(keys)}; {closest(keys[0], info)}")


def _numbers(key: str, text: str, count: int | None = None) -> np.ndarray:
    try:
        values = np.array([float(word) for word in re.sub(r"_JSON|[\[\]{},]", " ", text).split()])
    except ValueError as error:
        raise RecordError(f"{key!r} is {text[:60]!r}, expected numbers") from error
    if count is not None and len(values) != count:
        raise RecordError(f"{key!r} has {len(values)} numbers, expected {count}")
    return values


def _booleans(text: str) -> np.ndarray:
    words = re.sub(r"[\[\]{},]", " ", text).lower().split()
    if len(words) != 3 or not set(words) <= _TRUE | _FALSE:
        raise RecordError(f"'pbc' is {text!r}, expected three of T and F")
    return np.array([word in _TRUE for word in words])


def _columns(properties: str) -> dict[str, _Column]:
    """Returns the columns that a ``Properties`` entry lists, e.g. ``species:S:1:pos:R:3``."""
    words = properties.split(":")
    columns, start = {}, 0
    if len(words) % 3 or not all(width.isdecimal() for width in words[2::3]):
        raise RecordError(f"'Properties' is {properties!r}, expected name:type:width, repeated")
    for name, width in zip(words[::3], words[2::3], strict=True):
        columns[name] = _Column(start, int(width))
        start += int(width)
    return columns


def _rows(lines: list[str], width: int) -> np.ndarray:
    """Returns the words of the atom lines, (atoms, columns) of str."""
    words = [line.split() for line in lines]
    for atom, row in enumerate(words):
        if len(row) != width:
            raise RecordError(
                f"atom {atom} has {len(row)} columns, expected {width} as 'Properties' says"
            )
    return np.array(words, dtype=object).reshape(len(words), width)


def _column(columns: Mapping[str, _Column], rows: np.ndarray, name: str) -> np.ndarray:
    if name not in columns:
        raise RecordError(f"there is no column {name!r}; {closest(name, columns)}")
    start, width = columns[name].start, columns[name].width
    try:
        values = rows[:, start : start + width].astype(np.float64)
    except ValueError as error:
        raise RecordError(f"column {name!r} holds something other than numbers: {error}") from error
    return values[:, 0] if width == 1 else values


def _vectors(columns: Mapping[str, _Column], rows: np.ndarray, name: str) -> np.ndarray:
    values = _column(columns, rows, name)
    if values.shape != (len(rows), 3):
        raise RecordError(f"column {name!r} has {columns[name].width} numbers, expected 3 (R:3)")
    return values


def _atomic_numbers(
    names: Mapping[str, str], columns: Mapping[str, _Column], rows: np.ndarray
) -> np.ndarray:
    if names["elements"] not in columns or "numbers" in names:
        name = names.get("numbers", "Z" if "Z" in columns else "numbers")
        return read_numbers(_column(columns, rows, name))
    symbols = rows[:, columns[names["elements"]].start].tolist()
    numbers = {symbol: _element(symbols, symbol) for symbol in set(symbols)}
    return np.array([numbers[symbol] for symbol in symbols], dtype=np.int64)


def _element(symbols: list[str], symbol: str) -> int:
    try:
        return atomic_number(symbol)
    except RecordError as error:
        atom = symbols.index(symbol)
        raise RecordError(f"atom {atom} is of unknown element {symbol!r}") from error


def _value(
    rule: FieldRule,
    info: Mapping[str, str],
    columns: Mapping[str, _Column],
    rows: np.ndarray,
) -> ArrayLike:
    if rule.per_atom:
        if rule.key not in columns:
            raise KeyError(rule.key)
        return _column(columns, rows, rule.key)
    values = _numbers(rule.key, info[rule.key])
    return values[0] if len(values) == 1 else values


def describe_frame(default_id: str, comment: str, lines: list[str]) -> dict[str, object]:
    """Returns the entries of a comment and the columns of a frame, for people to look at."""
    info: dict[str, object] = dict(_parse_comment(comment))
    columns = _columns(str(info.pop("Properties", _DEFAULT_COLUMNS)))
    rows = _rows(lines, sum(column.width for column in columns.values()))
    for name, column in columns.items():
        words = rows[:, column.start : column.start + column.width]
        try:
            info[name] = words.astype(np.float64)
        except ValueError:
            info[name] = words.astype(str)
    for key, text in info.items():
        if isinstance(text, str):
            try:
                values = _numbers(key, text)
            except RecordError:
                continue
            info[key] = values if len(values) != 1 else float(values[0])
    return info

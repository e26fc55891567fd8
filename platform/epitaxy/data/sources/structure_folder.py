"""A folder of structure files, with or without a table of targets: CGCNN's layout and relatives."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import open_bytes, open_text, unpacked_folder
from epitaxy.data.sources.paths import fill, printable
from epitaxy.errors import ConfigError, RecordError, SourceError

logger = logging.getLogger(__name__)

_ENDINGS = (".cif", ".vasp", ".poscar", ".json", ".gz", ".bz2", ".xz")


class StructureFolder(EntrySource):
    """Reads a folder, or an archive of one (tar, zip), of CIF, POSCAR or ASE-JSON files.

    Args:
        fields: Label name to its column in the table: ``1`` is the first one after the id,
            ``1:301`` columns 1 to 300 as one vector; with a ``header`` the names as well.
        table: Name of the table, id first; if empty, every file that ``file`` matches is read, in
            folders within the folder too.
        file: Name of a record's file, made of its row: ``{0}`` is the id.
        header: Whether the table's first row names its columns.
        delimiter: What stands between the cells of the table.
        **entry: How an entry is understood; see ``EntrySource``. Without a table, templates know
            ``0``, the file's name without endings, and ``path``, the same with its folders.
    """

    default_id = "{0}"

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        *,
        table: str = "id_prop.csv",
        file: str = "{0}.cif",
        header: bool = False,
        delimiter: str = ",",
        **entry: Any,
    ) -> None:
        super().__init__(fields, structure="@structure", **entry)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"delimiter must be one character, got {delimiter!r}")
        if not file or Path(file).is_absolute():
            raise ConfigError(f"file must be a name or pattern within the folder, got {file!r}")
        self._table, self._file, self._header = table, file, header
        self._delimiter = delimiter

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows of the table in order, or the files by path.

        Raises:
            SourceError: If the table cannot be read, or no file matches.
        """
        pattern = re.sub(r"\{[^{}]*\}", "*", self._file)
        with unpacked_folder(uri) as root:
            folder = self._table_folder(uri, root) if self._table else root
            rows = self._rows(folder) if self._table else _files(uri, root, pattern)
            listed: set[str] = set()
            for number, row in enumerate(rows):
                name = printable(row.get("@file", row.get("0", "")), 60)
                where = f"{uri}: {self._table or 'file'}, row {number} ({name})"
                try:
                    path = _inside(folder, row.get("@file") or fill(self._file, "file", row))
                    text = _read(path)
                except (RecordError, SourceError) as error:
                    yield BadRecord(where, error)
                    continue
                listed.add(path.name)
                context = {"number": number, "row": number + 1, "file": Path(uri).name}
                yield Piece(where, (context, {**row, "@structure": text}))
            if self._table:
                self._warn_unlisted(uri, folder, listed)

    def _table_folder(self, uri: str, root: Path) -> Path:
        if (root / self._table).is_file():
            return root
        found = sorted(path for path in root.rglob(self._table) if path.is_file())
        if len(found) != 1:
            some = f": {', '.join(str(path.relative_to(root)) for path in found[:3])}"
            raise SourceError(
                f"{uri} holds {f'{len(found)} of' if found else 'no'} {self._table}"
                f"{some if found else '; name the table in the recipe (empty for none)'}"
            )
        return found[0].parent

    def _rows(self, folder: Path) -> Iterator[dict[str, str]]:
        path = str(folder / self._table)
        with open_text(path) as stream:
            reader = csv.reader(stream, strict=True, delimiter=self._delimiter)
            names: list[str] = []
            try:
                for row in reader:
                    if self._header and row and not names:
                        names = [name.strip() for name in row]
                    elif any(text.strip() for text in row):
                        cells = {str(column): text.strip() for column, text in enumerate(row)}
                        yield cells | dict(zip(names, cells.values(), strict=False))
            except csv.Error as error:
                raise SourceError(f"{path}, line {reader.line_num}: {error}") from error

    def _warn_unlisted(self, uri: str, folder: Path, listed: set[str]) -> None:
        endings = {Path(name).suffix for name in listed}
        unlisted = sorted(
            path.name
            for path in folder.iterdir()
            if path.is_file()
            and path.suffix in endings
            and path.name not in listed
            and path.name not in (self._table, "atom_init.json")
            and not path.name.startswith(".")
        )
        if unlisted:
            logger.warning(
                "%s: %d %s files are not listed in %s and were not read, e.g. %s",
                uri, len(unlisted), Path(unlisted[0]).suffix, self._table, unlisted[0],
            )  # fmt: skip


def _files(uri: str, root: Path, pattern: str) -> Iterator[dict[str, str]]:
    found = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob(pattern)
        if path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise SourceError(f"{uri} holds no {pattern}")
    for name in found:
        plain = _without_ending(name)
        yield {"0": plain.rpartition("/")[2], "path": plain, "@file": name}


def _inside(folder: Path, name: str) -> Path:
    """Returns the path of file ``name``, which must not lead out of the folder."""
    try:
        path = folder / name
        outside = not path.resolve().is_relative_to(folder.resolve())
        if not outside and path.is_file():
            return path
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise RecordError(f"{name[:60]!r} is no name of a file: {error}") from error
    if outside:
        raise RecordError(f"the file {name!r} lies outside of the folder")
    raise RecordError(f"there is no file {name!r} in the folder")


def _read(path: Path) -> str:
    """Returns a structure's text; a comment in another encoding than UTF-8 does no harm."""
    with open_bytes(str(path)) as stream:
        return stream.read().decode("utf-8-sig", errors="replace")


def _without_ending(name: str) -> str:
    while Path(name).suffix.lower() in _ENDINGS:
        name = name[: -len(Path(name).suffix)]
    return name

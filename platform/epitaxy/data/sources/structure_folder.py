"""A folder of structure files, with or without a table of targets: CGCNN's layout and relatives."""

from __future__ import annotations

import csv
import logging
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import BOMB_BYTES, BOMB_RATIO, open_text
from epitaxy.data.sources.paths import fill
from epitaxy.errors import RecordError, SourceError

logger = logging.getLogger(__name__)

_ENDINGS = (".cif", ".vasp", ".poscar", ".json", ".gz")


class StructureFolder(EntrySource):
    """Reads a folder, or a tar archive of one, of CIF, POSCAR or ASE-JSON files.

    Args:
        fields: Label name to its column in the table: ``1`` is the first one after the id,
            ``1:301`` columns 1 to 300 as one vector; with a ``header`` the names as well.
        table: Name of the table, id first; if empty, every file that ``file`` matches is read.
        file: Name of a record's file, made of its row: ``{0}`` is the id.
        header: Whether the table's first row names its columns.
        **entry: How an entry is understood; see ``EntrySource``.
    """

    default_id = "{0}"

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        *,
        table: str = "id_prop.csv",
        file: str = "{0}.cif",
        header: bool = False,
        **entry: Any,
    ) -> None:
        super().__init__(fields, structure="@structure", **entry)
        self._table, self._file, self._header = table, file, header

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows of the table in order, or the files by name.

        Raises:
            SourceError: If the table cannot be read, or no file matches.
        """
        pattern = fill(self._file, "file", {"0": "*", "file": "*"}) if "{" in self._file else ""
        with _folder(uri, self._table or pattern or self._file) as folder:
            listed = set()
            for number, row in self._rows(uri, folder, pattern):
                where = f"{uri}: {self._table or 'file'}, row {number} ({row.get('0', '')})"
                try:
                    name = fill(self._file, "file", row)
                    path = _inside(folder, name)
                    if not path.is_file():
                        raise RecordError(f"there is no file {name} in {uri}")
                    text = path.read_text(encoding="utf-8", errors="replace")
                except RecordError as error:
                    yield BadRecord(where, error)
                    continue
                listed.add(path.name)
                context = {"number": number, "row": number + 1, "file": Path(uri).name}
                yield Piece(where, (context, {**row, "@structure": text}))
            self._warn_unlisted(uri, folder, pattern, listed)

    def _rows(self, uri: str, folder: Path, pattern: str) -> Iterator[tuple[int, dict[str, str]]]:
        if not self._table:
            for number, path in enumerate(sorted(folder.glob(pattern or self._file))):
                yield number, {"0": _without_ending(path.name), "file": path.name}
            return
        with open_text(str(folder / self._table)) as stream:
            names: list[str] = []
            number = 0
            for row in csv.reader(stream):
                if not row:
                    continue
                if self._header and not names:
                    names = [name.strip() for name in row]
                    continue
                cells = {str(column): text.strip() for column, text in enumerate(row)}
                yield number, cells | dict(zip(names, cells.values(), strict=False))
                number += 1

    def _warn_unlisted(self, uri: str, folder: Path, pattern: str, listed: set[str]) -> None:
        suffix = Path(next(iter(listed), pattern)).suffix
        unlisted = {file.name for file in folder.glob(f"*{suffix}")} - listed - {self._table}
        if unlisted and suffix:
            logger.warning(
                "%s: %d %s files are not listed in %s and were not read, e.g. %s",
                uri, len(unlisted), suffix, self._table, min(unlisted),
            )  # fmt: skip


def _inside(folder: Path, name: str) -> Path:
    """Returns the path of file ``name``, which must not lead out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RecordError(f"the file {name!r} lies outside of the folder")
    return path


def _without_ending(name: str) -> str:
    while Path(name).suffix.lower() in _ENDINGS:
        name = Path(name).stem
    return name


@contextmanager
def _folder(uri: str, wanted: str) -> Iterator[Path]:
    """Gives the folder that holds ``wanted``; an archive is unpacked into a temporary one."""
    path = Path(uri)
    if path.is_dir():
        if not any(path.glob(wanted)):
            raise SourceError(f"{uri} holds no {wanted}")
        yield path
        return
    if not path.exists():
        raise SourceError(f"there is no folder {uri!r}")
    with TemporaryDirectory() as temporary:
        try:
            with tarfile.open(path) as archive:
                _refuse_bomb(path, archive)
                archive.extractall(temporary, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SourceError(
                f"{uri} is neither a folder nor a readable tar archive: {error}"
            ) from error
        found = sorted(Path(temporary).rglob(wanted))
        if not found:
            raise SourceError(f"{uri} holds no {wanted}")
        yield found[0].parent


def _refuse_bomb(path: Path, archive: tarfile.TarFile) -> None:
    total, limit = 0, max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
    for member in archive:
        total += member.size
        if total > limit:
            raise SourceError(
                f"{path} expands to more than {limit >> 20} MiB, over {BOMB_RATIO} times its size: "
                "a decompression bomb? If it is not, unpack it yourself"
            )

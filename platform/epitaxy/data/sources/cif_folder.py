"""A folder of CIF files with a table of targets: the layout of the original CGCNN code."""

from __future__ import annotations

import csv
import logging
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from epitaxy.data.sources.contract import BadRecord, FieldRule, read_labels
from epitaxy.data.sources.files import open_text
from epitaxy.data.sources.structures import parse_cif
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

logger = logging.getLogger(__name__)


class CifFolder:
    """Reads a folder, or a ``.tar`` / ``.tar.gz`` of one, with ``<id>.cif`` files and a table.

    Args:
        fields: Label name to its column in the table: ``1`` is the first one after the id.
        table: Name of the table: no header, id first.
    """

    def __init__(self, fields: Mapping[str, FieldRule], table: str = "id_prop.csv") -> None:
        self._fields = fields
        self._table = table

    def read(self, uri: str) -> Iterator[CrystalRecord | BadRecord]:
        """Yields the rows of the table in order.

        Raises:
            SourceError: If the table cannot be read.
        """
        with _folder(uri, self._table) as folder:
            path = folder / self._table
            listed = set()
            with open_text(str(path)) as stream:
                for number, row in enumerate(csv.reader(stream)):
                    if not row:
                        continue
                    listed.add(f"{row[0].strip()}.cif")
                    try:
                        yield self._record(uri, folder, row)
                    except RecordError as error:
                        yield BadRecord(f"{uri}: {self._table}, row {number} ({row[0]})", error)
            unlisted = {file.name for file in folder.glob("*.cif")} - listed
            if unlisted:
                logger.warning(
                    "%s: %d CIF files are not listed in %s and were not read, e.g. %s",
                    uri, len(unlisted), self._table, min(unlisted),
                )  # fmt: skip

    def _record(self, uri: str, folder: Path, row: list[str]) -> CrystalRecord:
        identity = row[0].strip()
        cells = {str(column): text.strip() for column, text in enumerate(row)}
        path = folder / f"{identity}.cif"
        if not path.is_file():
            raise RecordError(f"there is no file {path.name} in {uri}")
        text = path.read_text(encoding="utf-8", errors="replace")
        return CrystalRecord(
            identity,
            *parse_cif(text, f"{uri}: {path.name}"),
            labels=read_labels(self._fields, lambda rule: cells[rule.key] or None, cells),
        )


@contextmanager
def _folder(uri: str, table: str) -> Iterator[Path]:
    """Gives the folder of the table; an archive is unpacked into a temporary one."""
    path = Path(uri)
    if path.is_dir():
        yield path
        return
    with TemporaryDirectory() as temporary:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(temporary, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SourceError(
                f"{uri} is neither a folder nor a readable tar archive: {error}"
            ) from error
        found = sorted(Path(temporary).rglob(table))
        if not found:
            raise SourceError(f"{uri} holds no {table}")
        yield found[0].parent

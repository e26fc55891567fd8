"""Where the records of a data set come from, and whether that is what the recipe was made for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from epitaxy.data.intake import Place
from epitaxy.data.magpie import check_fingerprint
from epitaxy.data.manifest import Manifest, tree_bytes, tree_sha256
from epitaxy.data.parse import Item, Parser, Sieve
from epitaxy.data.recipe import Recipe
from epitaxy.data.sources.contract import PieceSource, Source
from epitaxy.data.sources.files import expand
from epitaxy.errors import ConfigError

logger = logging.getLogger(__name__)


@runtime_checkable
class Restartable(Protocol):
    """Records of a program that an interrupted import can take up again.

    Attributes:
        identity: Changes whenever the records do.
    """

    identity: str

    def since(self, number: int) -> Iterator[Item]:
        """Yields the records from ``number`` on."""
        ...


@dataclass(frozen=True)
class Origin:
    """Files with the source that reads them, or records that a program gives.

    Attributes:
        uri: What the user named; empty for records.
        paths: The files.
        source: Reads them.
        records: The records.
        recipe: How to read and what to leave out.
    """

    uri: str = ""
    paths: tuple[str, ...] = ()
    source: Source | None = None
    records: Iterable[Item] = ()
    recipe: Recipe | None = None
    _files: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, source: str | Path | Iterable[Item], recipe: Recipe | None) -> Origin:
        """Returns the origin that ``prepare`` was called with.

        Raises:
            ConfigError: If a path comes without a recipe.
            SourceError: If a file does not exist.
        """
        if not isinstance(source, (str, Path)):
            return cls(records=source, recipe=recipe)
        if recipe is None:
            raise ConfigError(f"reading {source} needs a recipe")
        reader, paths = recipe.open_source(), tuple(expand(str(source)))
        origin = cls(str(source), paths, reader, recipe=recipe)
        origin._files.extend(_description(path, recipe) for path in paths if Path(path).exists())
        return origin

    def parser(self, symmetry: bool, fingerprint: str | None = None) -> Parser:
        """Returns what turns the items into records.

        Raises:
            ConfigError: If there is no such fingerprint, or matminer is not installed.
        """
        source = self.source if isinstance(self.source, PieceSource) else None
        recipe = self.recipe
        sieve = Sieve.from_dict(recipe.filter if recipe else {})
        symmetry = symmetry or bool(recipe and recipe.symmetry)
        fingerprint = fingerprint or (recipe.fingerprint if recipe else None)
        check_fingerprint(fingerprint)
        return Parser(source, sieve, symmetry, fingerprint)

    @property
    def files(self) -> tuple[str, ...]:
        """What a place may name, in order."""
        return self.paths if self.source is not None else ("",)

    @property
    def identity(self) -> dict[str, Any] | None:
        """What tells whether the records are the same as another time; ``None`` if nothing can."""
        if self.source is None:
            records: Any = self.records
            return {"records": records.identity} if isinstance(records, Restartable) else None
        recipe = self.recipe.to_dict() if self.recipe else {}
        return {"source files": [list(self.paths), self._files], "recipe": recipe}

    def items(self, after: Place | None = None) -> Iterator[tuple[Place, Item]]:
        """Yields (place, item) of every record, good or bad, or of those behind a place."""
        file, number = after or ("", -1)
        if self.source is None:
            rest = self._records_from(number + 1)
            yield from ((("", place), item) for place, item in enumerate(rest, number + 1))
            return
        start = self.paths.index(file) if after else 0
        for path in self.paths[start:]:
            numbered = enumerate(self._walk(self.source, path))
            for place, item in islice(numbered, number + 1 if path == file else 0, None):
                yield (path, place), item

    def _records_from(self, number: int) -> Iterator[Item]:
        if number and isinstance(self.records, Restartable):
            return self.records.since(number)
        return islice(self.records, number, None)

    @staticmethod
    def _walk(source: Source, path: str) -> Iterable[Item]:
        return source.pieces(path) if isinstance(source, PieceSource) else source.read(path)

    def total(self) -> int | None:
        """Returns how many records there are, where it is known without reading them."""
        if isinstance(self.records, Sized) and self.source is None:
            return len(self.records)
        return self._total_of_files()

    def _total_of_files(self) -> int | None:
        """Returns the number of records that the recipe knows for exactly these files."""
        known = self.recipe.files if self.recipe else {}
        total = 0
        for entry in self._files:
            told = known.get(Path(entry["path"]).name, {})
            if told.get("sha256") != entry["sha256"] or "records" not in told:
                return None
            total += int(told["records"])
        return total or None

    def description(self) -> dict[str, Any]:
        """Returns the files with their sizes and checksums, for the manifest."""
        return {"uri": self.uri, "files": self._files}


def _description(path: str, recipe: Recipe) -> dict[str, Any]:
    entry = {"path": path, "bytes": tree_bytes(Path(path)), "sha256": tree_sha256(Path(path))}
    known = recipe.files.get(Path(path).name)
    if known and known.get("sha256") not in (None, entry["sha256"]):
        logger.warning(
            "%s is not the file that recipe %s was checked on (another checksum): look at the "
            "evidence that the data card states for its units and signs", path, recipe.name,
        )  # fmt: skip
    return entry


def warn(manifest: Manifest, recipe: Recipe | None, out: str) -> None:
    """Logs what the user should know about a finished data set."""
    absent = set(recipe.fields if recipe else ()) - {field.name for field in manifest.fields}
    for name in sorted(absent):
        logger.warning("label %r of the recipe occurs in no record", name)
    for rule, count in manifest.filtered.items():
        logger.info("%d records left out: %s", count, rule)
    if manifest.skipped.count:
        logger.warning(
            "%d bad records were skipped, %d kept; the first: %s; all are listed in %s",
            manifest.skipped.count,
            manifest.num_records,
            ": ".join(manifest.skipped.listed[0]),
            f"{out}/skipped.jsonl",
        )
    found = manifest.num_records + manifest.skipped.count + sum(manifest.filtered.values())
    if recipe and recipe.size and found != recipe.size:
        logger.info("the complete original has %d records, this source has %d", recipe.size, found)

"""Where the records of a data set come from, and whether that is what the recipe was made for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epitaxy.data.intake import Place
from epitaxy.data.manifest import Manifest, tree_bytes, tree_sha256
from epitaxy.data.parse import Item, Parser, Sieve
from epitaxy.data.recipe import Recipe
from epitaxy.data.sources.contract import PieceSource, Source
from epitaxy.data.sources.files import expand
from epitaxy.errors import ConfigError

logger = logging.getLogger(__name__)


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

    def parser(self, symmetry: bool) -> Parser:
        """Returns what turns the items into records."""
        source = self.source if isinstance(self.source, PieceSource) else None
        recipe = self.recipe
        sieve = Sieve.from_dict(recipe.filter if recipe else {})
        return Parser(source, sieve, symmetry or bool(recipe and recipe.symmetry))

    def items(self) -> Iterator[tuple[Place, Item]]:
        """Yields (place, item) of every record, good or bad."""
        if self.source is None:
            yield from ((("", number), item) for number, item in enumerate(self.records))
            return
        for path in self.paths:
            reader = self.source
            walked: Iterable[Item] = (
                reader.pieces(path) if isinstance(reader, PieceSource) else reader.read(path)
            )
            for number, item in enumerate(walked):
                yield (path, number), item

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


def warn(manifest: Manifest, recipe: Recipe | None, out: Path) -> None:
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
            out / "skipped.jsonl",
        )
    found = manifest.num_records + manifest.skipped.count + sum(manifest.filtered.values())
    if recipe and recipe.size and found != recipe.size:
        logger.info("the complete original has %d records, this source has %d", recipe.size, found)

"""The journal of an import: which shards are finished, and what it takes to go on after a kill.

It lies beside the shards while they are written. Every line states a finished shard with checksums
of its files, so that whatever a kill or a power loss tore is noticed and written again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from epitaxy.data.intake import Place
from epitaxy.data.manifest import FileEntry, ShardEntry, check_content
from epitaxy.errors import ShardError

FILE_NAME = "journal.jsonl"
SKIPPED = "skipped.jsonl"
"""File that lists every record that could not be used."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Milestone:
    """A finished shard, and what the import knew when its last record was in.

    Attributes:
        shard: The shard.
        part: Its part of the sidecar arrays.
        place: Where its last record stood in the source.
        skipped: Records skipped so far.
        log_bytes: Size of the list of skipped records.
        filtered: Records that each rule has left out so far.
    """

    shard: ShardEntry
    part: FileEntry
    place: Place
    skipped: int
    log_bytes: int
    filtered: Mapping[str, int]


class Journal:
    """Milestones in a folder; only an import of the same records takes them up.

    Args:
        folder: Where the shards are written.
        identity: What decides the bytes, JSON-ready; ``None`` keeps no journal.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any] | None) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._identity = None if identity is None else json.loads(json.dumps(identity))

    def begin(self) -> list[Milestone]:
        """Empties the folder for an import from the start."""
        _keep_only(self._folder, ())
        self._write(())
        return []

    def resume(self) -> list[Milestone]:
        """Returns the finished shards of an interrupted import of the same records, checked.

        Whatever follows the last of them is removed. A folder that another import left is emptied,
        and a warning says what differs.
        """
        stored, milestones = self._read()
        if stored is None or self._identity is None:
            return self.begin()
        differing = [k for k in self._identity if self._identity[k] != stored.get(k)]
        if differing:
            logger.warning(
                "an interrupted import left finished shards in %s, but of another %s: this one "
                "starts from the beginning", self._folder, ", ".join(differing),
            )  # fmt: skip
            return self.begin()
        good = self._intact(milestones)
        names = [name for m in good for name in (m.shard.path, m.part.path)]
        _keep_only(self._folder, {*names, SKIPPED})
        self._write(good)
        return good

    def add(self, milestone: Milestone) -> None:
        """Notes that a shard is finished."""
        if self._identity is None:
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(milestone), ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def end(self) -> None:
        """Removes the journal of an import that is complete."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any] | None, list[Milestone]]:
        """Returns identity and milestones, up to the first line that a kill has torn."""
        milestones: list[Milestone] = []
        try:
            first, *lines = self._path.read_bytes().splitlines()
            identity: dict[str, Any] = json.loads(first)
        except (OSError, ValueError):
            return None, milestones
        for line in lines:
            try:
                content = json.loads(line)
            except ValueError:
                break
            milestones.append(
                Milestone(
                    ShardEntry(**content.pop("shard")),
                    FileEntry(**content.pop("part")),
                    tuple(content.pop("place")),
                    **content,
                )
            )
        return identity, milestones

    def _intact(self, milestones: Sequence[Milestone]) -> list[Milestone]:
        good: list[Milestone] = []
        log = self._folder / SKIPPED
        logged = log.stat().st_size if log.exists() else 0
        for milestone in milestones:
            try:
                check_content(self._folder, milestone.shard)
                check_content(self._folder, milestone.part)
            except ShardError as error:
                logger.warning("%s; the import goes on from there", error)
                break
            if milestone.log_bytes > logged:
                break
            good.append(milestone)
        return good

    def _write(self, milestones: Sequence[Milestone]) -> None:
        if self._identity is None:
            return
        lines = [self._identity, *map(asdict, milestones)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._path)


def holds_work(folder: Path) -> bool:
    """Whether an import left a finished shard in ``folder``."""
    try:
        with (folder / FILE_NAME).open("rb") as stream:
            return len(stream.read().splitlines()) > 1
    except OSError:
        return False


def _keep_only(folder: Path, names: Collection[str]) -> None:
    """Removes files and shards from ``folder`` but those named, which lie in it or one below."""
    kept = {FILE_NAME, *names, *(Path(name).parent.as_posix() for name in names)}
    below = [path for path in folder.glob("*/*") if path.parent.name in kept - set(names)]
    for path in [*folder.iterdir(), *below]:
        if path.relative_to(folder).as_posix() in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

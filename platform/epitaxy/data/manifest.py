"""``manifest.json``: what a prepared data set holds, with a checksum for every file of it.

It is part of a folder that ``prepare`` renames into place as a whole, so a folder with a manifest
is complete and one without is not a data set. ``append`` makes a further version: new shards, new
sidecar arrays, and a new manifest that takes the place of the old one, which stays as
``manifest-VERSION.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from epitaxy.errors import ConfigError, ShardError, closest
from epitaxy.graph.record import LabelField

FORMAT = 2
"""Newest format of manifest, sidecars and shards this code reads, and the one it writes."""

FILE_NAME = "manifest.json"
REMEDY = "put back an intact copy of it, or prepare the data set again"
"""What to do about a damaged file."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """A file (or a folder taken as one): path relative to the data set, size, checksum."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry(FileEntry):
    """A shard and the rows it holds: ``first`` to ``first + count - 1``."""

    first: int
    count: int


@dataclass(frozen=True)
class Skipped:
    """Records that ``on_error=skip`` left out: all are counted, the first ones listed here.

    Attributes:
        count: How many.
        listed: (where, why) of the first ones; ``skipped.jsonl`` has all of them.
    """

    count: int = 0
    listed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Description of a data set.

    Attributes:
        storage: ``lmdb`` or ``zarr``.
        num_records: Number of records.
        fields: Every label that occurs; a record may lack any of them.
        shards: Shards in row order.
        files: Sidecar arrays and other files, by path.
        data_digest: Hash over the sorted (id, record digest) pairs; the same for every storage.
        source: Where the records came from: uri and checksums of the files read.
        recipe: The recipe, as it was read.
        licence: Licence of the data.
        citation: Whom to cite.
        conversions: For each label what it was converted from, by which factor and sign.
        skipped: Records that could not be used.
        filtered: Rule of the recipe to the number of sound records it left out.
        checks: What physics says of the labels: name, verdict, statement and evidence of each.
        created: UTC time, ISO 8601.
        generator: Version of epitaxy that wrote it.
        version: Number of this version of the data set; ``append`` makes the next.
        parent: Data digest of the version before; empty for the first.
        history: What earlier versions held: version, data_digest, num_records, created.
        format: Version of the layout.
    """

    storage: str
    num_records: int
    fields: tuple[LabelField, ...]
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    data_digest: str
    source: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    conversions: tuple[Mapping[str, Any], ...] = ()
    skipped: Skipped = Skipped()
    filtered: Mapping[str, int] = field(default_factory=dict)
    checks: tuple[Mapping[str, Any], ...] = ()
    created: str = ""
    generator: str = ""
    version: int = 1
    parent: str = ""
    history: tuple[Mapping[str, Any], ...] = ()
    format: int = FORMAT

    @property
    def sidecars(self) -> str:
        """Folder of the sidecar arrays of this version."""
        return versioned("sidecars", self.version)

    def to_json(self) -> str:
        """Returns the manifest as JSON text that carries its own checksum."""
        content = json.loads(json.dumps(asdict(self)))
        if self.version == 1:  # as it was written before there were versions
            for name in ("version", "parent", "history"):
                del content[name]
        content["checksum"] = _checksum(content)
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path, version: int | None = None) -> Manifest:
        """Returns the manifest of the data set in ``folder``: of its newest version by default.

        Raises:
            ShardError: If there is none, it is damaged, or a newer epitaxy wrote it.
            ConfigError: If there is no such version.
        """
        newest = cls._read(folder / FILE_NAME)
        if version in (None, newest.version):
            return newest
        known = [int(entry["version"]) for entry in newest.history]
        if version not in known:
            hint = closest(str(version), map(str, [*known, newest.version]))
            raise ConfigError(f"{folder} has no version {version}; {hint}")
        return cls._read(folder / file_name(version))

    @classmethod
    def _read(cls, path: Path) -> Manifest:
        folder = path.parent
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ShardError(
                f"{folder} is not a prepared data set: it has no {path.name} "
                "(make one with `epitaxy prepare`)"
            ) from error
        except ValueError as error:  # neither JSON nor UTF-8
            raise ShardError(f"{path} is damaged: {error}; prepare the data set again") from error
        return _parse(path, content)


def _parse(path: Path, content: Any) -> Manifest:
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ShardError(f"{path} is no manifest: it states no format; prepare the data set again")
    if content["format"] > FORMAT:
        raise ShardError(
            f"{path} has format {content['format']}, written by a newer epitaxy "
            f"({content.get('generator', 'unknown version')}); this one reads up to {FORMAT}: "
            "upgrade epitaxy or prepare the data set again"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise ShardError(f"{path} is damaged: its checksum does not match; prepare it again")
    try:
        return Manifest(**_typed(content))
    except (TypeError, KeyError) as error:
        raise ShardError(f"{path} is damaged: {error}; prepare the data set again") from error


def _typed(content: dict[str, Any]) -> dict[str, Any]:
    skipped = content["skipped"]
    listed = tuple((where, why) for where, why in skipped["listed"])
    return content | {
        "fields": tuple(
            LabelField(**{**item, "shape": tuple(item["shape"])}) for item in content["fields"]
        ),
        "shards": tuple(ShardEntry(**item) for item in content["shards"]),
        "files": tuple(FileEntry(**item) for item in content["files"]),
        "conversions": tuple(content["conversions"]),
        "checks": tuple(content.get("checks", ())),
        "history": tuple(content.get("history", ())),
        "skipped": Skipped(skipped["count"], listed),
    }


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_name(version: int) -> str:
    """Returns the file that keeps the manifest of an earlier version."""
    return f"manifest-{version}.json"


def versioned(name: str, version: int) -> str:
    """Returns the name of a file or folder in a version: ``skipped-2.jsonl``."""
    stem, dot, ending = name.partition(".")
    return name if version == 1 else f"{stem}-{version}{dot}{ending}"


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Returns the entry of ``path``, a file or a folder of files, inside ``folder``."""
    return FileEntry(path.relative_to(folder).as_posix(), tree_bytes(path), tree_sha256(path))


def tree_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files below a folder."""
    return sum(part.stat().st_size for part in _parts(path))


def tree_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, or one over names and contents of all files of a folder."""
    if path.is_file():
        return _file_sha256(path)
    digest = hashlib.sha256()
    for part in _parts(path):
        digest.update(f"{part.relative_to(path).as_posix()}\0{_file_sha256(part)}\n".encode())
    return digest.hexdigest()


def check_size(folder: Path, entry: FileEntry) -> None:
    """Refuses a file that is missing or of another size than the manifest says.

    Raises:
        ShardError: Naming the file.
    """
    path = folder / entry.path
    if not path.exists():
        raise ShardError(f"{path} is missing; {REMEDY}")
    size = tree_bytes(path)
    if size != entry.bytes:
        raise ShardError(f"{path} is damaged: {size} bytes, expected {entry.bytes}; {REMEDY}")


def check_content(folder: Path, entry: FileEntry) -> None:
    """Refuses a file whose content is not what the manifest says.

    Raises:
        ShardError: Naming the file.
    """
    check_size(folder, entry)
    path = folder / entry.path
    if tree_sha256(path) != entry.sha256:
        raise ShardError(f"{path} is damaged: its checksum does not match; {REMEDY}")


def _parts(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(part for part in path.rglob("*") if part.is_file())


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

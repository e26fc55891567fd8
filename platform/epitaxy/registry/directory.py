"""A registry in a folder, local or remote: no server, no database; for air-gapped sites and S3.

Layout: ``<root>/<name>/versions/<number>/`` holds one published folder and
``<root>/<name>/aliases/<alias>`` the number it points to. A publisher first claims a number by
creating ``claim.json`` exclusively, with the digest of what it is about to upload; ``sha256.json``
is written last, and a version without it does not exist.
"""

from __future__ import annotations

import builtins
import datetime
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from epitaxy.errors import RegistryError, closest
from epitaxy.registry.contract import Reference, Version, check_alias, check_name, settable
from epitaxy.registry.package import (
    HASH_FILE,
    ORIGIN_FILE,
    dump,
    new_folder,
    stage,
    upload,
    verify,
    write_whole,
)

_CLAIM_FILE = "claim.json"
_MAX_CLAIM_ATTEMPTS = 1000


class DirectoryRegistry:
    """Implements ``Registry`` on any fsspec file system.

    Args:
        uri: Folder or URI such as ``/mnt/models``, ``file:///mnt/models`` or ``s3://bucket/models``.
    """

    def __init__(self, uri: str) -> None:
        try:
            self._filesystem, root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise RegistryError(f"cannot open the registry {uri!r}: {error}") from error
        self._root = str(root).rstrip("/")
        self.uri = uri

    def publish(
        self,
        folder: Path,
        name: str,
        *,
        aliases: Sequence[str] = (),
        lineage: Mapping[str, Any] | None = None,
    ) -> Version:
        """See ``Registry.publish``."""
        check_name(name)
        wanted = settable(aliases)
        with tempfile.TemporaryDirectory() as temporary:
            digest = stage(folder, name, lineage, Path(temporary))
            number = self._claim(name, digest)
            upload(Path(temporary), self._filesystem, self._folder(name, number))
        for alias in wanted:
            self.set_alias(name, alias, number)
        return self._version(name, number)

    def resolve(self, reference: str) -> Version:
        """See ``Registry.resolve``."""
        wanted = Reference.parse(reference)
        numbers = self._numbers(wanted.name)
        if not numbers:
            raise RegistryError(
                f"no model {wanted.name!r} in {self.uri}; {closest(wanted.name, self._names())}"
            )
        number = wanted.version or numbers[-1]
        if wanted.alias:
            aliases = self._aliases(wanted.name)
            if wanted.alias not in aliases:
                hint = closest(wanted.alias, [*aliases, "latest"])
                raise RegistryError(f"{wanted.name!r} has no alias {wanted.alias!r}; {hint}")
            number = aliases[wanted.alias]
        if number not in numbers:
            raise RegistryError(f"{wanted.name!r} has no version {number}; it has {numbers}")
        return self._version(wanted.name, number)

    def pull(self, reference: str, destination: Path) -> Path:
        """See ``Registry.pull``."""
        version = self.resolve(reference)
        with new_folder(destination) as folder:
            verify(self._filesystem, version.location, version.digest, copy_to=folder)
            (folder / ORIGIN_FILE).write_bytes(origin(self.uri, version))
        return destination

    def list(self) -> list[Version]:
        """See ``Registry.list``."""
        return [self._version(name, n) for name in self._names() for n in self._numbers(name)]

    def set_alias(self, name: str, alias: str, number: int) -> Version:
        """See ``Registry.set_alias``."""
        version = self.resolve(f"{check_name(name)}@{number}")
        path = f"{self._root}/{name}/aliases/{check_alias(alias)}"
        self._filesystem.makedirs(f"{self._root}/{name}/aliases", exist_ok=True)
        write_whole(self._filesystem, path, str(version.number).encode())
        return self._version(name, number)

    def verify(self, reference: str) -> Version:
        """See ``Registry.verify``."""
        version = self.resolve(reference)
        verify(self._filesystem, version.location, version.digest)
        return version

    def _claim(self, name: str, digest: str) -> int:
        claimed = self._numbers(name, complete=False)
        number = claimed[-1] + 1 if claimed else 1
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        mark = dump({"created": now, "digest": digest})
        for candidate in range(number, number + _MAX_CLAIM_ATTEMPTS):
            folder = self._folder(name, candidate)
            self._filesystem.makedirs(folder, exist_ok=True)
            try:
                self._create(f"{folder}/{_CLAIM_FILE}", mark)
            except FileExistsError:
                continue
            return candidate
        raise RegistryError(f"could not claim a version of {name!r} in {self.uri}")

    def _create(self, path: str, data: bytes) -> None:
        """Writes a file that must not exist; atomic on local disks and on S3."""
        if "file" in self._filesystem.protocol:
            with open(path, "xb") as stream:
                stream.write(data)
        else:
            self._filesystem.pipe_file(path, data, mode="create")

    def _version(self, name: str, number: int) -> Version:
        folder = self._folder(name, number)
        aliases = self._aliases(name)
        path = f"{folder}/{_CLAIM_FILE}"
        try:
            claim = json.loads(self._filesystem.cat_file(path))
            created, digest = str(claim["created"]), str(claim["digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{path} is missing or damaged: {error}") from error
        return Version(
            name=name,
            number=number,
            digest=digest,
            created=created,
            location=self._filesystem.unstrip_protocol(folder),
            aliases=tuple(sorted(alias for alias, n in aliases.items() if n == number)),
        )

    def _names(self) -> builtins.list[str]:
        return sorted(self._children(self._root))

    def _numbers(self, name: str, *, complete: bool = True) -> builtins.list[int]:
        folders = [f for f in self._children(f"{self._root}/{name}/versions") if f.isdigit()]
        numbers = sorted(int(folder) for folder in folders)
        if not complete:
            return numbers
        exists = self._filesystem.exists
        return [n for n in numbers if exists(f"{self._folder(name, n)}/{HASH_FILE}")]

    def _aliases(self, name: str) -> dict[str, int]:
        folder = f"{self._root}/{name}/aliases"
        names = [alias for alias in self._children(folder) if not alias.endswith(".tmp")]
        return {alias: int(self._filesystem.cat_file(f"{folder}/{alias}")) for alias in names}

    def _children(self, folder: str) -> builtins.list[str]:
        self._filesystem.invalidate_cache()
        try:
            entries = self._filesystem.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        return [str(entry).rstrip("/").rpartition("/")[2] for entry in entries]

    def _folder(self, name: str, number: int) -> str:
        return f"{self._root}/{name}/versions/{number:05d}"


def origin(uri: str, version: Version) -> bytes:
    """Returns what a pulled copy remembers of where it came from."""
    return dump({"registry": uri, "reference": version.reference, "digest": version.digest})

"""The default registry: MLflow's model registry for names, versions and aliases.

MLflow remembers; the files are the same folder as in every registry, under an artifact root of
ours. MLflow's own model flavours, which pickle, are not used.
"""

from __future__ import annotations

import builtins
import datetime
import logging
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from epitaxy.errors import RegistryError, closest
from epitaxy.registry.contract import Reference, Version, check_alias, check_name, settable
from epitaxy.registry.directory import origin
from epitaxy.registry.package import ORIGIN_FILE, new_folder, stage, upload, verify

_NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "afs",
    }
    | {"glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "9p", "orangefs"}
)
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_DIGEST_TAG = "epitaxy.digest"


class MlflowRegistry:
    """Implements ``Registry`` on an MLflow database or server.

    Args:
        uri: ``sqlite:///absolute/path.db``, ``postgresql://…`` or an MLflow server's ``http://…``.
        artifacts: Folder or URI of the published files; beside a sqlite file by default.

    Raises:
        RegistryError: If a sqlite file would lie on a network file system, or ``artifacts`` is
            missing for a server.
    """

    def __init__(self, uri: str, artifacts: str | None = None) -> None:
        if uri.startswith("sqlite:///"):
            database = Path(uri.removeprefix("sqlite:///"))
            refuse_network_disk(database)
            database.parent.mkdir(parents=True, exist_ok=True)
            artifacts = artifacts or str(database.parent / "artifacts")
        if not artifacts:
            raise RegistryError(
                f"the registry {uri} needs registry.artifacts=FOLDER_OR_URI for the model files"
            )
        self.uri = _CREDENTIALS.sub("://", uri)
        self._filesystem, root = fsspec.core.url_to_fs(artifacts)
        self._root = str(root).rstrip("/")
        self._client = _client(uri)

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
        target = f"{self._root}/{name}/{uuid.uuid4().hex}"
        with tempfile.TemporaryDirectory() as temporary:
            digest = stage(folder, name, lineage, Path(temporary))
            upload(Path(temporary), self._filesystem, target)
        number = self._register(name, self._filesystem.unstrip_protocol(target), digest)
        for alias in wanted:
            self.set_alias(name, alias, number)
        return self.resolve(f"{name}@{number}")

    def resolve(self, reference: str) -> Version:
        """See ``Registry.resolve``."""
        wanted = Reference.parse(reference)
        versions = self._versions(wanted.name)
        if not versions:
            names = sorted({version.name for version in self.list()})
            raise RegistryError(
                f"no model {wanted.name!r} in {self.uri}; {closest(wanted.name, names)}"
            )
        if wanted.alias:
            found = [v for v in versions if wanted.alias in v.aliases]
            known = [alias for v in versions for alias in v.aliases]
            message = f"has no alias {wanted.alias!r}; {closest(wanted.alias, [*known, 'latest'])}"
        elif wanted.version is not None:
            found = [v for v in versions if v.number == wanted.version]
            numbers = [v.number for v in versions]
            message = f"has no version {wanted.version}; it has {numbers}"
        else:
            found, message = versions[-1:], ""
        if not found:
            raise RegistryError(f"{wanted.name!r} {message}")
        return found[0]

    def pull(self, reference: str, destination: Path) -> Path:
        """See ``Registry.pull``."""
        version = self.resolve(reference)
        with new_folder(destination) as folder:
            verify(self._filesystem, self._files(version), version.digest, copy_to=folder)
            (folder / ORIGIN_FILE).write_bytes(origin(self.uri, version))
        return destination

    def list(self) -> list[Version]:
        """See ``Registry.list``."""
        names = sorted(model.name for model in _pages(self._client.search_registered_models))
        return [version for name in names for version in self._versions(name)]

    def set_alias(self, name: str, alias: str, number: int) -> Version:
        """See ``Registry.set_alias``."""
        version = self.resolve(f"{check_name(name)}@{number}")
        self._client.set_registered_model_alias(name, check_alias(alias), str(version.number))
        return self.resolve(version.reference)

    def verify(self, reference: str) -> Version:
        """See ``Registry.verify``."""
        version = self.resolve(reference)
        verify(self._filesystem, self._files(version), version.digest)
        return version

    def _register(self, name: str, location: str, digest: str) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise RegistryError(f"cannot register {name!r} in {self.uri}: {error}") from error
        created = self._client.create_model_version(name, location, tags={_DIGEST_TAG: digest})
        return int(created.version)

    def _versions(self, name: str) -> builtins.list[Version]:
        def search(**page: Any) -> Any:
            return self._client.search_model_versions(f"name='{name}'", **page)

        # Another client's models, which hold no digest of ours, are none of ours.
        ours = [found for found in _pages(search) if _DIGEST_TAG in found.tags]
        aliases = self._client.get_registered_model(name).aliases if ours else {}
        versions = [_version(found, aliases) for found in ours]
        return sorted(versions, key=lambda version: version.number)

    def _files(self, version: Version) -> str:
        return str(self._filesystem._strip_protocol(version.location))


def refuse_network_disk(path: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Refuses to keep a sqlite file where locks do not work across machines.

    Raises:
        RegistryError: If ``path`` is on a network file system (Linux; elsewhere nothing is known).
    """
    if not mounts.exists():
        return
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        where = fields[1].replace("\\040", " ")
        if path.resolve().is_relative_to(where) and len(where) >= len(best):
            best, kind = where, fields[2]
    if kind in _NETWORK_FILE_SYSTEMS:
        raise RegistryError(
            f"{path} is on a network file system ({kind} at {best}), where sqlite loses data; use "
            f"a folder registry (registry.uri={path.parent / 'models'}), PostgreSQL or an MLflow "
            "server, and set EPITAXY_HOME or registry.uri accordingly"
        )


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for talker in ("alembic", "mlflow.store.db.utils"):  # a page of migrations at first use
        logging.getLogger(talker).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of what SQLAlchemy deprecates
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _pages(search: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(max_results=100, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _version(found: Any, aliases: Mapping[str, Any]) -> Version:
    created = datetime.datetime.fromtimestamp(found.creation_timestamp / 1000, datetime.UTC)
    return Version(
        name=found.name,
        number=int(found.version),
        digest=found.tags[_DIGEST_TAG],
        created=created.isoformat(timespec="seconds"),
        location=found.source,
        aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == int(found.version))),
    )

"""Data sets behind a URI (``s3://``, ``gs://``, ``https://``, ``file://``, …), by fsspec.

Manifest, sidecar arrays and splits are mirrored to a local folder, where everything else finds
them. LMDB shards are fetched whole into the cache when they are first read; Zarr shards are read by
ranges. Every file is checked against the manifest before anybody sees it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from epitaxy.data.cache import Cache, cache_bytes, cache_folder
from epitaxy.data.manifest import FILE_NAME, FileEntry, Manifest, file_name, tree_sha256
from epitaxy.data.split_files import FOLDER as SPLITS
from epitaxy.errors import ConfigError, EpitaxyError, ShardError, closest

TRIES = 4
"""Attempts at every request before it is given up."""
PAUSE_S = 0.5
"""Before the second attempt; doubled for each that follows."""
CONNECT_S, STALL_S = 30.0, 60.0
"""Longest wait of HTTP for a connection, and for the next bytes."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """Where the shards of an open data set are.

    Attributes:
        uri: Of the data set.
        cache: Takes LMDB shards.
    """

    uri: str
    cache: Cache

    def place(self, entry: FileEntry, storage: str) -> Path | str:
        """Returns where a shard can be read: a local file, or the URI of one read by ranges.

        Raises:
            ShardError: If it cannot be fetched.
        """
        uri = f"{self.uri}/{entry.path}"
        if storage == "zarr":
            return uri
        return self.cache.place(entry, lambda path: fetch(uri, path, entry))


def is_uri(place: str | Path) -> bool:
    """Whether ``place`` is a URI rather than a path."""
    return "://" in str(place)


def open_remote(
    uri: str, version: int | None = None, limit: int | None = None
) -> tuple[Remote, Path]:
    """Mirrors the small files of a data set; returns its shards' place and the mirror.

    Args:
        uri: Of the data set.
        version: Which one; the newest by default.
        limit: Bytes of the shard cache; ``EPITAXY_CACHE_BYTES`` by default.

    Raises:
        ConfigError: If the protocol is unknown or its package is missing.
        ShardError: If there is no data set, it is damaged, or it cannot be fetched.
    """
    uri = uri.rstrip("/")
    content = read(f"{uri}/{FILE_NAME}")
    key = hashlib.sha256(f"{uri}\0".encode() + content).hexdigest()[:32]
    mirror = cache_folder("data") / key / uri.rpartition("/")[2]
    mirror.mkdir(parents=True, exist_ok=True)
    _write(mirror / FILE_NAME, content)
    newest = Manifest.load(mirror)
    for entry in newest.history:
        name = file_name(int(entry["version"]))
        if not (mirror / name).exists():
            _write(mirror / name, read(f"{uri}/{name}"))
    for file in Manifest.load(mirror, version).files:
        path = mirror / file.path
        if not (path.exists() and path.stat().st_size == file.bytes):
            fetch(f"{uri}/{file.path}", path, file)
    _mirror_splits(uri, mirror)
    return Remote(uri, Cache(cache_folder("shards"), limit or cache_bytes())), mirror


def read(uri: str) -> bytes:
    """Returns the content of a small remote file.

    Raises:
        ShardError: If it cannot be read.
    """

    def attempt() -> bytes:
        files, path = filesystem(uri)
        content: bytes = files.cat_file(path)
        return content

    return persistent(uri, attempt)


def fetch(uri: str, path: Path, entry: FileEntry) -> None:
    """Copies a remote file to ``path``, which appears complete and checked or not at all.

    Raises:
        ShardError: If it cannot be fetched, or is not what the manifest says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)

    def attempt() -> None:
        files, remote = filesystem(uri)
        files.get_file(remote, str(part))
        size = part.stat().st_size
        if size != entry.bytes:
            raise OSError(f"{size} bytes came, the manifest says {entry.bytes}")
        if tree_sha256(part) != entry.sha256:
            raise OSError("what came has another checksum than the manifest says")
        part.replace(path)

    try:
        persistent(uri, attempt)
    finally:
        part.unlink(missing_ok=True)


def filesystem(uri: str) -> tuple[Any, str]:
    """Returns the file system of ``uri`` and the path in it.

    Raises:
        ConfigError: If the protocol is unknown or its package is missing.
    """
    import fsspec
    from fsspec.registry import known_implementations

    protocol = uri.partition("://")[0]
    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            limits = aiohttp.ClientTimeout(None, sock_connect=CONNECT_S, sock_read=STALL_S)
            options["client_kwargs"] = {"timeout": limits}
        files, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        hint = known_implementations.get(protocol, {}).get("err", str(error))
        raise ConfigError(
            f"{uri}: reading {protocol}:// needs another package: {hint} (pip install "
            f"{_PACKAGES.get(protocol, 'it')})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{uri}: {error}; {closest(protocol, known_implementations)}") from error
    return files, path


_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"} | {
    "http": "aiohttp", "https": "aiohttp", "ssh": "paramiko", "sftp": "paramiko",
}  # fmt: skip


def persistent(uri: str, attempt: Callable[[], T]) -> T:
    """Returns what ``attempt`` returns; tries again what may be a passing trouble.

    Raises:
        ShardError: If it is none, or does not pass.
    """
    for number in range(1, TRIES):
        try:
            return attempt()
        except Exception as error:  # every protocol has exceptions of its own
            if _is_final(error):
                raise _explained(uri, error) from error
            logger.warning("%s: try %d of %d failed: %s", uri, number, TRIES, error)
            time.sleep(PAUSE_S * 2 ** (number - 1))
    try:
        return attempt()
    except Exception as error:
        raise _explained(uri, error) from error


def _is_final(error: Exception) -> bool:
    return isinstance(
        error, (EpitaxyError, FileNotFoundError, NotImplementedError)
    ) or _is_forbidden(error)


def _is_forbidden(error: Exception) -> bool:
    status = getattr(error, "status", None)
    named = "Credentials" in type(error).__name__
    return isinstance(error, PermissionError) or status in (401, 403) or named


def _explained(uri: str, error: Exception) -> EpitaxyError:
    """Returns what to tell the user."""
    if isinstance(error, EpitaxyError):
        return error
    if isinstance(error, NotImplementedError):
        return ConfigError(f"{uri} cannot be written: its protocol only reads")
    if isinstance(error, FileNotFoundError):
        return ShardError(
            f"there is no {uri}: is the address right, does the bucket exist, and was the data set "
            "copied completely?"
        )
    if _is_forbidden(error):
        return ShardError(
            f"{uri} may not be read: {error}; set the credentials that its protocol uses (for "
            "s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) where this runs"
        )
    return ShardError(
        f"{uri} failed in {TRIES} tries, the last by {type(error).__name__}: {error}. If it goes "
        "on, the copy there is damaged (copy it again) or the network is down"
    )


def _mirror_splits(uri: str, mirror: Path) -> None:
    """Fetches the stored splits, where the protocol can list files."""
    files, root = filesystem(uri)
    try:
        names = files.ls(f"{root}/{SPLITS}", detail=False)
    except Exception:  # a folder that is missing, or a server that lists nothing
        return
    for name in (str(path).rpartition("/")[2] for path in names):
        if name.endswith(".json"):
            (mirror / SPLITS).mkdir(exist_ok=True)
            _write(mirror / SPLITS / name, read(f"{uri}/{SPLITS}/{name}"))


def _write(path: Path, content: bytes) -> None:
    part = _part(path)
    part.write_bytes(content)
    part.replace(path)


def _part(path: Path) -> Path:
    """Returns where a file is written before it appears; another for every thread."""
    return path.with_name(f".{path.name}.part-{os.getpid()}-{threading.get_ident()}")

"""Copies of a data set: from a folder to a URI, back, or between two of either kind.

What was fetched is checked against the manifest. At a URI the manifest is written last, so that a
copy that was cut off is no data set; the same call goes on with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from epitaxy.data.cache import cache_folder
from epitaxy.data.dataset import Dataset
from epitaxy.data.manifest import FILE_NAME, Manifest, check_content, file_name
from epitaxy.data.remote import filesystem, is_uri, persistent, read
from epitaxy.data.split_files import FOLDER as SPLITS
from epitaxy.data.staging import staging
from epitaxy.errors import ConfigError

MARKER = "copying.txt"
"""File at a URI while a copy is made there: the data digest of what is copied."""


def copy_data_set(
    source: str | Path, out: str | Path, *, overwrite: bool = False, progress: bool = True
) -> Manifest:
    """Copies a data set with its splits and earlier versions, byte by byte.

    Args:
        source: Folder or URI.
        out: Folder or URI; appears complete or not at all.
        overwrite: Whether a data set that is there already may be replaced.
        progress: Whether to show a progress bar (on a terminal).

    Returns:
        Its manifest.

    Raises:
        ConfigError: If ``out`` exists, or a URI needs another package.
        ShardError: If something cannot be read or written, or is damaged.
    """
    dataset = Dataset.open(source)
    total = sum(entry.bytes for entry in (*dataset.manifest.shards, *dataset.manifest.files))
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=None if progress else True)
    with bar:
        if is_uri(out):
            _upload(dataset, str(out).rstrip("/"), overwrite, bar)
        else:
            with staging(Path(out).resolve(), overwrite=overwrite) as folder:
                for name in _files(dataset):
                    _copy(dataset, name, folder / name)
                    bar.update((folder / name).stat().st_size)
                for entry in (*dataset.manifest.shards, *dataset.manifest.files):
                    check_content(folder, entry)
    return dataset.manifest


@contextmanager
def destination(out: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Gives a local folder for what will be at ``out``: for a URI one that is copied there at last.

    A folder for a URI stays where it is after a failure, so that the next call goes on with it.

    Raises:
        ConfigError: If there is a data set at the URI that must not be replaced.
    """
    if not is_uri(out):
        yield Path(out).resolve()
        return
    uri = str(out).rstrip("/")
    _check_free(uri, overwrite)
    home = cache_folder("outgoing") / sha256(uri.encode()).hexdigest()[:32]
    folder = home / uri.rpartition("/")[2]
    if (folder / FILE_NAME).exists():  # complete, but the copying was cut off
        shutil.rmtree(folder)
    yield folder
    copy_data_set(folder, uri, overwrite=overwrite)
    shutil.rmtree(home)


def _files(dataset: Dataset) -> list[str]:
    """Returns every file of a data set by relative path, the manifest last."""
    old = [int(entry["version"]) for entry in dataset.manifest.history]
    manifests = [dataset.manifest, *(Manifest.load(dataset.path, version) for version in old)]
    entries = {entry.path for m in manifests for entry in (*m.shards, *m.files)}
    splits = [f"{SPLITS}/{path.name}" for path in sorted((dataset.path / SPLITS).glob("*.json"))]
    names = [leaf for name in sorted(entries) for leaf in _leaves(dataset, name)]
    return [*names, *splits, *map(file_name, old), FILE_NAME]


def _leaves(dataset: Dataset, name: str) -> list[str]:
    """Returns the files of which a file or Zarr shard consists."""
    local = dataset.path / name
    if dataset.remote is None or local.exists():
        found = [path for path in local.rglob("*") if path.is_file()]
        return sorted(path.relative_to(dataset.path).as_posix() for path in found) or [name]
    files, root = filesystem(dataset.remote.uri)
    paths = persistent(f"{dataset.remote.uri}/{name}", lambda: files.find(f"{root}/{name}"))
    return sorted(path[path.index(f"/{name}") + 1 :] for path in paths) or [name]


def _copy(dataset: Dataset, name: str, target: Path) -> None:
    """Copies one file of a data set to a local path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if dataset.remote is None or (dataset.path / name).exists():
        shutil.copyfile(dataset.path / name, target)
        return
    uri = f"{dataset.remote.uri}/{name}"
    files, path = filesystem(uri)
    persistent(uri, lambda: files.get_file(path, str(target)))


def _upload(dataset: Dataset, uri: str, overwrite: bool, bar: tqdm[Any]) -> None:
    """Copies everything to ``uri``, what an interrupted copy left out first and the manifest last.

    While it lasts a marker there says of which data set this is the copy.
    """
    _check_free(uri, overwrite)
    files, root = filesystem(uri)
    begun = _is_begun(uri, dataset.data_digest)
    if not begun:
        with suppress(FileNotFoundError):
            files.rm(root, recursive=True)
        files.makedirs(root, exist_ok=True)
        _put(uri, MARKER, dataset.data_digest.encode())
    with TemporaryDirectory() as folder:
        for name in _files(dataset):
            local = dataset.path / name
            if not local.exists():
                local = Path(folder) / "part"
                _copy(dataset, name, local)
            size = local.stat().st_size
            if name == FILE_NAME or not (begun and _remote_size(uri, name) == size):
                _put(uri, name, local)
            bar.update(size)
    files.rm(f"{root}/{MARKER}")


def _put(uri: str, name: str, content: Path | bytes) -> None:
    files, path = filesystem(f"{uri}/{name}")

    def attempt() -> None:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        if isinstance(content, bytes):
            files.pipe_file(path, content)
        else:
            files.put_file(str(content), path)

    persistent(f"{uri}/{name}", attempt)


def _remote_size(uri: str, name: str) -> int | None:
    files, path = filesystem(f"{uri}/{name}")
    try:
        size: int = files.info(path)["size"]
    except FileNotFoundError:
        return None
    return size


def _is_begun(uri: str, digest: str) -> bool:
    """Whether an interrupted copy of the same records is there."""
    return _remote_size(uri, MARKER) is not None and read(f"{uri}/{MARKER}") == digest.encode()


def _check_free(uri: str, overwrite: bool) -> None:
    if _remote_size(uri, FILE_NAME) is not None and not overwrite:
        if _remote_size(uri, MARKER) is not None:
            return  # all but the marker's removal was done
        raise ConfigError(f"there is a data set at {uri} already; say overwrite=true to replace it")

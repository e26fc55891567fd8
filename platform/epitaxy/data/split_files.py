"""Stored splits: ``DATA/splits/NAME.json``, lists of ids beside the manifest.

Ids, never rows: the same records in another order or another storage keep their split. A file
carries its own checksum and the digest of the data it was made for. It is part of the folder, not
of the data set: adding one changes neither manifest nor data digest, and preparing the data set
again removes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from epitaxy.data.id_lists import check_disjoint
from epitaxy.data.names import Names, find_rows
from epitaxy.data.split_rules import SPLITS, Rows, rows_of_ids
from epitaxy.errors import ConfigError, ShardError, closest

FORMAT = 1
"""Newest format that this code reads, and the one it writes."""

FOLDER = "splits"
_ENDING = ".json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

logger = logging.getLogger(__name__)


class Home(Protocol):
    """What a split is stored with; a ``Dataset`` has it."""

    path: Path

    @property
    def ids(self) -> np.ndarray:
        """Record ids, (records,) of str."""
        ...

    @property
    def id_names(self) -> Names:
        """Record ids, not decoded."""
        ...

    @property
    def data_digest(self) -> str:
        """Hash over all records."""
        ...


@dataclass(frozen=True)
class StoredSplit:
    """A split that was read.

    Attributes:
        name: Its name.
        rows: Rows of ``train``, ``val`` and ``test``, each in ascending order.
        settings: How it was made.
        data_digest: Of the data set it was made for.
    """

    name: str
    rows: Mapping[str, Rows]
    settings: Mapping[str, Any]
    data_digest: str


def check_name(name: str) -> None:
    """Refuses what cannot be a file name everywhere.

    Raises:
        ConfigError: Saying what a name may hold.
    """
    if not _NAME.fullmatch(name) or name.endswith(_ENDING):
        raise ConfigError(
            f"a split cannot be named {name!r}: use letters, digits, '.', '_' and '-', beginning "
            f"with a letter or digit and without {_ENDING}"
        )


def check_free(data: Home, name: str) -> None:
    """Refuses a name that is taken.

    Raises:
        ConfigError: Saying where the other split lies.
    """
    check_name(name)
    if _path(data, name).exists():
        raise ConfigError(
            f"{data.path} has a split {name!r} already; choose another name, or pass overwrite=True"
        )


def list_splits(data: Home) -> list[str]:
    """Returns the names of the splits stored with a data set, sorted."""
    folder = data.path / FOLDER
    names = [path.name.removesuffix(_ENDING) for path in folder.glob(f"*{_ENDING}")]
    return sorted(name for name in names if _NAME.fullmatch(name))


def save_split(
    data: Home,
    name: str,
    rows_by_split: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Stores a split with its data set and returns the file.

    The file appears complete or not at all.

    Args:
        data: The data set.
        name: Letters, digits, ``.``, ``_`` and ``-``.
        rows_by_split: Rows of ``train``, ``val`` and ``test``; one that is left out is empty.
        settings: How it was made, JSON-ready.
        overwrite: Whether a split of that name may be replaced.

    Raises:
        ConfigError: If the name is wrong or taken, a split is unknown, or the folder cannot be
            written.
        PlanError: If a record occurs twice.
    """
    check_name(name)
    if not overwrite:
        check_free(data, name)
    for split in rows_by_split:
        if split not in SPLITS:
            raise ConfigError(f"a stored split has no part {split!r}; {closest(split, SPLITS)}")
    rows = {name: np.asarray(rows_by_split.get(name, ()), dtype=np.int64) for name in SPLITS}
    lists = {split: sorted(data.ids[part].tolist()) for split, part in rows.items()}
    check_disjoint(lists, f"the split {name!r}")
    content: dict[str, Any] = {
        "format": FORMAT,
        "data_digest": data.data_digest,
        "settings": json.loads(json.dumps(dict(settings))),
        **lists,
    }
    content["checksum"] = _checksum(content)
    path = _path(data, name)
    try:
        _write(path, json.dumps(content, indent=0, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"the split {path} cannot be written: {error}") from error
    return path


def load_split(data: Home, name: str) -> StoredSplit:
    """Returns a split that is stored with a data set.

    One that was made for another version of the data is accepted with a warning as long as every
    id is there.

    Raises:
        ConfigError: If there is none of that name.
        ShardError: If the file is damaged, was edited, or comes from a newer version.
        PlanError: If it names ids that the data set does not have.
    """
    check_name(name)
    path = _path(data, name)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{data.path} has no split {name!r}; {closest(name, list_splits(data))}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ShardError(f"the split {path} cannot be read: {error}") from error
    content = _parse(path, text)
    where = f"the split {path}"
    rows = {split: np.sort(rows_of_ids(data.id_names, content[split], where)) for split in SPLITS}
    check_disjoint({split: content[split] for split in SPLITS}, where)
    if content["data_digest"] != data.data_digest:
        logger.warning(
            "%s was made for other data (digest %s, here %s); all its ids are here, so it is used",
            where, content["data_digest"][:16], data.data_digest[:16],
        )  # fmt: skip
    return StoredSplit(name, rows, content["settings"], content["data_digest"])


def copy_splits(source: Home, target: Home) -> list[Path]:
    """Stores the splits of ``source`` with ``target``, less the ids that it lacks.

    A split of which no id is left is not copied, and said so.

    Returns:
        The files written.

    Raises:
        ConfigError: If ``target`` has a split of the same name.
        ShardError: If a split is damaged.
    """
    present, written = set(target.ids.tolist()), []
    for name in list_splits(source):
        stored = load_split(source, name)
        lists = {split: source.ids[rows].tolist() for split, rows in stored.rows.items()}
        kept = {split: [i for i in ids if i in present] for split, ids in lists.items()}
        lost = {split: len(ids) - len(kept[split]) for split, ids in lists.items()}
        if not any(kept.values()):
            logger.warning("the split %r is not copied: no id of it is in %s", name, target.path)
            continue
        settings = {**stored.settings, **({"left_out": lost} if any(lost.values()) else {})}
        rows = {split: find_rows(target.id_names, ids)[0] for split, ids in kept.items()}
        written.append(save_split(target, name, rows, settings))
    return written


def _path(data: Home, name: str) -> Path:
    return data.path / FOLDER / f"{name}{_ENDING}"


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ShardError(f"the split {path} is damaged: {error}; make it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ShardError(
            f"{path} is no stored split: it states no format. Lists of your own are read with "
            f"split.file={path}"
        )
    if content["format"] > FORMAT:
        raise ShardError(
            f"the split {path} has format {content['format']}, this version reads up to {FORMAT}: "
            "update epitaxy"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise ShardError(
            f"the split {path} is damaged or was edited: its checksum does not match. Make it "
            f"again; lists of your own are read with split.file={path}"
        )
    missing = [key for key in ("data_digest", "settings", *SPLITS) if key not in content]
    if missing:
        raise ShardError(f"the split {path} lacks {', '.join(missing)}; make it again")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

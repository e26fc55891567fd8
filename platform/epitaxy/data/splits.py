"""From ``split.*`` to rows of train, val and test: by a rule, a file of ids, or a stored split."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from epitaxy.build import check_arguments
from epitaxy.data.id_lists import IdLists, read_id_lists
from epitaxy.data.names import find_rows
from epitaxy.data.plan import digest_of
from epitaxy.data.split_files import Home, load_split, save_split
from epitaxy.data.split_rules import (
    SAMPLE,
    SPLITS,
    Columns,
    Rows,
    leaking_groups,
    rows_by_rule,
    rows_of_ids,
    take_units,
    units_of,
)
from epitaxy.errors import ConfigError, PlanError, closest

if TYPE_CHECKING:
    from epitaxy.data.dataset import Dataset
    from epitaxy.data.mixture import Data

MISSING = ("error", "skip")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Records dealt to train, val and test.

    Attributes:
        rows: Rows of ``train``, ``val`` and ``test``, each in ascending order.
        identity: JSON-ready: what decided it. Lists of ids count by content, wherever they lie.
        missing: Ids that a split file names and the data set lacks, by split.
    """

    rows: Mapping[str, Rows]
    identity: Mapping[str, Any]
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def missing_report(self) -> dict[str, Any]:
        """Returns, for each split that lacks ids, how many and the first of them."""
        return {
            name: {"count": len(ids), "ids": list(ids[:SAMPLE])}
            for name, ids in self.missing.items()
            if ids
        }


def make_split(
    dataset: Data,
    *,
    by: str = "group",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    time: str | None = None,
    file: str | Path | None = None,
    fold: int | None = None,
    task: str | None = None,
    val_fraction: float = 0.1,
    missing: str = "error",
    name: str | None = None,
    keys: np.ndarray | None = None,
) -> Split:
    """Returns the split that the settings describe: a pure function of ids and columns.

    Args:
        dataset: The prepared data.
        by: Rule; see ``split_rules.units_of``.
        fractions: Shares of train, val, test.
        sizes: Numbers of records instead of fractions.
        seed: Of the hash that orders units.
        time: Scalar label that dates records, for ``by="time"``.
        file: Lists of ids that replace the rule; see ``id_lists``.
        fold: Fold of a file that has several.
        task: Task of a file that has several.
        val_fraction: Share of a fold's training part that becomes ``val``, in whole units of
            ``by``, if the fold has no list of its own.
        missing: ``error`` or ``skip`` ids of the file that the data set lacks.
        name: Stored split that replaces the rule.
        keys: Unit of each record, for a rule that does not find it in the columns.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a split that was asked for ends empty, or a file names unknown ids or one id
            twice.
        ShardError: If a stored split is damaged.
    """
    _check_sources(file, name, {"fold": fold, "task": task})
    if name is not None:
        stored = load_split(cast("Home", dataset), name)
        return Split(stored.rows, {"ids": _digest(dataset.ids, stored.rows)})
    if file is not None:
        lists = read_id_lists(Path(file), fold=fold, task=task)
        split = _split_by_lists(dataset, lists, f"split file {file}", missing)
        if lists.needs_val:
            units = _units_to_carve(dataset, by, keys)
            split = _carve_val(dataset, split, units, val_fraction, seed)
        return split
    rows = rows_by_rule(
        dataset, by=by, fractions=fractions, sizes=sizes, seed=seed, time=time, keys=keys
    )
    identity: dict[str, Any] = {"by": by, "fractions": fractions, "sizes": sizes, "seed": seed}
    identity |= {} if time is None else {"time": time}
    identity |= {} if keys is None else {"keys": _digest_of_keys(dataset.ids, keys)}
    return Split(rows, identity)


def store_split(
    dataset: Dataset, name: str, settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Makes the split that ``settings`` (arguments of ``make_split``) describe and stores it.

    Returns:
        The file, ``DATA/splits/NAME.json``.

    Raises:
        ConfigError: If a setting or the name is wrong, or the name is taken.
        PlanError: If the split cannot be made.
    """
    check_arguments(make_split, f"split {name!r}", {"dataset": dataset, **settings})
    split = make_split(dataset, **settings)
    told = {key: value for key, value in settings.items() if key != "keys"}
    if split.missing:
        told["missing_ids"] = split.missing_report()
    return save_split(dataset, name, split.rows, told, overwrite=overwrite)


def _check_sources(file: object, name: object, of_file: Mapping[str, object]) -> None:
    if file is not None and name is not None:
        raise ConfigError(f"split.file={file} and split.name={name} exclude each other")
    for setting, value in of_file.items():
        if value is not None and file is None:
            raise ConfigError(
                f"split.{setting}={value} chooses within split.file, which is not set"
            )


def _split_by_lists(data: Columns, lists: IdLists, where: str, if_missing: str) -> Split:
    if if_missing not in MISSING:
        raise ConfigError(f"split.missing is {if_missing!r}; {closest(if_missing, MISSING)}")
    rows, missing = {}, {}
    for name, listed in lists.lists.items():
        if if_missing == "skip":
            found, missing[name] = find_rows(data.id_names, listed)
        else:
            remedy = " split.missing=skip leaves them out and counts them"
            found = rows_of_ids(data.id_names, listed, where, remedy)
        if listed and not len(found):
            raise PlanError(
                f"{where}: the data set has none of the {len(listed)} ids of {name}, such as "
                f"{listed[:SAMPLE]}; its own are like {data.ids[:SAMPLE].tolist()}"
            )
        rows[name] = np.sort(found)
    skipped = sum(len(ids) for ids in missing.values())
    if skipped:
        logger.warning("%s names %d ids that the data set does not have: skipped", where, skipped)
    shared = leaking_groups(data.group_names, rows)
    if shared:
        logger.warning(
            "%s puts %d groups into more than one split, such as %s",
            where, len(shared), shared[:SAMPLE],
        )  # fmt: skip
    return Split(rows, {"file": _digest(data.ids, rows)}, missing)


def _units_to_carve(data: Columns, by: str, keys: np.ndarray | None) -> np.ndarray:
    if by == "time":
        raise ConfigError(
            "split.by=time cannot divide the training part of a fold; use by=group or record"
        )
    return units_of(data, by, keys=keys)


def _carve_val(data: Columns, split: Split, units: np.ndarray, fraction: float, seed: int) -> Split:
    """Moves a share of train to val, in whole units and independent of the order of records."""
    if not 0 <= fraction < 1:
        raise ConfigError(f"split.val_fraction must be from 0 to below 1, got {fraction}")
    train = split.rows["train"]
    size = round(fraction * len(train))
    taken = take_units(units[train], size, seed)
    if fraction and (not taken.any() or taken.all()):
        raise PlanError(
            f"split.val_fraction={fraction:g} of the {len(train)} training records of the fold "
            f"leaves {'val' if not taken.any() else 'train'} empty; change it or split.by"
        )
    rows = {**split.rows, "train": train[~taken], "val": train[taken]}
    return Split(rows, {"file": _digest(data.ids, rows)}, split.missing)


def _digest(ids: np.ndarray, rows: Mapping[str, Rows]) -> str:
    lists = {name: sorted(ids[rows[name]].tolist()) for name in SPLITS}
    return digest_of(json.dumps(lists, sort_keys=True))


def _digest_of_keys(ids: np.ndarray, keys: np.ndarray) -> str:
    pairs = sorted(zip(ids.tolist(), np.asarray(keys).tolist(), strict=True))
    return digest_of(json.dumps(pairs))

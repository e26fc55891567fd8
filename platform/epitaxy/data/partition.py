"""From a data set and settings to the plans of a run: the one place where that happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epitaxy.data.plan import Plan, digest_of
from epitaxy.data.selection import (
    LABEL_OF_LIMIT,
    Selection,
    read_exclude_list,
    require_records,
    select_rows,
)
from epitaxy.data.splits import Rows, leaking_groups, read_id_lists, split_rows
from epitaxy.graph.spec import GraphSpec

if TYPE_CHECKING:
    from epitaxy.data.dataset import Dataset

FILTERED = ("train", "val")
"""The test split is never filtered: a score that leaves the hard records out is no score."""


def make_plans(
    dataset: Dataset,
    *,
    split: Mapping[str, Any],
    filter: Mapping[str, Any],
    batch: Mapping[str, Any],
    spec: GraphSpec,
    seed: int,
) -> tuple[dict[str, Plan], dict[str, Any]]:
    """Returns the plans of ``train`` (shuffled), ``val`` and ``test``, and a JSON-ready report.

    Deterministic: driver and workers call it with the same settings and get the same plans. A
    ``val`` or ``test`` split that was not asked for is a plan without steps.

    Args:
        dataset: The prepared data.
        split: Arguments of ``split_rows``.
        filter: Arguments of ``select_rows``, but ``exclude`` names a file with one id per line.
        batch: ``graphs``, ``edges`` or ``atoms`` per step.
        spec: Graph whose edges are the cost of a record.
        seed: Of the training order.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a split ends empty or names unknown ids.
    """
    splits = split_rows(dataset.ids, dataset.groups, **split)
    excludes = read_exclude_list(Path(filter["exclude"])) if filter.get("exclude") else []
    rules = {**filter, "exclude": excludes, "num_atoms": dataset.num_atoms}
    rules["largest"] = _largest(dataset, filter)
    selections = {name: _select(dataset.ids, name, rows, rules) for name, rows in splits.items()}
    identity = {"split": _split_identity(split), "filter": _filter_identity(filter, excludes)}
    costs = {"edges": dataset.num_edges(spec), "atoms": dataset.num_atoms}
    plans = {
        name: Plan(
            dataset.ids[selection.rows],
            {kind: cost[selection.rows] for kind, cost in costs.items()},
            rows=selection.rows,
            **{kind: batch.get(kind) for kind in ("graphs", "edges", "atoms")},
            seed=seed,
            shuffle=name == "train",
            data_digest=dataset.data_digest,
            selection={"name": name, **identity},
        )
        for name, selection in selections.items()
    }
    report = {
        "records": len(dataset),
        "in_no_split": len(dataset) - sum(len(rows) for rows in splits.values()),
        "groups_in_several_splits": len(leaking_groups(dataset.groups, splits)),
        "splits": {
            name: {**selections[name].report(), "oversized": plan.num_oversized}
            for name, plan in plans.items()
        },
    }
    return plans, report


def _largest(dataset: Dataset, filter: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    if all(filter.get(name) is None for name in LABEL_OF_LIMIT):
        return {}
    return dataset.label_table(np.arange(len(dataset))).largest


def _select(ids: np.ndarray, name: str, rows: Rows, rules: Mapping[str, Any]) -> Selection:
    if name not in FILTERED:
        return Selection(rows, 0, {})
    selection = select_rows(ids, rows, **rules)
    if name == "train" or len(rows):
        require_records(selection.rows, name, selection)
    return selection


def _split_identity(split: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the split: the content of a split file rather than its path."""
    if split.get("file") is not None:
        lists = read_id_lists(Path(split["file"]))
        sorted_lists = {name: sorted(listed) for name, listed in lists.items()}
        return {"file": digest_of(json.dumps(sorted_lists, sort_keys=True))}
    return {name: value for name, value in split.items() if name != "file"}


def _filter_identity(filter: Mapping[str, Any], excludes: list[str]) -> dict[str, Any]:
    return {**filter, "exclude": digest_of("\n".join(sorted(excludes))) if excludes else None}

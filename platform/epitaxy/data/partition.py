"""From a data set and settings to the plans of a run: the one place where that happens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epitaxy.data.plan import Plan, digest_of
from epitaxy.data.selection import (
    LABEL_OF_LIMIT,
    Selection,
    exclude_files,
    read_exclude_list,
    require_records,
    select_rows,
    unknown_excludes,
)
from epitaxy.data.split_rules import SAMPLE, Rows, compositions, leaking_groups
from epitaxy.data.splits import Split, make_split
from epitaxy.graph.spec import GraphSpec

if TYPE_CHECKING:
    from epitaxy.data.dataset import Dataset

FILTERED = ("train", "val")
"""The test split is never filtered: a score that leaves the hard records out is no score.

That holds for exclude lists too: they keep records out of (pre-)training, such as the test
structures of a later task.
"""


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
        split: Arguments of ``make_split``.
        filter: Arguments of ``select_rows``, but ``exclude`` names files with one id per line.
        batch: ``graphs``, ``edges`` or ``atoms`` per step.
        spec: Graph whose edges are the cost of a record.
        seed: Of the training order.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a split ends empty or names unknown ids.
    """
    dealt = make_split(dataset, **split)
    files = exclude_files(filter.get("exclude"))
    excludes = [name for file in files for name in read_exclude_list(Path(file))]
    unknown = unknown_excludes(dataset.ids, excludes)
    rules = {**filter, "exclude": excludes, "num_atoms": dataset.num_atoms}
    rules |= {"largest": _largest(dataset, filter), "heaviest": _heaviest(dataset, filter)}
    selections = {
        name: _select(dataset.ids, name, rows, rules) for name, rows in dealt.rows.items()
    }
    identity = {"split": dealt.identity, "filter": _filter_identity(filter, excludes)}
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
        **_report(dataset, dealt, unknown),
        "splits": {
            name: {**selections[name].report(), "oversized": plan.num_oversized}
            for name, plan in plans.items()
        },
    }
    return plans, report


def _report(dataset: Dataset, dealt: Split, unknown: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "records": len(dataset),
        "in_no_split": len(dataset) - sum(len(rows) for rows in dealt.rows.values()),
        "groups_in_several_splits": len(leaking_groups(dataset.groups, dealt.rows)),
    }
    if missing := dealt.missing_report():
        report["missing_ids"] = missing
    if unknown:
        report["unknown_excludes"] = {"count": len(unknown), "ids": unknown[:SAMPLE]}
    return report


def _largest(dataset: Dataset, filter: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    if all(filter.get(name) is None for name in LABEL_OF_LIMIT):
        return {}
    return dataset.label_table(np.arange(len(dataset))).largest


def _heaviest(dataset: Dataset, filter: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the highest atomic number in each record, if a rule asks for it."""
    if filter.get("max_atomic_number") is None:
        return None
    numbers = np.arange(119)
    return np.concatenate([(numbers * (block > 0)).max(axis=1) for block in compositions(dataset)])


def _select(ids: np.ndarray, name: str, rows: Rows, rules: Mapping[str, Any]) -> Selection:
    if name not in FILTERED:
        return Selection(rows, 0, {})
    selection = select_rows(ids, rows, **rules)
    if name == "train" or len(rows):
        require_records(selection.rows, name, selection)
    return selection


def _filter_identity(filter: Mapping[str, Any], excludes: list[str]) -> dict[str, Any]:
    identity = {**filter, "exclude": digest_of("\n".join(sorted(excludes))) if excludes else None}
    if identity.get("max_atomic_number") is None:  # unknown to plans of earlier versions
        identity.pop("max_atomic_number", None)
    return identity

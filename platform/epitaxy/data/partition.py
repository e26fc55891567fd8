"""From a data set and settings to the plans of a run: the one place where that happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.data.dataset import Dataset
from epitaxy.data.filters import RECORD_RULES, lost_records
from epitaxy.data.mixture import Data, members_of
from epitaxy.data.names import Names
from epitaxy.data.order import SetShare, Shuffle, narrow
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
from epitaxy.errors import ConfigError
from epitaxy.graph.spec import GraphSpec

FILTERED = ("train", "val")
"""The test split is never filtered: a score that leaves the hard records out is no score.

That holds for exclude lists too: they keep records out of (pre-)training, such as the test
structures of a later task.
"""


def make_plans(
    data: Data,
    *,
    split: Mapping[str, Any],
    filter: Mapping[str, Any],
    batch: Mapping[str, Any],
    spec: GraphSpec,
    seed: int,
    mix: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Plan], dict[str, Any]]:
    """Returns the plans of ``train`` (shuffled), ``val`` and ``test``, and a JSON-ready report.

    Deterministic: driver and workers call it with the same settings and get the same plans. A
    ``val`` or ``test`` split that was not asked for is a plan without steps.

    Args:
        data: The prepared data.
        split: Arguments of ``make_split``.
        filter: Limits of ``select_rows``, but ``exclude`` names files with one id per line, and
            ``RECORD_RULES``.
        batch: ``graphs``, ``edges`` or ``atoms`` per step; ``oversize``, ``shuffle``, ``window``.
        spec: Graph whose edges are the cost of a record.
        seed: Of the training order.
        mix: ``weights`` of the data sets in training, and ``records`` of an epoch.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a split ends empty or names unknown ids.
    """
    dealt, mix = _split(data, split), mix or {}
    files = exclude_files(filter.get("exclude"))
    excludes = [name for file in files for name in read_exclude_list(Path(file))]
    unknown = unknown_excludes(data.id_names, excludes)
    limits = {name: value for name, value in filter.items() if name not in RECORD_RULES}
    rules = {**limits, "exclude": excludes, "num_atoms": data.num_atoms}
    rules |= {"largest": _largest(data, filter), "heaviest": _heaviest(data, filter)}
    rules["lost"] = lost_records(data, {name: filter.get(name) for name in RECORD_RULES})
    selections = {
        name: _select(data.id_names, name, rows, rules) for name, rows in dealt.rows.items()
    }
    identity = {"split": dealt.identity, "filter": _filter_identity(filter, excludes)}
    keys = data.id_names.keys()
    costs = {"edges": narrow(data.num_edges(spec)), "atoms": data.num_atoms}
    weights = _weights(data, mix)
    plans = {
        name: Plan(
            keys[selection.rows],
            {kind: cost[selection.rows] for kind, cost in costs.items()},
            rows=selection.rows,
            **_rules_of(name, batch, seed),
            sets=_shares(data, selection.rows, weights if name == "train" else None),
            epoch_records=mix.get("records") if name == "train" else None,
            data_digest=data.data_digest,
            selection={"name": name, **identity},
        )
        for name, selection in selections.items()
    }
    splits = {n: {**selections[n].report(), **_accounts(plan)} for n, plan in plans.items()}
    return plans, {**_report(data, dealt, unknown), "splits": splits}


def _split(data: Data, split: Mapping[str, Any]) -> Split:
    """Returns the split of all records; one that is stored is stored with every data set."""
    members = members_of(data)
    if split.get("name") is None or isinstance(data, Dataset):
        return make_split(data, **split)
    parts = [make_split(member, **split) for member in members]
    firsts = np.cumsum([0, *map(len, members)])
    rows = {
        name: np.concatenate(
            [part.rows[name] + first for part, first in zip(parts, firsts, strict=False)]
        )
        for name in parts[0].rows
    }
    return Split(rows, {"ids": [part.identity["ids"] for part in parts]})


def _weights(data: Data, mix: Mapping[str, Any]) -> Sequence[float] | None:
    weights, members = mix.get("weights"), members_of(data)
    if weights is not None and len(weights) != len(members):
        raise ConfigError(
            f"mix.weights has {len(weights)} numbers for {len(members)} data sets; give one for "
            "each, in the order of data"
        )
    if mix.get("records") is not None and (weights is None or mix["records"] < 1):
        raise ConfigError(
            f"mix.records={mix['records']} must be positive, and is the length of an epoch where "
            "mix.weights says what it consists of"
        )
    return weights


def _shares(data: Data, rows: Rows, weights: Sequence[float] | None) -> list[SetShare]:
    """Returns how many of ``rows``, which ascend, each data set has, and its weight."""
    members = members_of(data)
    firsts = np.cumsum([0, *map(len, members)])
    sizes = np.diff(np.searchsorted(rows, firsts)).tolist()
    digests = [member.data_digest for member in members] if len(members) > 1 else [""]
    given: Sequence[float | None] = weights or [None] * len(members)
    return [SetShare(*share) for share in zip(sizes, given, digests, firsts.tolist(), strict=False)]


def _rules_of(name: str, batch: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Returns how a split is cut and ordered, and what happens to its oversized records."""
    by = str(batch.get("shuffle", "records")) if name == "train" else "none"
    oversize = str(batch.get("oversize", "alone"))
    if oversize == "skip" and name not in FILTERED:
        oversize = "alone"
    return {
        **{kind: batch.get(kind) for kind in ("graphs", "edges", "atoms")},
        "shuffle": Shuffle(by, seed, batch.get("window", 16)),
        "oversize": oversize,
    }


def _accounts(plan: Plan) -> dict[str, Any]:
    accounts: dict[str, Any] = {"oversized": plan.num_oversized}
    if plan.num_skipped:
        accounts["skipped_as_oversized"] = plan.num_skipped
    if len(plan.draws) > 1:
        accounts["records_per_epoch"] = plan.draws
    return accounts


def _report(data: Data, dealt: Split, unknown: list[str]) -> dict[str, Any]:
    parted = dealt.identity.get("by") != "group"  # that rule never parts one
    leaking = leaking_groups(data.group_names, dealt.rows) if parted else []
    report: dict[str, Any] = {
        "records": len(data),
        "in_no_split": len(data) - sum(len(rows) for rows in dealt.rows.values()),
        "groups_in_several_splits": len(leaking),
    }
    if missing := dealt.missing_report():
        report["missing_ids"] = missing
    if unknown:
        report["unknown_excludes"] = {"count": len(unknown), "ids": unknown[:SAMPLE]}
    return report


def _largest(data: Data, filter: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    if all(filter.get(name) is None for name in LABEL_OF_LIMIT):
        return {}
    columns = {label: data.statistic("largest", label) for label in data.fields}
    return {label: column for label, column in columns.items() if column is not None}


def _heaviest(data: Data, filter: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the highest atomic number in each record, if a rule asks for it."""
    if filter.get("max_atomic_number") is None:
        return None
    numbers = np.arange(119)
    return np.concatenate([(numbers * (block > 0)).max(axis=1) for block in compositions(data)])


def _select(ids: Names, name: str, rows: Rows, rules: Mapping[str, Any]) -> Selection:
    if name not in FILTERED:
        return Selection(rows, 0, {})
    selection = select_rows(ids, rows, **rules)
    if name == "train" or len(rows):
        require_records(selection.rows, name, selection)
    return selection


def _filter_identity(filter: Mapping[str, Any], excludes: list[str]) -> dict[str, Any]:
    identity = {**filter, "exclude": digest_of("\n".join(sorted(excludes))) if excludes else None}
    later = {"max_atomic_number": None, **RECORD_RULES}  # unknown to plans of earlier versions
    return {name: value for name, value in identity.items() if value != later.get(name, ...)}

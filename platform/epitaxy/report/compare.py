"""Finds fine-tunes that differ in how they started, and pairs them by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epitaxy.report.collect import SCRATCH, Collection, EvaluationSummary, RunSummary
from epitaxy.report.statistics import PairedDifference, paired_difference

VALIDATION = "validation"


@dataclass(frozen=True)
class Comparison:
    """Errors of several ways to train for one label, run by run.

    Attributes:
        name: Data set and label.
        label: Label compared.
        unit: Of the errors.
        split: Whose errors: an evaluated split, or ``validation``.
        seeds: Seeds that every arm has, ascending.
        arms: Arm to its mean absolute errors in the order of ``seeds``; ``scratch`` first.
        runs: Arm to its runs in that order.
        unpaired: Names of runs left out because some arm lacks their seed.
        differing: Settings, besides the start, in which the arms differ.
    """

    name: str
    label: str
    unit: str
    split: str
    seeds: tuple[int, ...]
    arms: Mapping[str, Sequence[float]]
    runs: Mapping[str, Sequence[RunSummary]]
    unpaired: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The arm the others are compared with."""
        return next(iter(self.arms))

    def difference(self, arm: str) -> PairedDifference:
        """Returns ``arm − baseline`` over the seeds; negative means that ``arm`` is better."""
        return paired_difference(self.arms[arm], self.arms[self.baseline])


def find_comparisons(collection: Collection) -> list[Comparison]:
    """Returns one comparison for each data set and label with paired runs of several arms."""
    groups: dict[tuple[str, str, str], list[RunSummary]] = {}
    for run in collection.runs:
        if not run.weights:
            continue
        for label in run.labels:
            key = (run.data_digest, label, _split_rule(run))
            groups.setdefault(key, []).append(run)
    found = (_compare(label, runs, collection) for (_, label, _), runs in groups.items())
    return [comparison for comparison in found if comparison is not None]


def _compare(label: str, runs: Sequence[RunSummary], collection: Collection) -> Comparison | None:
    arms = _arms(runs)
    if len(arms) < 2:
        return None
    pairs = set.intersection(*(set(by_seed) for by_seed in arms.values()))
    if not pairs:
        return None
    keys = sorted(pairs)
    chosen = {arm: [by_seed[key] for key in keys] for arm, by_seed in arms.items()}
    everyone = [run for members in chosen.values() for run in members]
    split, errors, unit = _errors(label, chosen, collection)
    data = collection.data.get(everyone[0].data_digest)
    return Comparison(
        name=f"{data.name if data else everyone[0].data_digest[:12]}: {label}",
        label=label,
        unit=unit,
        split=split,
        seeds=tuple(seed for seed, _ in keys),
        arms=errors,
        runs=chosen,
        unpaired=tuple(run.name for run in runs if run not in everyone),
        differing=tuple(
            name
            for name in sorted(_differing([members[0] for members in chosen.values()]))
            if not name.startswith("finetune.")  # each strategy has arguments of its own
        ),
    )


def _arms(runs: Sequence[RunSummary]) -> dict[str, dict[tuple[int, int], RunSummary]]:
    """Returns arm → (seed, seed of the split) → run; ``scratch`` comes first."""
    arms: dict[str, dict[tuple[int, int], RunSummary]] = {}
    for strategy in sorted(
        {run.strategy for run in runs}, key=lambda name: (name != SCRATCH, name)
    ):
        members = [run for run in runs if run.strategy == strategy]
        varying = sorted(_differing(members))
        for run in members:
            settings = _flat(_science(run))
            suffix = "".join(f", {key}={settings.get(key)}" for key in varying)
            pair = (run.seed, int(run.settings["split"]["seed"]))
            arms.setdefault(strategy + suffix, {})[pair] = run
    return arms


def _errors(
    label: str, chosen: Mapping[str, Sequence[RunSummary]], collection: Collection
) -> tuple[str, dict[str, list[float]], str]:
    """Returns split, errors by arm and unit: of evaluations if all runs have one on the same rows.

    Without them the validation errors are all there is; they also chose the weights.
    """
    everyone = [run for members in chosen.values() for run in members]
    for split in ("test", *sorted({item.split for item in collection.evaluations} - {"test"})):
        found = {id(run): _evaluated(run, label, split, collection) for run in everyone}
        if all(found.values()) and _same_records(chosen, found):
            quantities = {
                key: item.evaluation.quantities[label] for key, item in found.items() if item
            }
            unit = quantities[id(everyone[0])].unit
            errors = {
                arm: [quantities[id(run)].mae for run in members] for arm, members in chosen.items()
            }
            return split, errors, unit
    name = f"val/{label}_mae"
    errors = {arm: [run.metrics[name] for run in members] for arm, members in chosen.items()}
    return VALIDATION, errors, everyone[0].units.get(name, "")


def _evaluated(
    run: RunSummary, label: str, split: str, collection: Collection
) -> EvaluationSummary | None:
    for item in collection.evaluations:
        same_data = item.evaluation.info["data"]["digest"] == run.data_digest
        of_run = item.run is not None and item.run.directory == run.directory
        if of_run and same_data and item.split == split and label in item.evaluation.quantities:
            return item
    return None


def _same_records(
    chosen: Mapping[str, Sequence[RunSummary]], found: Mapping[int, EvaluationSummary | None]
) -> bool:
    """Returns whether the members of every pair were measured on the same records."""
    for pair in zip(*chosen.values(), strict=True):
        items = [found[id(run)] for run in pair]
        if len({item.evaluation.info["data"]["evaluated"] for item in items if item}) != 1:
            return False
    return True


def _split_rule(run: RunSummary) -> str:
    rule = {key: value for key, value in run.settings["split"].items() if key != "seed"}
    return json.dumps(rule, sort_keys=True)


def _differing(runs: Sequence[RunSummary]) -> set[str]:
    """Returns names of settings, besides seeds and start, in which ``runs`` differ."""
    flat = [_flat(_science(run)) for run in runs]
    names = set().union(*flat)
    return {name for name in names if len({repr(settings.get(name)) for settings in flat}) > 1}


def _science(run: RunSummary) -> dict[str, Any]:
    names = ("encoder", "objective", "filter", "batch", "optimizer", "schedule", "loop")
    strategy = {k: v for k, v in run.settings["init"]["strategy"].items() if k != "_target_"}
    ignored = ("log_every", "log_consumption", "checkpoint_every")
    loop = {k: v for k, v in run.settings["loop"].items() if k not in ignored}
    return {**{name: run.settings[name] for name in names}, "loop": loop, "finetune": strategy}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    return {name: value}

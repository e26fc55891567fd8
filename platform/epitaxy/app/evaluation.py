"""The verb ``evaluate``: a model, a split of a data set, metrics with units and baselines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.app.models import SourceModel, find_model
from epitaxy.app.paths import absolute, absolute_output
from epitaxy.app.tables import columns, number
from epitaxy.data.mixture import Data, digests_of, open_data
from epitaxy.data.splits import make_split
from epitaxy.errors import ConfigError, closest
from epitaxy.predict.evaluate import Evaluation, evaluate
from epitaxy.train.settings import SplitSettings, from_dict, to_dict

_COLUMNS = {
    "records": "records",
    "missing": "missing",
    "MAE": "mae",
    "RMSE": "rmse",
    "R²": "r2",
    "MAE of zero": "mae_zero",
    "MAE of mean": "mae_mean",
}
_FURTHER = {"accuracy": "accuracy", "AUC": "auc", "scaled MAE": "mae_scaled"}
"""Columns that only some quantities have."""
SPLITS = ("train", "val", "test", "all")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """What ``evaluate`` returns.

    Attributes:
        evaluation: Metrics with units, and predictions beside labels.
        directory: Where ``metrics.json`` and ``parity.npz`` lie.
    """

    evaluation: Evaluation
    directory: Path

    def table(self) -> str:
        """Returns errors beside what predicting zero, or the mean, would have scored."""
        quantities = self.evaluation.quantities
        known = {metric for quantity in quantities.values() for metric in quantity.metrics}
        further = {title: metric for title, metric in _FURTHER.items() if metric in known}
        shown = {**_COLUMNS, **further}
        rows = [["label", "unit", *shown]]
        for name, quantity in quantities.items():
            values = [number(getattr(quantity, field)) for field in shown.values()]
            rows.append([name, quantity.unit, *values])
        return columns(rows)


def run_evaluation(config: Mapping[str, Any]) -> Evaluated:
    """Evaluates a model and writes the result to the folder ``out``.

    Raises:
        ConfigError: If the split is unknown.
        NeedsError: If the split is empty or lacks every label that the model predicts.
    """
    model = find_model(str(config["model"]), config, config["trust"])
    given = config["data"]
    paths = given if isinstance(given, list) else [given]
    split = str(config["split"])
    # The split of a data set that has grown since is the one that the model was trained on.
    known = digests_of(model.card.get("data") or {}) if split != "all" else ()
    dataset = open_data([absolute(str(path)) for path in paths], known)
    rows = _rows(dataset, split, model)
    directory = Path(
        absolute_output(str(config["out"] or _default_out(config, model, dataset)), "out")
    )
    # find_model has checked the model's code against what the user trusts.
    evaluation = evaluate(
        model.folder, dataset, rows, split=split, trusted_only=not config["trust"]
    )
    evaluation.save(directory)
    return Evaluated(evaluation, directory)


def _rows(dataset: Data, split: str, model: SourceModel) -> np.ndarray:
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}; {closest(split, SPLITS)}")
    trained_on = model.card.get("data") or {}
    trained_here = trained_on.get("digest") == dataset.data_digest
    members = [member.get("digest") for member in trained_on.get("members", ())]
    if dataset.data_digest in members and split != "all":
        raise ConfigError(
            f"the model was trained on {dataset.location} mixed with other data sets "
            f"({trained_on.get('name')}), and its split was dealt over all of them together; give "
            "them all, data=[…] in the same order, or split=all"
        )
    if split == "all":
        if trained_here:
            logger.warning("the model was trained on a part of these records: split=test is honest")
        return np.arange(len(dataset))
    if not trained_here:
        logger.warning(
            "the model was trained on other data; split=%s deals %s by the rule of its training",
            split, dataset.location,
        )  # fmt: skip
    rule: SplitSettings = from_dict(SplitSettings, model.card.get("split") or {})
    return make_split(dataset, **to_dict(rule)).rows[split]


def _default_out(config: Mapping[str, Any], model: SourceModel, dataset: Data) -> Path:
    name = model.identity.get("reference") or f"{model.card.get('name', 'model')}"
    data = dataset.name
    return Path(config["home"]) / "evaluations" / name / f"{data}-{config['split']}"

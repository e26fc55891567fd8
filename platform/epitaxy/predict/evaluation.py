"""What an evaluation found: metrics with units, baselines, and parity data; as files and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.errors import EpitaxyError
from epitaxy.train.folders import read_json, write_json
from epitaxy.train.ranking import auc

METRICS_FILE, PARITY_FILE = "metrics.json", "parity.npz"
FORMAT = 1
MAX_SAVED = 100_000
"""Values of a quantity kept for parity plots; metrics always use all of them."""
METRICS = ("mae", "rmse", "r2", "mae_zero", "mae_mean")
CLASS_METRICS = ("accuracy", "auc")
SCALED_METRIC = "mae_scaled"
_WITHOUT_UNIT = ("r2", *CLASS_METRICS, SCALED_METRIC)


@dataclass(frozen=True)
class Parity:
    """Labels and predictions of one quantity, components flattened.

    Attributes:
        target: Labels, (values,).
        predicted: Predictions, (values,).
        record: Position of each value's record among the evaluated ones, (values,).
    """

    target: np.ndarray
    predicted: np.ndarray
    record: np.ndarray

    def sample(self, count: int) -> Parity:
        """Returns at most ``count`` values, drawn at random but always the same ones."""
        if len(self.target) <= count:
            return self
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.choice(len(self.target), count, replace=False))
        return Parity(self.target[chosen], self.predicted[chosen], self.record[chosen])


@dataclass(frozen=True)
class Quantity:
    """Errors of one predicted quantity over all labelled records, components flattened.

    Of a label of class numbers, the quantity is the probability of class 1 of two, or those of
    all classes.

    Attributes:
        unit: Of everything here but ``r2``, ``accuracy``, ``auc``, ``mae_scaled`` and the counts.
        mae: Mean absolute error.
        rmse: Root mean square error.
        r2: 1 − SSE/SST with SST about the mean of these labels; NaN if they are all equal.
        mae_zero: Of predicting 0.
        mae_mean: Of predicting the mean.
        mean_of: Whose mean: ``training split`` or ``evaluated labels``.
        mae_reference: Of predicting the model's element reference; NaN if there is none.
        records: Records with this label.
        missing: Records without it.
        values: Numbers compared.
        non_finite: Predictions that are NaN or infinite; the errors are then NaN.
        accuracy: Share of records whose class is the most probable one; NaN if it is no class.
        auc: Area under the ROC curve (see ``ranking.auc``); NaN if it is no class.
        mae_scaled: ``mae`` of labels scaled by the range of the training labels, as pt_ft_pairs
            reports it; NaN if the model does not scale them so.
    """

    unit: str
    mae: float
    rmse: float
    r2: float
    mae_zero: float
    mae_mean: float
    mean_of: str
    mae_reference: float
    records: int
    missing: int
    values: int
    non_finite: int
    accuracy: float = math.nan
    auc: float = math.nan
    mae_scaled: float = math.nan

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that make sense for it."""
        classes = () if math.isnan(self.accuracy) else CLASS_METRICS
        scaled = () if math.isnan(self.mae_scaled) else (SCALED_METRIC,)
        return (*METRICS, *classes, *scaled)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of ``evaluate``.

    Attributes:
        quantities: Errors by label; an energy appears per crystal and ``energy_per_atom``.
        parity: What they were computed from; after ``load`` at most ``MAX_SAVED`` values each.
        ids: Ids of the evaluated records.
        info: Model and data, JSON-ready.
    """

    quantities: Mapping[str, Quantity]
    parity: Mapping[str, Parity]
    ids: np.ndarray
    info: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """``<quantity>_mae``, ``_rmse``, ``_r2`` and the baselines ``_mae_zero``, ``_mae_mean``.

        Classes also have ``_accuracy`` and ``_auc``, labels scaled by their range ``_mae_scaled``.
        """
        return {
            f"{label}_{name}": getattr(quantity, name)
            for label, quantity in self.quantities.items()
            for name in quantity.metrics
        }

    @property
    def units(self) -> dict[str, str]:
        """Unit of each of ``metrics``."""
        return {
            f"{label}_{name}": "" if name in _WITHOUT_UNIT else quantity.unit
            for label, quantity in self.quantities.items()
            for name in quantity.metrics
        }

    def save(self, directory: str | Path) -> None:
        """Writes ``metrics.json`` and ``parity.npz`` (plain arrays, no pickle) to a folder."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {"ids": np.asarray(self.ids.tolist(), dtype=np.str_)}
        for name, parity in self.parity.items():
            sample = parity.sample(MAX_SAVED)
            arrays[f"{name}.target"] = sample.target
            arrays[f"{name}.predicted"] = sample.predicted
            arrays[f"{name}.record"] = sample.record
        temporary = directory / f".{PARITY_FILE}"
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        temporary.replace(directory / PARITY_FILE)
        write_json(directory / METRICS_FILE, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the parity data; NaN as ``None``."""
        quantities = {
            name: {key: _plain(value) for key, value in asdict(quantity).items()}
            for name, quantity in self.quantities.items()
        }
        return {"format": FORMAT, **self.info, "quantities": quantities}

    @classmethod
    def load(cls, directory: str | Path) -> Evaluation:
        """Returns the evaluation that ``save`` wrote.

        Raises:
            CheckpointError: If ``metrics.json`` is missing or damaged.
            EpitaxyError: If it is of a newer format, or the parity data is missing or damaged.
        """
        directory = Path(directory)
        content = read_json(directory / METRICS_FILE)
        if content.pop("format", math.inf) > FORMAT or "quantities" not in content:
            raise EpitaxyError(
                f"{directory / METRICS_FILE} is no evaluation, or of a newer epitaxy; "
                "make it again with `epitaxy evaluate`"
            )
        known = [item.name for item in fields(Quantity)]
        quantities = {
            name: Quantity(**{key: _number(values.get(key)) for key in known})
            for name, values in content.pop("quantities").items()
        }
        ids, parity = _load_parity(directory / PARITY_FILE, list(quantities))
        return cls(quantities, parity, ids, content)


def quantity_of(
    parity: Parity,
    *,
    unit: str,
    num_records: int,
    training_mean: float | None,
    reference: np.ndarray | None,
    classes: int = 0,
    scale: float | None = None,
) -> Quantity:
    """Returns the errors of one quantity.

    Args:
        parity: All its values.
        unit: Of the values.
        num_records: Evaluated records, with and without the label.
        training_mean: Mean of the training labels; ``None`` takes that of the labels here.
        reference: Predictions of an element reference, (values,).
        classes: How many, if the values are probabilities of classes.
        scale: What a scaled error of 1 is in ``unit``.
    """
    target, error = parity.target, parity.predicted - parity.target
    mean = float(target.mean())
    total = float(((target - mean) ** 2).sum())
    base = mean if training_mean is None else training_mean
    labelled = len(np.unique(parity.record))
    accuracy, area = _ranked(parity, classes) if classes else (math.nan, math.nan)
    mae = float(np.abs(error).mean())
    return Quantity(
        unit=unit,
        mae=mae,
        rmse=float(np.sqrt((error**2).mean())),
        r2=1 - float((error**2).sum()) / total if total > 0 else math.nan,
        mae_zero=float(np.abs(target).mean()),
        mae_mean=float(np.abs(target - base).mean()),
        mean_of="evaluated labels" if training_mean is None else "training split",
        mae_reference=math.nan if reference is None else float(np.abs(reference - target).mean()),
        records=labelled,
        missing=num_records - labelled,
        values=len(target),
        non_finite=int((~np.isfinite(parity.predicted)).sum()),
        accuracy=accuracy,
        auc=area,
        mae_scaled=math.nan if scale is None else mae / scale,
    )


def _ranked(parity: Parity, classes: int) -> tuple[float, float]:
    """Returns accuracy and area under the ROC curve."""
    if classes == 2:
        label, predicted = parity.target, parity.predicted
        chosen = predicted > 0.5
    else:
        rows = parity.target.reshape(-1, classes)
        label, predicted = rows.argmax(1), parity.predicted.reshape(-1, classes)
        chosen = predicted.argmax(1)
    return float((chosen == label).mean()), auc(label, predicted)


def _load_parity(path: Path, names: list[str]) -> tuple[np.ndarray, dict[str, Parity]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parity = {
                name: Parity(*(arrays[f"{name}.{part}"] for part in _PARTS)) for name in names
            }
            return arrays["ids"], parity
    except (OSError, KeyError, ValueError) as error:
        raise EpitaxyError(f"{path} cannot be read: {error}; evaluate the model again") from error


_PARTS = tuple(item.name for item in fields(Parity))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return math.nan if value is None else value

"""Errors of a model on labelled records, beside what trivial predictions would have scored."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from epitaxy.data.codec import decode
from epitaxy.data.derived import derivable, derive, to_derive
from epitaxy.data.mixture import Data
from epitaxy.errors import NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.predict.evaluation import Evaluation, Parity, Quantity, quantity_of
from epitaxy.predict.predictor import DEFAULT_MAX_ATOMS, Predictor
from epitaxy.train.checkpoint import WEIGHTS
from epitaxy.train.folders import MANIFEST, read_json
from epitaxy.train.metrics import ENERGY_LABEL, certain

__all__ = ["Evaluation", "evaluate"]

STRESS_LABEL = "stress"
_CHUNK = 1024
"""Records in memory at a time."""

logger = logging.getLogger(__name__)


def evaluate(
    folder: str | Path,
    dataset: Data,
    rows: np.ndarray,
    *,
    split: str = "",
    max_atoms: int = DEFAULT_MAX_ATOMS,
    device: str = "cpu",
    trusted_only: bool = True,
) -> Evaluation:
    """Returns errors and parity data of the model in ``folder`` on ``rows`` of ``dataset``.

    Every record counts. One that lacks a label is counted as missing for that label, unless it can
    be derived; so is the stress of a crystal that is not periodic along all three axes, where it is
    undefined.

    Args:
        folder: Model folder.
        dataset: Labelled records.
        rows: Which of them.
        split: What the rows are called, for the record.
        max_atoms: Atoms per batch.
        device: Where to compute.
        trusted_only: Whether to refuse parts from outside of epitaxy.

    Raises:
        NeedsError: If there are no rows, none has a label that the model predicts, or the units
            of data and model differ.
    """
    predictor = Predictor(folder, max_atoms=max_atoms, device=device, trusted_only=trusted_only)
    if len(rows) == 0:
        raise NeedsError(f"no records to evaluate: split {split!r} of {dataset.location} is empty")
    fields = _shared_fields(predictor, dataset)
    collected: dict[str, _Collected] = {name: _Collected() for name in _names(fields)}
    for first, records in _chunks(dataset, rows, to_derive(dataset, fields)):
        _collect(predictor, records, first, fields, collected)
    if not any(part.target for part in collected.values()):
        raise NeedsError(
            f"none of the {len(rows)} records of {dataset.location} ({split or 'given rows'}) has "
            f"a label that {folder} predicts: {', '.join(sorted(fields))}"
        )
    parities = {name: part.joined() for name, part in collected.items() if part.target}
    quantities = {
        name: _quantity(name, parity, predictor, collected[name], len(rows))
        for name, parity in parities.items()
    }
    ids = dataset.ids[rows]
    return Evaluation(
        quantities=quantities,
        parity=parities,
        ids=ids,
        info=_info(predictor, dataset, ids, split, fields),
    )


class _Collected:
    """Arrays of one quantity, batch by batch."""

    def __init__(self) -> None:
        self.target: list[np.ndarray] = []
        self.predicted: list[np.ndarray] = []
        self.record: list[np.ndarray] = []
        self.reference_energy: list[np.ndarray] = []

    def add(self, target: np.ndarray, predicted: np.ndarray, record: np.ndarray) -> None:
        """Adds labelled rows; components are flattened."""
        if len(target):
            width = int(np.prod(target.shape[1:], dtype=int))
            self.target.append(target.reshape(-1))
            self.predicted.append(predicted.reshape(-1))
            self.record.append(np.repeat(record, width))

    def joined(self) -> Parity:
        """Returns everything as one."""
        return Parity(
            np.concatenate(self.target),
            np.concatenate(self.predicted),
            np.concatenate(self.record),
        )

    def reference(self) -> np.ndarray | None:
        """Returns predictions from the composition alone, if the model has an element reference."""
        return np.concatenate(self.reference_energy) if self.reference_energy else None


def _quantity(
    name: str, parity: Parity, predictor: Predictor, collected: _Collected, num_records: int
) -> Quantity:
    """Returns the errors of one quantity."""
    objective = predictor.objective
    means: Mapping[str, float] = getattr(objective, "training_means", {})
    ranges: Mapping[str, float] = getattr(objective, "ranges", {})
    return quantity_of(
        parity,
        unit=_unit(name, predictor),
        num_records=num_records,
        training_mean=means.get(name),
        reference=collected.reference(),
        classes=objective.class_counts.get(name, 0),
        scale=ranges.get(name),
    )


def _collect(
    predictor: Predictor,
    records: Sequence[CrystalRecord],
    first: int,
    fields: Mapping[str, LabelField],
    collected: Mapping[str, _Collected],
) -> None:
    """Adds labels and predictions of records ``first``, ``first + 1``, … to ``collected``."""
    classes = predictor.objective.class_counts
    for batch, predicted in predictor.batches(records, tuple(fields.values())):
        crystal = np.arange(first, first + batch.num_graphs)
        first += batch.num_graphs
        for name, field in fields.items():
            mask = batch.masks[name].numpy()
            row = crystal[batch.graph_index.numpy()] if field.per_atom else crystal
            target = batch.labels[name].numpy()[mask]
            if name in classes:
                target = _certain(name, target, classes[name])
            collected[name].add(target, predicted[name][mask], row[mask])
            if name == ENERGY_LABEL:
                atoms = batch.sizes.numpy()[mask]
                part = collected[f"{name}_per_atom"]
                part.add(target / atoms, predicted[name][mask] / atoms, row[mask])
                _add_reference(predictor, batch, mask, collected)


def _certain(name: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns the probabilities that class numbers stand for, shaped like predictions."""
    wrong = labels[~np.isin(labels, np.arange(classes))]
    if len(wrong):
        raise NeedsError(
            f"the model tells the classes 0 … {classes - 1} of {name!r} apart, but the data has a "
            f"label {wrong[0]:g}; evaluate it on data of the same classes"
        )
    probabilities: np.ndarray = certain(torch.from_numpy(labels), classes).numpy()
    return probabilities


def _add_reference(
    predictor: Predictor, batch: CrystalBatch, mask: np.ndarray, collected: Mapping[str, _Collected]
) -> None:
    """Adds the energies that the element reference alone predicts (eV, and eV/atom)."""
    statistics = predictor.card["statistics"]
    if not statistics.get("reference"):
        return
    other = float(statistics["other_elements"])
    energies = {int(number): float(value) for number, value in statistics["reference"].items()}
    per_atom = [energies.get(number, other) for number in batch.numbers.tolist()]
    total = np.bincount(batch.graph_index.numpy(), per_atom, batch.num_graphs)[mask]
    collected[ENERGY_LABEL].reference_energy.append(total)
    atoms = batch.sizes.numpy()[mask]
    collected[f"{ENERGY_LABEL}_per_atom"].reference_energy.append(total / atoms)


def _shared_fields(predictor: Predictor, dataset: Data) -> dict[str, LabelField]:
    """Returns the labels that the model predicts and the data set has."""
    if not predictor.units:
        raise NeedsError(
            f"{predictor.folder} predicts no label: it is an encoder to fine-tune, epitaxy "
            f"finetune from={predictor.folder} …"
        )
    labels = _labels(predictor)
    known = {**derivable(), **dataset.fields}
    fields = {name: field for name, field in known.items() if name in labels}
    if not fields:
        raise NeedsError(
            f"{predictor.folder} predicts {', '.join(sorted(labels))}, but "
            f"{dataset.location} has the labels {', '.join(sorted(dataset.fields)) or 'none'}"
        )
    for name, field in fields.items():
        if field.unit != predictor.units[name]:
            raise NeedsError(
                f"{predictor.folder} predicts {name!r} in {predictor.units[name]!r}, but "
                f"{dataset.location} holds it in {field.unit!r}; prepare the data in the model's "
                "unit"
            )
    absent = sorted(labels - set(fields))
    if absent:
        logger.warning("%s has no labels %s: not evaluated", dataset.location, ", ".join(absent))
    return fields


def _labels(predictor: Predictor) -> set[str]:
    """Returns what it predicts that a data set may know: not the deviations of its own errors."""
    deviations: Mapping[str, str] = getattr(predictor.objective, "deviations", {})
    return set(predictor.units) - set(deviations.values())


def _names(fields: Mapping[str, LabelField]) -> list[str]:
    return [*fields, *([f"{ENERGY_LABEL}_per_atom"] if ENERGY_LABEL in fields else [])]


def _unit(name: str, predictor: Predictor) -> str:
    if name == f"{ENERGY_LABEL}_per_atom":
        return f"{predictor.units[ENERGY_LABEL]}/atom"
    return predictor.units[name]


def _chunks(
    dataset: Data, rows: np.ndarray, derived: Sequence[str]
) -> Iterator[tuple[int, list[CrystalRecord]]]:
    for first in range(0, len(rows), _CHUNK):
        blobs = dataset.read(rows[first : first + _CHUNK])
        yield first, [derive(_without_undefined(decode(blob)), derived) for blob in blobs]


def _without_undefined(record: CrystalRecord) -> CrystalRecord:
    if STRESS_LABEL not in record.labels or record.pbc.all():
        return record
    kept = {name: label for name, label in record.labels.items() if name != STRESS_LABEL}
    return record.replace(labels=kept)


def _info(
    predictor: Predictor,
    dataset: Data,
    ids: np.ndarray,
    split: str,
    fields: Mapping[str, LabelField],
) -> dict[str, Any]:
    card = predictor.card
    evaluated = hashlib.sha256("\n".join(sorted(ids.tolist())).encode()).hexdigest()
    return {
        "model": {
            "folder": str(predictor.folder.resolve()),
            "name": str(card.get("name", "")),
            "weights": read_json(predictor.folder / MANIFEST)[WEIGHTS]["sha256"],
            "trained_on": (card.get("data") or {}).get("digest", ""),
        },
        "data": {
            "path": dataset.location,
            "name": dataset.name,
            "digest": dataset.data_digest,
            "split": split,
            "records": len(ids),
            "evaluated": evaluated,
        },
        "not_evaluated": sorted(_labels(predictor) - set(fields)),
    }

"""Published checkpoints of other projects as model folders."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epitaxy.build import build
from epitaxy.errors import CheckpointError, ConfigError
from epitaxy.foreign.checkpoint import ForeignCheckpoint, read_checkpoint
from epitaxy.foreign.family import (
    GRAPH_SETTINGS,
    STANDARDISED,
    TWO_CLASSES,
    chosen_family,
    import_weights,
)
from epitaxy.foreign.published import PublishedModel, Task
from epitaxy.foreign.settings import check_options, importer_arguments, settings_in
from epitaxy.graph.elements import atom_features
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train.checkpoint import CARD, build_model, save_model
from epitaxy.train.folders import read_json
from epitaxy.units import normalise

_OBJECTIVES = "epitaxy.objectives"
_TABLE = "encoder.features.table"
"""Element features that models hold as a buffer; published files lack them."""
_ROBUST = (
    "It also predicts the standard deviation of its error; objective.loss=robust_l1 or robust_l2 "
    "keeps that in fine-tuning."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportedModel:
    """What an import wrote.

    Attributes:
        folder: Model folder.
        family: Of the published model.
        task: What its head is for; ``none`` without a head: it is to be fine-tuned.
        units: Label that it predicts to its unit.
        origin: ``file``, ``sha256`` and ``family``: what lineage says of it.
        left_out: Original names of parameters that nothing reads, and why.
        notes: What to know about it, a sentence each.
    """

    folder: Path
    family: str
    task: Task
    units: Mapping[str, str]
    origin: Mapping[str, str]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]


def import_foreign(
    file: str | Path,
    out: str | Path,
    *,
    label: str | None = None,
    unit: str | None = None,
    family: str = "auto",
    options: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    name: str = "",
) -> ImportedModel:
    """Writes the model in a checkpoint of another project as a model folder; executes nothing.

    The same file and options always give the same folder.

    Args:
        file: Of ``torch.save`` (any version, also compressed) or of safetensors.
        out: Model folder to write; an earlier import there is replaced.
        label: What the head predicts.
        unit: Of what it predicts; not for classifiers.
        family: Which published model, or ``auto`` to tell by the names of the parameters.
        options: What the file does not say, see ``foreign.settings``; overrides what it says.
        configuration: Of the authors' training code, for the graph's settings.
        name: Of the model, for its card.

    Raises:
        SourceError: If there is no such file or it is damaged.
        CheckpointError: If it is of no known model, or needs foreign code to be read.
        ConfigError: If a label, a unit or an option is missing or wrong.
    """
    file, out = Path(file), Path(out)
    _check_target(out)
    chosen = check_options(options or {})
    found = read_checkpoint(str(file))
    settings = settings_in(found.arguments) | settings_in(configuration or {})
    family = chosen_family(found.weights, family)
    arguments = importer_arguments(family, settings, chosen)
    published = import_weights(found.weights, family, **arguments)
    published, notes = _completed(published, family, found, settings | chosen)
    described = _described(published, label, unit)
    origin = {"file": file.name, "sha256": _sha256(file), "family": family}
    notes = [*_graph_notes(family, settings | chosen), *notes]
    result = _result(out, published, described, origin, notes)
    _write(result, published, described, name or file.name.split(".")[0])
    for line in result.notes:
        logger.info(line)
    return result


def _result(
    out: Path,
    published: PublishedModel,
    described: _Described,
    origin: Mapping[str, str],
    notes: Sequence[str],
) -> ImportedModel:
    """Returns what the import is going to write."""
    told = (
        f"Weights of the published {published.family}, from {origin['file']} "
        f"(sha256 {origin['sha256'][:16]}…).",
        *notes,
        *described.notes,
        *_left_out_notes(published.unused),
    )
    return ImportedModel(
        folder=out,
        family=published.family,
        task=published.task,
        units=described.statistics.get("units", {}),
        origin=origin,
        left_out=published.unused,
        notes=told,
    )


def _write(
    result: ImportedModel, published: PublishedModel, described: _Described, name: str
) -> None:
    """Writes the model folder."""
    objective: Objective = build(described.config)
    objective.adopt(described.statistics)
    model = _model(published, objective)
    extra = {
        "name": name,
        "statistics": described.statistics,
        "imported": {**result.origin, "left_out": dict(published.unused)},
        "notes": " ".join(result.notes),
    }
    save_model(result.folder, model, published.encoder, described.config, objective, extra)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_target(out: Path) -> None:
    """Refuses to replace anything but an earlier import."""
    if not out.exists():
        return
    imported = (out / CARD).is_file() and "imported" in read_json(out / CARD)
    if not imported:
        raise ConfigError(f"{out} exists and is no earlier import; choose another out=FOLDER")


def _completed(
    published: PublishedModel, family: str, found: ForeignCheckpoint, settings: Mapping[str, Any]
) -> tuple[PublishedModel, list[str]]:
    """Returns the model with its task and the moments of its labels, and notes on both."""
    task, notes = _task(published, settings.get("task"), family in TWO_CLASSES)
    if task != "regression":
        return replace(published, task=task, mean=0.0, std=1.0), notes
    mean, std = found.normalizer or (None, None)
    mean, std = settings.get("mean", mean), settings.get("std", std)
    if (mean is None) != (std is None):
        raise ConfigError("options.mean and options.std belong together: give both")
    if mean is None or std is None:
        if family in STANDARDISED:
            raise ConfigError(
                f"the file holds no normalizer, but {published.family} predicts standardised "
                "labels: give options={mean: …, std: …} of its training labels ({mean: 0, std: 1} "
                "if they were not standardised)"
            )
        mean, std = 0.0, 1.0
        notes.append("The file holds no normalizer: outputs are taken as they are.")
    else:
        notes.append(f"Labels were standardised by mean {mean:.6g} and deviation {std:.6g}.")
    if not std > 0:
        raise CheckpointError(f"the deviation of the labels is {std}, expected one above 0")
    return replace(published, task=task, mean=float(mean), std=float(std)), notes


def _task(
    published: PublishedModel, stated: str | None, two_are_classes: bool
) -> tuple[Task, list[str]]:
    """Returns what the head is for, and a note if nobody said it."""
    if published.task == "none":
        return "none", []
    outputs = int(published.head["outputs"])
    if outputs == 1 + published.robust:
        if stated == "classification":
            raise CheckpointError(
                "the head has one output, but a classifier has one for each class: classifiers "
                "with a single output cannot be imported"
            )
        return "regression", [_ROBUST] if published.robust else []
    if stated == "classification":
        return "classification", []
    if outputs == 2 and stated is None and two_are_classes:
        return "classification", ["Its two outputs are taken as logits of two classes."]
    raise CheckpointError(
        f"the head has {outputs} outputs; if they are logits of classes, give options={{task: "
        "classification}; if a Roost also predicts its own error, options={robust: true}. "
        "Models that predict several numbers at once cannot be imported"
    )


@dataclass(frozen=True)
class _Described:
    """Objective of an imported model."""

    config: dict[str, Any]
    statistics: dict[str, Any]
    notes: tuple[str, ...] = ()


def _described(published: PublishedModel, label: str | None, unit: str | None) -> _Described:
    """Returns the objective that predicts with the published head."""
    if published.task == "none":
        return _without_head(published, label, unit)
    if not label:
        raise ConfigError(f"this {published.family} has a head: label=… must say what it predicts")
    head = {name: value for name, value in published.head.items() if name != "outputs"}
    if published.task == "classification":
        if unit:
            raise ConfigError(
                f"this {published.family} is a classifier: it predicts probabilities, which have "
                "no unit; leave out unit="
            )
        target = f"{_OBJECTIVES}.classification.Classification"
        config = {"_target_": target, "label": label, "classes": published.head["outputs"], **head}
        return _Described(config, {"units": {label: ""}})
    if unit is None:
        raise ConfigError(
            f"unit=… must say in which unit {published.family} predicts {label!r}, as a data set "
            "with this label has it (unit='' for none)"
        )
    standardised = (published.mean, published.std) != (0.0, 1.0)
    config = {
        "_target_": f"{_OBJECTIVES}.regression.Regression",
        "label": label,
        "normalizer": "zscore" if standardised else "none",
        **({"loss": "robust_l1"} if published.robust else {}),
        **head,
    }
    statistics = {
        "mean": {label: published.mean},
        "std": {label: published.std},
        "units": {label: normalise(unit)},
    }
    return _Described(config, statistics)


def _without_head(published: PublishedModel, label: str | None, unit: str | None) -> _Described:
    """Returns the objective of a model that was trained without property labels."""
    if label or unit:
        logger.warning("label=%s and unit=%s have no meaning: the file holds no head", label, unit)
    note = (
        "The file holds no property head: the model predicts nothing until `epitaxy finetune "
        "from=FOLDER objective.label=NAME …` has trained a fresh one."
    )
    if not published.objective:
        return _Described({"_target_": f"{_OBJECTIVES}.encoder_only.EncoderOnly"}, {}, (note,))
    name = str(published.objective["_target_"]).split(".")[-2]
    more = f"Its pre-training goes on with `epitaxy finetune from=FOLDER objective={name} …`."
    return _Described(dict(published.objective), {}, (note, more))


def _model(published: PublishedModel, objective: Objective) -> Model:
    """Returns the model with the published weights, every one of them in its place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(build(published.encoder), objective)
    state: dict[str, Tensor] = dict(published.state)
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        model.double()
    own = model.state_dict()
    if _TABLE in own:
        if bool(own[_TABLE].isnan().all()):
            atom_features(published.encoder["features"])  # says which package is missing
        state.setdefault(_TABLE, own[_TABLE])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            f"the weights are not those of a whole {published.family}: {why}"
        ) from error
    return model.eval()


def _graph_notes(family: str, settings: Mapping[str, Any]) -> list[str]:
    defaults = GRAPH_SETTINGS.get(family, {})
    given = [f"{name} {settings[name]}" for name in defaults if name in settings]
    silent = [f"{name} {value}" for name, value in defaults.items() if name not in settings]
    notes = [f"Graph: {', '.join(given)}."] if given else []
    if silent:
        notes.append(f"Graph, not said and so the authors' defaults: {', '.join(silent)}.")
    return notes


def _left_out_notes(unused: Mapping[str, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, why in unused.items():
        reasons.setdefault(why, []).append(name)
    return [f"Left out ({why}): {', '.join(names)}." for why, names in reasons.items()]

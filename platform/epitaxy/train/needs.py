"""Checks on the driver, before any worker starts, that data, encoder and objective fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml
from torch import nn

from epitaxy.build import build
from epitaxy.encoders.contract import Encoder
from epitaxy.errors import EpitaxyError, NeedsError, closest
from epitaxy.finetune.contract import Report
from epitaxy.graph.record import AMOUNT, LabelField
from epitaxy.objectives.contract import Objective
from epitaxy.train.settings import RunSettings


def check_needs(
    settings: RunSettings,
    fields: Mapping[str, LabelField],
    encoder: Encoder,
    objective: Objective,
    report: Report,
    conflicts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuses parts that do not fit, naming who asks, for what, who lacks it, and what would do.

    Args:
        settings: Of the run; names the parts and says how a step is spread.
        fields: Labels of the data set, and those that can be derived from its records.
        encoder: The encoder that is trained.
        objective: The objective that trains it.
        report: What the strategy froze: frozen norms couple nothing.
        conflicts: Labels that the data sets of a mixture define differently, and how.

    Raises:
        NeedsError: If a label, a provision or the independence of records is missing.
    """
    who = f"objective {_name(settings.objective)}"
    for label in objective.labels:
        if label in conflicts:
            raise NeedsError(
                f"{who} asks for the label {label!r}, which the data sets define differently "
                f"({conflicts[label]}); prepare one of them anew with the other's unit and "
                "scheme if the values can be compared, or train on one of them"
            )
        if label not in fields:
            raise NeedsError(
                f"{who} asks for the label {label!r}, which the data set {settings.data} lacks; "
                f"{closest(label, fields)}"
            )
    missing = objective.requires - frozenset(encoder.provides)
    if missing:
        wanted = ", ".join(sorted(missing))
        raise NeedsError(
            f"{who} asks for {wanted}, which encoder {_name(settings.encoder)} does not provide "
            f"(it provides {', '.join(sorted(encoder.provides)) or 'nothing'}); "
            f"{_offer(lambda other: objective.requires <= frozenset(other.provides))}"
        )
    compositions = AMOUNT in fields and not settings.filter.structures
    if compositions and objective.needs_structures:
        raise NeedsError(
            f"{who} asks for structures, but the data set {settings.data} holds compositions, "
            "which have none; filter.structures=true leaves them out and counts them"
        )
    if compositions and encoder.spec.rule != "composition":
        raise NeedsError(
            f"encoder {_name(settings.encoder)} asks for structures, but the data set "
            f"{settings.data} holds compositions, which have none; "
            f"{_offer(lambda other: other.spec.rule == 'composition')}"
        )
    _check_coupling(settings, encoder, objective, report)


def _check_coupling(
    settings: RunSettings, encoder: Encoder, objective: Objective, report: Report
) -> None:
    """Refuses what would make the result depend on how a step is spread."""
    compute, micro_batches = settings.compute, settings.batch.micro_batches
    workers = compute.workers if compute.backend == "ray" else 1
    coupling = encoder.couples_records and not _is_frozen(encoder, report)
    name = _name(settings.encoder)
    if coupling and objective.forbids_coupling:
        raise NeedsError(
            f"objective {_name(settings.objective)} asks that the energy of a crystal depends on "
            f"that crystal alone, but the norm of encoder {name} couples the records of a batch; "
            f"set encoder.norm=layer or none; "
            f"{_offer(lambda other: not other.couples_records)}"
        )
    if coupling and micro_batches > 1:
        raise NeedsError(
            f"the norm of encoder {name} couples the records of a batch, but batch.micro_batches="
            f"{micro_batches} spreads a step over several; set batch.micro_batches=1, or "
            "encoder.norm=layer"
        )
    if coupling and workers > 1 and not _is_synchronised(encoder):
        raise NeedsError(
            f"the norm of encoder {name} couples the records of a batch, but compute.workers="
            f"{workers} spreads a step over several processes; set encoder.norm=sync_batch "
            "(statistics over all workers) or layer, or compute.workers=1"
        )


def _norms(encoder: Encoder) -> dict[str, nn.Module]:
    """Returns the encoder's modules with batch statistics, by their name in the model."""
    if not isinstance(encoder, nn.Module):
        return {}
    return {
        f"encoder.{name}": module
        for name, module in encoder.named_modules()
        if getattr(module, "running_mean", None) is not None
    }


def _is_frozen(encoder: Encoder, report: Report) -> bool:
    norms = _norms(encoder)
    return bool(norms) and norms.keys() <= set(report.eval_modules)


def _is_synchronised(encoder: Encoder) -> bool:
    norms = _norms(encoder)
    return bool(norms) and all(getattr(m, "synchronised", False) for m in norms.values())


def _offer(fits: Callable[[Encoder], bool]) -> str:
    """Returns which encoder configs of the installation would do."""
    names = [name for name, encoder in _installed_encoders() if fits(encoder)]
    names = [name for name in names if not name.endswith("_paper")] or names
    return f"encoder={' or '.join(names)} would do" if names else "no installed encoder would do"


def _installed_encoders() -> Iterator[tuple[str, Encoder]]:
    folder = files("epitaxy.conf").joinpath("encoder")
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir(), key=lambda item: item.name):
        if path.name.endswith(".yaml"):
            try:
                yield path.name.removesuffix(".yaml"), build(yaml.safe_load(path.read_text()))
            except (EpitaxyError, TypeError, ValueError):
                continue  # a config that needs further values is no ready offer


def _name(config: Mapping[str, Any]) -> str:
    return str(config.get("_target_", "")).rpartition(".")[2]

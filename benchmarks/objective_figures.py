"""What a trained objective is worth on its validation split, beside a trivial prediction.

Each figure is computed from the final weights of a run, its trivial counterpart from the labels or
views of the same records. Constants that a trivial prediction needs are the best there are for
these very records (their mean, their class frequencies), except for labels of properties and space
groups, where they are those of the training split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epitaxy.data.derived import derivable, to_derive
from epitaxy.data.mixture import Data, digests_of, open_data
from epitaxy.data.plan import Plan
from epitaxy.data.stream import Stream
from epitaxy.heads.losses import elementwise_loss
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Coupling, Views
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import FINAL, load_model
from epitaxy.train.folders import read_json
from epitaxy.train.identity import RUN
from epitaxy.train.parts import DTYPES
from epitaxy.train.settings import RunSettings, from_dict
from epitaxy.train.teacher import introduce, load_teacher
from epitaxy.train.worker import plans_of

SHOWN = 4000
"""Points of a parity plot, an even sample."""


@dataclass(frozen=True)
class Figure:
    """One number of the validation split.

    Attributes:
        name: What it is.
        learnt: Of the trained model.
        trivial: Of the trivial prediction.
        baseline: What that is.
        unit: Of both.
    """

    name: str
    learnt: float
    trivial: float
    baseline: str
    unit: str = ""


@dataclass(frozen=True)
class Trained:
    """A finished run: its model, and the validation split in batches.

    Attributes:
        model: Final weights, eval mode.
        objective: With statistics and, if it needs one, its teacher.
        views: Of each batch.
        others: The same with the records of a batch moved on by one.
        data: What it was trained on.
        train: Plan of the training split.
    """

    model: Model
    objective: Any
    views: Sequence[Views]
    others: Sequence[Views]
    data: Data
    train: Plan


def open_run(run: Path) -> Trained:
    """Returns a finished run, ready to be examined."""
    stored = read_json(run / RUN)
    settings: RunSettings = from_dict(RunSettings, stored["settings"])
    data = open_data(settings.data, digests_of(stored["data"]))
    model, objective, _ = load_model(run / FINAL)
    dtype = DTYPES[settings.loop.precision]
    introduce(load_teacher(settings.teacher, dtype), objective)
    plans, _ = plans_of(settings, data, model.encoder.spec)
    fields = {**derivable(), **data.fields}
    seen = dict.fromkeys(
        [*objective.labels, *(name for name in ("forces",) if name in data.fields)]
    )
    labels = tuple(fields[name] for name in seen)
    derived = to_derive(data, objective.labels)
    make = Assembler(objective, model.encoder.spec, labels, dtype, settings.seed, derived=derived)
    views, others = [], []
    for share in Stream(plans["val"], data):
        blobs = [blob for part in share.micro_batches for blob in part]
        views.append(make.views(blobs, 0, "validation"))
        others.append(make.views([*blobs[1:], *blobs[:1]], 0, "validation"))
    return Trained(model, objective, views, others, data, plans["train"])


def figures_of(run: Path) -> list[Figure]:
    """Returns the figures of a finished run."""
    trained = open_run(run)
    kind = type(trained.objective).__name__
    return _FIGURES[kind](trained)


@torch.no_grad()
def mean_terms(trained: Trained, views: Sequence[Views]) -> dict[str, float]:
    """Returns the mean of each loss term; one that compares crystals does so within a batch."""
    totals: dict[str, list[float]] = {}
    for batch in views:
        for name, term in trained.objective.terms(trained.model, batch).items():
            plain = term.alone() if isinstance(term, Coupling) else term
            entry = totals.setdefault(name, [0.0, 0.0])
            entry[0] += float(plain.total)
            entry[1] += float(plain.count)
    return {name: total / count for name, (total, count) in totals.items() if count}


def _forces(trained: Trained) -> list[Figure]:
    """Errors of what was trained; an energy is compared with its element reference."""
    objective, figures = trained.objective, []
    total = sum(objective.weights.values())
    for name, unit in (("energy", "eV/atom"), ("forces", "eV/Å"), ("stress", "eV/Å³")):
        if name not in objective.labels or objective.weights[name] < total / 100:
            continue  # an energy of weight 1 beside 1,000 is not what is learnt
        errors, sizes = [], []
        for (batch,) in trained.views:
            predicted, mask = objective.predict(trained.model, batch)[name], batch.masks[name]
            target, nothing = batch.labels[name], torch.zeros_like(predicted)
            if name == "energy":
                nothing = objective._reference_energy(batch)
                predicted, target, nothing = (
                    values / batch.num_atoms for values in (predicted, target, nothing)
                )
            errors.append((predicted - target)[mask].detach().abs().flatten())
            sizes.append((nothing - target)[mask].abs().flatten())
        baseline = "element reference" if name == "energy" else "zero"
        learnt, trivial = (float(torch.cat(parts).mean()) for parts in (errors, sizes))
        figures.append(Figure(name, learnt, trivial, baseline, unit))
    return figures


def _noise(trained: Trained) -> list[Figure]:
    objective = trained.objective
    targets = torch.cat([objective.factor * batch.labels["noise"] for (batch,) in trained.views])
    nothing = float(elementwise_loss(objective.loss, targets, objective.delta).mean())
    learnt = mean_terms(trained, trained.views)["noise"]
    return [Figure("noise", learnt, nothing, "no noise", "σ")]


def _crysgnn(trained: Trained) -> list[Figure]:
    learnt, objective = mean_terms(trained, trained.views), trained.objective
    batches = [batch for (batch,) in trained.views]
    figures = []
    if "features" in learnt:
        decoder = trained.model.head["features"]
        targets = torch.cat([decoder.targets(batch.numbers) for batch in batches])
        weights = torch.cat(
            [
                (1.0 / batch.num_atoms)[batch.graph_index]
                if objective.reduction == "per_crystal"
                else torch.ones(len(batch.numbers))
                for batch in batches
            ]
        ).unsqueeze(-1)
        share = (weights * targets).sum(0) / weights.sum()
        entropy = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean()
        figures.append(
            Figure("features", learnt["features"], float(entropy), "frequency of each bin", "nat")
        )
    if "connectivity" in learnt:
        pairs = [objective._pairs(batch) for batch in batches]
        classes, weights = (
            torch.cat([getattr(p, n) for p in pairs]) for n in ("classes", "weights")
        )
        share = torch.bincount(classes, weights.double(), minlength=6) / weights.double().sum()
        entropy = -torch.xlogy(share, share).sum()
        baseline = "frequency of each number of bonds"
        figures.append(
            Figure("connectivity", learnt["connectivity"], float(entropy), baseline, "nat")
        )
    if "space_group" in learnt:
        groups = torch.cat([b.labels["space_group"][b.masks["space_group"]] for b in batches])
        seen = trained.data.label_table(trained.train.rows).scalar("space_group")
        counts = torch.bincount(torch.from_numpy(seen[~np.isnan(seen)]).long(), minlength=231)
        share = (counts + 1.0) / (counts + 1.0)[1:].sum()  # every group may occur
        trivial = float(-share.log()[groups.long()].mean())
        baseline = "frequency of each space group in training"
        figures.append(Figure("space_group", learnt["space_group"], trivial, baseline, "nat"))
    if "contrast" in learnt:
        figures.append(_contrast(trained, learnt["contrast"]))
    return figures


@torch.no_grad()
def _contrast(trained: Trained, learnt: float) -> Figure:
    """Beside vectors that point anywhere."""
    generator = torch.Generator().manual_seed(0)
    total = count = 0.0
    for views in trained.views:
        coupling = trained.objective.terms(trained.model, views)["contrast"]
        rows = {
            name: torch.randn(values.shape, generator=generator)
            if values.is_floating_point()
            else values
            for name, values in coupling.rows.items()
        }
        total += float(coupling.loss(rows)) * coupling.count
        count += coupling.count
    return Figure("contrast", learnt, total / count, "random vectors", "nat")


def _twins(trained: Trained) -> list[Figure]:
    """Beside pairs of views of which the second is of another crystal."""
    wrong = [(one[0], other[1]) for one, other in zip(trained.views, trained.others, strict=True)]
    learnt, trivial = mean_terms(trained, trained.views), mean_terms(trained, wrong)
    return [Figure(name, learnt[name], trivial[name], "other crystals") for name in learnt]


def _vectors(trained: Trained, targets: Callable[[Views], Tensor]) -> list[Figure]:
    """Beside the mean vector."""
    vectors = torch.cat([targets(views) for views in trained.views])
    trivial = float((vectors - vectors.mean(0)).square().mean())
    ((name, learnt),) = mean_terms(trained, trained.views).items()
    return [Figure(f"{name}, squared error", learnt, trivial, "mean vector")]


def _fingerprint(trained: Trained) -> list[Figure]:
    objective = trained.objective
    return _vectors(trained, lambda views: objective._scaled(views[0].labels[objective.label]))


def _multimodal(trained: Trained) -> list[Figure]:
    return _vectors(trained, lambda views: trained.objective._taught(views[1]))


@torch.no_grad()
def _labels(trained: Trained) -> list[Figure]:
    objective, figures = trained.objective, []
    table = trained.data.label_table(trained.train.rows)
    predictions = [objective.predict(trained.model, batch) for (batch,) in trained.views]
    for name in objective.labels:
        known = table.scalar(name)[table.present(name)]
        mean, errors, spread = float(known.mean()), [], []
        for (batch,), predicted in zip(trained.views, predictions, strict=True):
            target = batch.labels[name][batch.masks[name]]
            errors.append((predicted[name][batch.masks[name]] - target).abs())
            spread.append((target - mean).abs())
        learnt, trivial = (float(torch.cat(parts).mean()) for parts in (errors, spread))
        figures.append(Figure(name, learnt, trivial, "mean", objective.units[name]))
    return figures


_FIGURES: dict[str, Callable[[Trained], list[Figure]]] = {
    "EnergyForceStress": _forces,
    "Denoising": _noise,
    "DerivativeDenoising": _noise,
    "CrysGNN": _crysgnn,
    "BarlowTwins": _twins,
    "SimSiam": _twins,
    "Fingerprint": _fingerprint,
    "Multimodal": _multimodal,
    "Regression": _labels,
}


def parity_of(run: Path) -> dict[str, Any]:
    """Returns forces, or noise, as predicted and as they are; nothing for other objectives."""
    trained = open_run(run)
    label = "noise" if any(f.name == "noise" for f in trained.objective.made) else "forces"
    if label == "forces" and type(trained.objective).__name__ != "EnergyForceStress":
        return {}
    true, predicted = [], []
    for (batch,) in trained.views:
        mask = batch.masks[label]
        true.append(batch.labels[label][mask].flatten())
        predicted.append(trained.objective.predict(trained.model, batch)[label][mask].flatten())
    pairs = torch.stack([torch.cat(true), torch.cat(predicted).detach()])
    step = max(1, pairs.shape[1] // SHOWN)
    one, other = (values[::step].tolist() for values in pairs)
    unit = {"noise": "Å", "forces": "eV/Å"}[label]
    return {"label": label, "true": one, "predicted": other, "unit": unit}

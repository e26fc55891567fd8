"""Several objectives at once: a weighted sum of their losses, through one encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor, nn

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.balance import make_balance
from epitaxy.objectives.contract import BaseObjective, Coupling, Term, Terms, Views
from epitaxy.objectives.encode_once import EncodeOnce
from epitaxy.objectives.head_owners import heads_of_all, model_of
from epitaxy.objectives.part import Part, make_parts


class Combined(BaseObjective):
    """``L = Σ_parts w(t) L_part``; the terms are called ``<part>.<term>``.

    **Views.** Parts that look at the crystal as it is share one view and one pass through the
    encoder; derivatives are taken on copies, and so have passes of their own. Each other part has
    its own views, after the shared one, and random numbers that depend on its name and on no other
    part.

    **Heads.** A role that one part owns has its usual name, ``head.<role>``. Of several parts that
    own it the first in order gets that; in the others it is ``head.<part>.<role>``, or the first
    one's head itself if the part says ``share``.

    **Weights.** A number, or a ramp ``{start, end, from, to}`` over the fraction of the run's
    records. While its weight is 0 a part is not computed. Validation takes the weights of the
    run's end.

    **Predictions** are those of all parts that predict; of two that predict the same label the
    first in order does.

    Args:
        parts: Name to ``objective``, ``weight`` (1) and ``share`` (false).
        order: Names of the parts, the first first; alphabetical by default, because a mapping that
            was stored no longer knows the order in which it was written.
        balance: ``{every: 16, decay: 0.9, limit: 100}`` keeps the gradients that the parts send
            into the encoder in the ratio of the weights: see ``train.balance``.

    Raises:
        ConfigError: If a part makes no sense, or two contradict each other.
    """

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, Any]],
        *,
        order: Sequence[str] | None = None,
        balance: Mapping[str, Any] | None = None,
    ) -> None:
        self.parts = make_parts(parts, order)
        self.balance = None if balance is None else make_balance(balance, len(self.parts))
        everyone = [part.objective for part in self.parts]
        self.labels = _union(one.labels for one in everyone)
        self.made = self._made()
        self.fits_on = _union(one.fits_on for one in everyone)
        self.specs = _union(one.specs for one in everyone)
        self.requires = frozenset().union(*(one.requires for one in everyone))
        self.couples_records = any(one.couples_records for one in everyone)
        self.forbids_coupling = any(one.forbids_coupling for one in everyone)
        self.needs_structures = any(one.needs_structures for one in everyone)
        self.needs_teacher = any(one.needs_teacher for one in everyone)
        self._sharing = [part for part in self.parts if part.objective.plain_view]
        # Metrics of predictions are those of the first view, so what can predict comes first.
        self._separate = sorted(
            (part for part in self.parts if not part.objective.plain_view),
            key=lambda part: type(part.objective).predict is BaseObjective.predict,
        )
        self._views_of = self._deal_views()
        self._list_predictions()
        self.begin(0.0)

    @property
    def plain_view(self) -> bool:
        """Whether all parts share the one view."""
        return not self._separate

    def receive(self, teacher: Encoder) -> None:
        """Gives the teacher to all parts that learn from one.

        Raises:
            ConfigError: If none does.
        """
        if not self.needs_teacher:
            super().receive(teacher)
        for part in self.parts:
            if part.objective.needs_teacher:
                part.objective.receive(teacher)

    @property
    def training_means(self) -> dict[str, float]:
        """Mean of the training labels, of those predicted labels of which it is known."""
        return self._of_labels("training_means")

    @property
    def ranges(self) -> dict[str, float]:
        """Range of the training labels, of those predicted labels whose range sets their scale."""
        return self._of_labels("ranges")

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns the heads of all parts; ``<part>`` holds those whose role was taken.

        Raises:
            ConfigError: If a part would share a head that differs, or none.
        """
        return heads_of_all(self.parts, encoder)

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns the statistics of each part."""
        statistics = {part.name: part.objective.fit(table) for part in self.parts}
        self._list_predictions()
        return statistics

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over the statistics of each part."""
        for part in self.parts:
            part.objective.adopt(statistics[part.name])
        self._list_predictions()

    def view_specs(self, spec: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
        """Returns the graphs of the shared view, if there is one, and of each part's own."""
        shared = [part.objective.view_specs(spec)[0] for part in self._sharing]
        own = [graphs for part in self._separate for graphs in part.objective.view_specs(spec)]
        return (_union(shared), *own) if shared else tuple(own)

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the shared view, if there is one, and each part's own."""
        key = rng.bytes(16)
        shared = record
        for part in self._sharing:  # each may leave out labels that mean nothing there
            (shared,) = part.objective.views(shared, part.generator(key))
        own = [
            view
            for part in self._separate
            for view in part.objective.views(record, part.generator(key))
        ]
        return (shared, *own) if self._sharing else tuple(own)

    def begin(self, progress: float) -> None:
        """Sets the weights for the next step."""
        self.part_weights = {part.name: part.ramp.at(progress) for part in self.parts}
        for part in self.parts:
            part.objective.begin(progress)

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns the counts of the parts that weigh something at present."""
        return {
            f"{part.name}.{name}": count
            for part in self._active()
            for name, count in part.objective.counts(views[self._views_of[part.name]]).items()
        }

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the terms of the parts that weigh something at present."""
        encoder = EncodeOnce(model.encoder, views[0]) if len(self._sharing) > 1 else model.encoder
        terms: dict[str, Term | Coupling] = {}
        for part in self._active():
            weight = self.part_weights[part.name]
            own = model_of(part, model, encoder)
            for name, term in part.objective.terms(own, views[self._views_of[part.name]]).items():
                terms[f"{part.name}.{name}"] = replace(term, weight=weight * term.weight)
        return terms

    def predict(self, model: Model, batch: CrystalBatch) -> dict[str, Tensor]:
        """Returns what the parts predict; the first in order has the word on a label.

        Raises:
            NeedsError: If no part predicts.
        """
        predicting = [part for part in self.parts if part.objective.units]
        if not predicting:
            return super().predict(model, batch)
        encoder = EncodeOnce(model.encoder, batch)
        predictions: dict[str, Tensor] = {}
        for part in predicting:
            if part.objective.units.keys() - predictions.keys():
                own = model_of(part, model, encoder)
                predictions = {**part.objective.predict(own, batch), **predictions}
        return predictions

    def _of_labels(self, fact: str) -> dict[str, float]:
        """Returns what the part that predicts a label knows of it, where it does."""
        found: dict[str, float | None] = {}
        for part in self.parts:
            known: Mapping[str, float] = getattr(part.objective, fact, {})
            for label in part.objective.units:
                found.setdefault(label, known.get(label))
        return {label: value for label, value in found.items() if value is not None}

    def _active(self) -> Iterator[Part]:
        return (part for part in self.parts if self.part_weights[part.name] > 0)

    def _deal_views(self) -> dict[str, slice]:
        """Returns which of all views each part reads."""
        for part in self._sharing:
            if part.num_views != 1:
                raise ConfigError(f"parts.{part.name} has {part.num_views} plain views, not one")
        first = int(bool(self._sharing))
        bounds = accumulate((part.num_views for part in self._separate), initial=first)
        own = {
            part.name: slice(start, start + part.num_views)
            for part, start in zip(self._separate, bounds, strict=False)
        }
        return own | {part.name: slice(0, 1) for part in self._sharing}

    def _made(self) -> tuple[LabelField, ...]:
        """Returns the labels that views add; views differ by part, but not what a name means."""
        fields: dict[str, LabelField] = {}
        for part in self.parts:
            for field in part.objective.made:
                if field.name in self.labels:
                    raise ConfigError(
                        f"parts.{part.name} makes the label {field.name!r} itself, but another "
                        "part reads that of the data set; rename it there"
                    )
                known = fields.setdefault(field.name, field)
                if known != field:
                    raise ConfigError(
                        f"parts.{part.name} makes the label {field.name!r} as {field}, a part "
                        f"before it as {known}; leave one of them out"
                    )
        return tuple(fields.values())

    def _list_predictions(self) -> None:
        """Fills in units and numbers of classes of what the parts predict."""
        units: dict[str, str] = {}
        classes: dict[str, int] = {}
        for part in self.parts:
            for label, unit in part.objective.units.items():
                if units.get(label, unit) != unit:
                    raise ConfigError(
                        f"parts.{part.name} predicts {label!r} in {unit!r}, a part before it in "
                        f"{units[label]!r}; give the labels of one of them another name"
                    )
                if label not in units and label in part.objective.class_counts:
                    classes[label] = part.objective.class_counts[label]
                units[label] = unit
        self.units, self.class_counts = units, classes


def _union(groups: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """Returns what occurs in any group, once, in order."""
    return tuple(dict.fromkeys(item for group in groups for item in group))

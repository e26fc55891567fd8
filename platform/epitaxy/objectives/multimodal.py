"""Multimodal learning: a composition is taught what a frozen encoder sees in its structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from epitaxy.encoders.contract import Encoder
from epitaxy.encoders.pooling import crystal_vector, crystal_width
from epitaxy.errors import NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import BaseObjective, Term, Terms, Views
from epitaxy.objectives.crystal_target import (
    HIDDEN,
    HeadName,
    check_head,
    mean_squares,
    read,
    target_head,
)
from epitaxy.shapes import GraphFeatures

HEAD = "multimodal"
"""Also the name of its one term."""


class Multimodal(BaseObjective):
    """The crystal vector ``z`` of a frozen teacher, read from a student's: mean of ``(out − z)²``.

    Each record has two views: what the student reads, which is its composition for an encoder of
    compositions (``encoder=roost``), and its structure for the teacher (roost_pretraining, whose
    teacher is the CGCNN of Crystal Twins). ``z`` is the teacher's own crystal vector, or the mean
    over its states of the atoms.

    # Differs from PretrainRoost, which stores the teacher's vectors by material: here they are made
    in each step, so any teacher will do for any data set.

    The head ``multimodal`` is as wide as the teacher's vector. That width is among the statistics,
    so the model is loaded, fine-tuned and examined without the teacher. It predicts no label.

    Args:
        head: ``mlp`` or ``linear``.
        hidden: Widths of the hidden layers of ``mlp``.

    Raises:
        ConfigError: If the head is unknown or has no layers.
    """

    needs_structures = True
    needs_teacher = True

    def __init__(self, *, head: HeadName = "mlp", hidden: Sequence[int] = HIDDEN) -> None:
        check_head(head, hidden)
        self.head: HeadName = head
        self.hidden = tuple(hidden)
        self._width = 0
        self._teacher: Encoder | None = None

    def receive(self, teacher: Encoder) -> None:
        """Takes the teacher."""
        self._teacher = teacher
        self._width = crystal_width(teacher)

    def heads(self, encoder: Encoder) -> dict[str, nn.Module]:
        """Returns the head ``multimodal``.

        Raises:
            NeedsError: If neither a teacher nor statistics tell its width.
        """
        if not self._width:
            raise NeedsError(
                "objective Multimodal has a head as wide as its teacher's vector, and there is no "
                "teacher; give teacher=NAME@ALIAS or a model folder"
            )
        return {HEAD: target_head(encoder, self.head, self.hidden, self._width)}

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns the width of the teacher's crystal vector."""
        return {"width": self._width}

    def adopt(self, statistics: Mapping[str, Any]) -> None:
        """Takes over ``width``."""
        self._width = int(statistics["width"])

    def view_specs(self, spec: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
        """Returns the graph of the student, and that of the teacher (none without a teacher)."""
        return ((spec,), () if self._teacher is None else (self._teacher.spec,))

    def views(self, record: CrystalRecord, rng: np.random.Generator) -> tuple[CrystalRecord, ...]:
        """Returns the record twice: the graphs of a view decide what becomes of it."""
        return (record, record)

    def counts(self, views: Views) -> Mapping[str, float]:
        """Returns the number of records."""
        return {HEAD: views[0].num_graphs}

    def terms(self, model: Model, views: Views) -> Terms:
        """Returns the squared error, averaged over the columns of each record.

        Raises:
            NeedsError: If the model was loaded without its teacher.
        """
        seen, structure = views
        target = self._taught(structure)
        losses = mean_squares(read(model, HEAD, seen) - target)
        return {HEAD: Term(losses.sum(), self.counts(views)[HEAD])}

    @torch.no_grad()
    def _taught(self, batch: CrystalBatch) -> GraphFeatures:
        return crystal_vector(self._require_teacher()(batch), batch)

    def _require_teacher(self) -> Encoder:
        if self._teacher is None:
            raise NeedsError(
                "objective Multimodal learns from a teacher, which a model that was loaded from a "
                "folder does not have; train it with teacher=NAME@ALIAS or a model folder"
            )
        return self._teacher

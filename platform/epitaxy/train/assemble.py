"""Turns encoded records into batches on their way to the device; runs in prefetch threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from epitaxy.data.codec import decode
from epitaxy.data.stream import Share
from epitaxy.graph.collate import collate, geometry
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.objectives.contract import Objective
from epitaxy.train.loop import PreparedStep
from epitaxy.train.random import generator
from epitaxy.train.transfer import Courier, Views, courier_to


@dataclass(frozen=True)
class Assembler:
    """Makes batches.

    Attributes:
        objective: Makes the views.
        specs: Graphs to build for each view.
        fields: Labels to collate.
        dtype: Of floating-point tensors.
        seed: Of the run.
        example: Any record: tells how many views an empty batch needs.
        courier: Sends batches ahead to the device, and builds there the graphs it says.
    """

    objective: Objective
    specs: tuple[GraphSpec, ...]
    fields: tuple[LabelField, ...]
    dtype: torch.dtype
    seed: int
    example: CrystalRecord
    courier: Courier = field(default_factory=lambda: courier_to(torch.device("cpu")))

    def step(self, share: Share) -> PreparedStep:
        """Returns the batches of one training step."""
        epoch = share.cursor.epoch
        batches = (self.views(blobs, epoch, "views") for blobs in share.micro_batches)
        return PreparedStep(share.cursor, tuple(batches))

    def validation(self, share: Share) -> Views:
        """Returns one validation batch; its views are the same in every epoch."""
        return self.views([blob for part in share.micro_batches for blob in part], 0, "validation")

    def views(self, blobs: Sequence[bytes], epoch: int, stream: str) -> Views:
        """Returns the views of encoded records, one batch per view."""
        records = [decode(blob) for blob in blobs]
        drawn = [
            self.objective.views(record, generator(self.seed, epoch, record.id, stream))
            for record in records
        ]
        count = len(drawn[0] if drawn else self._example_views())
        several = [[views[i] for views in drawn] for i in range(count)]
        here = tuple(spec for spec in self.specs if spec not in self.courier.specs)
        batches = tuple(collate(records, here, self.fields, self.dtype) for records in several)
        return self.courier.send(
            batches, [geometry(records) for records in several if self.courier.specs]
        )

    def _example_views(self) -> tuple[CrystalRecord, ...]:
        rng = generator(self.seed, 0, self.example.id, "example")
        return self.objective.views(self.example, rng)

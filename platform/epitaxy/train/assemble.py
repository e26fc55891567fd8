"""Turns encoded records into batches on their way to the device; runs in prefetch threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from epitaxy.data.codec import decode
from epitaxy.data.derived import derive
from epitaxy.data.edge_cache import EdgeCache, is_cacheable
from epitaxy.data.stream import Share
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate, geometry
from epitaxy.graph.hiding import hide_edges
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
        fields: Labels to collate: those of the data set, and those that are derived.
        dtype: Of floating-point tensors.
        seed: Of the run.
        spec: Graph that the encoder reads.
        courier: Sends batches ahead to the device, and builds there the graphs it says.
        cache: Edges of structures that were seen before, if they are kept.
        derived: Labels to derive from records that lack them.
    """

    objective: Objective
    spec: GraphSpec
    fields: tuple[LabelField, ...]
    dtype: torch.dtype
    seed: int
    courier: Courier = field(default_factory=lambda: courier_to(torch.device("cpu")))
    cache: EdgeCache | None = None
    derived: tuple[str, ...] = ()

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
        records = [derive(decode(blob), self.derived) for blob in blobs]
        drawn = [
            self.objective.views(record, generator(self.seed, epoch, record.id, stream))
            for record in records
        ]
        specs = self.objective.view_specs(self.spec)
        several = [[views[i] for views in drawn] for i in range(len(specs))]
        batches = tuple(map(self._batch, several, specs))
        return self.courier.send(
            batches, [geometry(records) for records in several if self.courier.specs]
        )

    def _batch(self, records: Sequence[CrystalRecord], wanted: Sequence[GraphSpec]) -> CrystalBatch:
        """Returns one batch with the graphs that are built on the host."""
        specs = [spec for spec in wanted if spec not in self.courier.specs]
        if len(specs) < len(wanted):
            _refuse_hidden_edges(records)
        kept = [spec for spec in specs if self.cache is not None and is_cacheable(spec)]
        built = [spec for spec in specs if spec not in kept]
        batch = collate(records, built, (*self.fields, *self.objective.made), self.dtype)
        if self.cache is None or not kept:
            return batch
        cached = {spec: hide_edges(self.cache.graph(spec, records), spec, records) for spec in kept}
        return batch.replace(graphs={**batch.graphs, **cached})


def _refuse_hidden_edges(records: Sequence[CrystalRecord]) -> None:
    if any(record.hiding is not None and record.hiding.edges for record in records):
        raise ConfigError(
            "compute.edges=device builds graphs with all their edges, but the objective's views "
            "hide some; set compute.edges=host, or the objective's edge_mask=0"
        )

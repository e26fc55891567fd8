"""Batches on their way to the device: copied ahead of their step, edges built there on request.

The prefetch threads send a batch, the step receives it. On a GPU the copies run on a stream of
their own while the step before is computed; on the CPU the same code copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from epitaxy.graph.batch import CrystalBatch, Geometry, Graph, LineGraph
from epitaxy.graph.device_edges import build_edges_on_device
from epitaxy.graph.spec import GraphSpec
from epitaxy.objectives.contract import Views


class SentViews(Views):
    """Views on the host, whose copies are on their way to the device."""

    arrival: Arrival


@dataclass(frozen=True)
class Arrival:
    """Copies that are, or soon will be, on the device.

    Attributes:
        copies: Not to be touched before ``lane.join``.
        lane: Which brings them.
        mark: The point in the lane's work at which all are there.
    """

    copies: Views
    lane: Lane
    mark: Any


class Lane:
    """Where copies are made. On the CPU: here and now."""

    def work(self) -> AbstractContextManager[Any]:
        """Returns a context in which copies and kernels go to this lane."""
        return nullcontext()

    def mark(self) -> Any:
        """Returns the point that the lane's work has reached."""
        return None

    def join(self, mark: Any, tensors: Iterator[Tensor]) -> None:
        """Lets the caller's own work go on only after ``mark``, and lends it ``tensors``."""


class CudaLane(Lane):
    """A CUDA stream beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def work(self) -> AbstractContextManager[Any]:
        """Returns a context in which copies and kernels go to this stream."""
        return torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event:
        """Returns an event behind everything the stream was given."""
        return self._stream.record_event()

    def join(self, mark: Any, tensors: Iterator[Tensor]) -> None:
        """Makes the current stream wait for ``mark``; the host does not wait."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(mark)
        for tensor in tensors:
            # Their memory is this lane's: it must not be used again before the step is done.
            tensor.record_stream(current)


@dataclass(frozen=True)
class Courier:
    """Sends views to a device.

    Attributes:
        device: Where the model lives.
        lane: By which way.
        specs: Graphs that are built on the device.
    """

    device: torch.device
    lane: Lane
    specs: tuple[GraphSpec, ...] = ()

    def send(self, views: Views, geometries: Sequence[Geometry] = ()) -> SentViews:
        """Starts copying and returns at once; with ``specs``, one geometry belongs to each view.

        On a GPU the views' memory is pinned first, so that copies need not wait for the host.
        """
        pinned = views
        if self.device.type == "cuda":
            pinned = tuple(view.pin_memory() for view in views)
        with self.lane.work():
            copies = tuple(view.to(self.device) for view in pinned)
            if self.specs:
                copies = tuple(map(self._with_edges, copies, geometries))
            mark = self.lane.mark()
        sent = SentViews(pinned)
        sent.arrival = Arrival(copies, self.lane, mark)
        return sent

    def _with_edges(self, view: CrystalBatch, geometry: Geometry) -> CrystalBatch:
        placed = geometry.to(self.device)
        built = {spec: build_edges_on_device(placed, spec) for spec in self.specs}
        return view.replace(graphs={**view.graphs, **built})


def courier_to(device: torch.device, specs: tuple[GraphSpec, ...] = ()) -> Courier:
    """Returns a courier for ``device``; on a GPU it has a stream of its own."""
    return Courier(device, CudaLane(device) if device.type == "cuda" else Lane(), specs)


def receive(views: Views, device: torch.device) -> Views:
    """Returns ``views`` on ``device``: those that were sent ahead, or copies made now."""
    if not isinstance(views, SentViews):
        return tuple(view.to(device) for view in views)
    arrival = views.arrival
    arrival.lane.join(arrival.mark, _tensors(arrival.copies))
    return arrival.copies


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yields every tensor in batches, graphs and dictionaries of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, CrystalBatch | Graph | LineGraph):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)

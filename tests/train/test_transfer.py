"""Batches sent ahead: the same on every way, awaited before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate, geometry
from epitaxy.graph.spec import GraphSpec
from epitaxy.train.launch import launch
from epitaxy.train.settings import ComputeSettings
from epitaxy.train.transfer import Courier, CudaLane, Lane, SentViews, courier_to, receive
from epitaxy.train.worker import _specs_on_device

CPU = torch.device("cpu")
SPEC = GraphSpec(cutoff=5.0)


class Recording(Lane):
    """A lane that notes what happens in which order, as a CUDA stream would have it."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @contextmanager
    def work(self) -> Iterator[None]:
        self.events.append("work")
        yield
        self.events.append("worked")

    def mark(self) -> Any:
        self.events.append("mark")
        return len(self.events)

    def join(self, mark: Any, tensors: Iterator[torch.Tensor]) -> None:
        self.events.append(("join", mark, [tensor.data_ptr() for tensor in tensors]))


@pytest.fixture
def batch(crystals: Any) -> CrystalBatch:
    fields = list(
        {f.name: f for r in crystals.many(2) for f in [r.labels["forces"].field("forces")]}.values()
    )
    return collate(crystals.many(4), (SPEC,), fields)


def tensors_of(batch: CrystalBatch) -> list[torch.Tensor]:
    graph = batch.graph(SPEC)
    return [
        batch.numbers, batch.positions, batch.cell, batch.graph_index, batch.num_atoms,
        *batch.labels.values(), *batch.masks.values(), graph.source, graph.target, graph.shifts,
    ]  # fmt: skip


def test_copies_are_marked_in_their_lane_and_every_tensor_is_joined(batch: CrystalBatch) -> None:
    lane = Recording()
    sent = Courier(CPU, lane).send((batch, batch))
    assert lane.events == ["work", "mark", "worked"], "sending waits for nothing"
    assert (sent[0] is batch, len(sent)) == (True, 2), "labels are counted on the host"
    copies = receive(sent, CPU)
    ((_, mark, joined),) = lane.events[3:]
    assert mark == 2
    wanted = {t.data_ptr() for copy in copies for t in tensors_of(copy) if t.numel()}
    assert {pointer for pointer in joined if pointer} == wanted


def test_views_that_nobody_sent_are_copied_when_they_are_received(batch: CrystalBatch) -> None:
    (received,) = receive((batch,), CPU)
    for found, expected in zip(tensors_of(received), tensors_of(batch), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("spec", [SPEC, GraphSpec("nearest", 8.0, 12)])
def test_edges_built_by_the_courier_are_those_of_the_host(crystals: Any, spec: GraphSpec) -> None:
    records = crystals.many(6, seed=2)
    courier = courier_to(CPU, (spec,))
    (received,) = receive(courier.send((collate(records, ()),), [geometry(records)]), CPU)
    expected = collate(records, (spec,)).graph(spec)
    for name in ("source", "target", "shifts"):
        assert torch.equal(getattr(received.graph(spec), name), getattr(expected, name))
    (empty,) = receive(courier.send((collate([], ()),), [geometry([])]), CPU)
    assert empty.graph(spec).num_edges == 0


@pytest.mark.parametrize("compute", [{"edges": "device"}, {"edge_cache": 0.01}])
def test_a_run_is_the_same_wherever_its_edges_come_from(
    make_settings: Any, compute: dict[str, Any]
) -> None:
    built = launch(make_settings("built"))
    threads = ComputeSettings(prefetch=3, prefetch_threads=3, **compute)
    other = launch(make_settings("other", compute=threads))
    for found, expected in zip(other.history, built.history, strict=True):
        assert {**found, "time": 0} == {**expected, "time": 0}


def test_a_graph_that_only_the_host_builds_is_refused() -> None:
    padded = GraphSpec("nearest", 8.0, 12, padded=True)
    device = ComputeSettings(edges="device")
    assert _specs_on_device(device, (SPEC,)) == (SPEC,)
    assert _specs_on_device(ComputeSettings(), (padded,)) == ()
    with pytest.raises(ConfigError, match=r"set compute\.edges=host"):
        _specs_on_device(device, (SPEC, padded))


@pytest.mark.gpu
@pytest.mark.parametrize("specs", [(), (SPEC,)], ids=["edges from the host", "edges on the device"])
def test_a_gpu_receives_what_the_host_sent(crystals: Any, specs: tuple[GraphSpec, ...]) -> None:
    device = torch.device("cuda")
    records = crystals.many(64, max_atoms=20)
    courier = courier_to(device, specs)
    assert isinstance(courier.lane, CudaLane)
    whole = collate(records, (SPEC,))
    for _ in range(50):  # memory is lent again and again, while kernels of the step still run
        sent = courier.send((collate(records, () if specs else (SPEC,)),), [geometry(records)])
        assert isinstance(sent, SentViews)
        assert sent[0].positions.is_pinned()
        (received,) = receive(sent, device)
        torch.cuda._sleep(1_000_000)
        for found, expected in zip(tensors_of(received), tensors_of(whole), strict=True):
            assert found.device.type == "cuda"
            assert torch.equal(found.cpu(), expected)

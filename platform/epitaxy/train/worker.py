"""What every training process runs, whether in the driver or in a Ray Train worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from epitaxy.data.derived import derivable, to_derive
from epitaxy.data.edge_cache import EdgeCache
from epitaxy.data.mixture import Data, digests_of, open_data
from epitaxy.data.partition import make_plans
from epitaxy.data.plan import Cursor, Plan
from epitaxy.data.prefetch import Patience, prefetch
from epitaxy.data.stream import Route, Stream
from epitaxy.errors import ConfigError, EpitaxyError
from epitaxy.graph.device_edges import builds_on_device
from epitaxy.graph.spec import GraphSpec
from epitaxy.train import checkpoint, collective
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import RunState
from epitaxy.train.ema import Ema
from epitaxy.train.folders import sole_writer, write_json
from epitaxy.train.logs import ConsumptionLog, MetricsLog, TimingLog, next_attempt
from epitaxy.train.loop import Loop
from epitaxy.train.parts import Parts, build_parts, make_optimizer, set_training
from epitaxy.train.precision import DTYPES, forward_context, numerics
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import ComputeSettings, RunSettings, from_dict, to_dict
from epitaxy.train.step import Stepper
from epitaxy.train.transfer import courier_to
from epitaxy.train.validate import validate

ERROR = "error.json"
"""Where rank 0 leaves an error for the driver, which raises it again in its own words."""

T = TypeVar("T")


def train_worker(config: Mapping[str, Any]) -> None:
    """Trains from the latest checkpoint to the end; every process of a run calls it.

    Args:
        config: ``settings`` (as a dictionary), ``plan`` (description), ``extra`` (statistics,
            fields and data, for ``model.json``), ``identity`` (for checkpoints), and ``ray``
            (whether this is a Ray Train worker).

    Raises:
        EpitaxyError: In the driver's own process. A Ray worker writes ``error.json`` and returns,
            since the error would be the same in every attempt.
    """
    settings: RunSettings = from_dict(RunSettings, config["settings"])
    try:
        with numerics(settings):
            _train(_together(lambda: _open(settings, config)))
    except EpitaxyError as error:
        if not config["ray"]:
            raise
        if collective.rank() == 0:
            content = {"type": type(error).__name__, "message": str(error)}
            write_json(Path(settings.directory) / ERROR, content)
    collective.barrier()


@dataclass(frozen=True)
class _Session:
    """Everything one process trains with."""

    settings: RunSettings
    dataset: Data
    plans: Mapping[str, Plan]
    parts: Parts
    assembler: Assembler
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    device: torch.device
    recorder: RunRecorder


def plans_of(
    settings: RunSettings, dataset: Data, spec: GraphSpec
) -> tuple[dict[str, Plan], dict[str, Any]]:
    """Returns the plans of a run by split, and the report on what they hold and leave out."""
    return make_plans(
        dataset,
        split=to_dict(settings.split),
        filter=to_dict(settings.filter),
        batch=to_dict(settings.batch),
        mix=to_dict(settings.mix),
        spec=spec,
        seed=settings.seed,
    )


def _open(settings: RunSettings, config: Mapping[str, Any]) -> _Session:
    device = _device(settings.compute, in_ray=config["ray"])
    dataset = open_data(settings.data, digests_of(config["extra"]["data"]))
    parts = build_parts(settings)
    encoder, objective = parts.model.encoder, parts.objective
    objective.adopt(config["extra"]["statistics"])
    for module in filter(None, (parts.model, parts.teacher)):
        module.to(device)
    plans, _ = plans_of(settings, dataset, encoder.spec)
    plans["train"].check(config["plan"])
    optimizer = make_optimizer(parts.model, parts.report, settings.optimizer)
    ema = Ema(parts.model, settings.loop.ema_decay) if settings.loop.ema_decay else None
    specs = tuple(dict.fromkeys(s for view in objective.view_specs(encoder.spec) for s in view))
    # Edges that the objective itself asks for stay on the host, where its counts may read them.
    movable = tuple(spec for spec in specs if spec not in objective.specs)
    fields = {**derivable(), **dataset.fields}
    assembler = Assembler(
        objective,
        encoder.spec,
        tuple(fields[name] for name in objective.labels),
        DTYPES[settings.loop.precision],
        settings.seed,
        courier=courier_to(device, _specs_on_device(settings.compute, movable)),
        cache=EdgeCache(int(settings.compute.edge_cache * 1e9))
        if settings.compute.edge_cache
        else None,
        derived=to_derive(dataset, objective.labels),
    )
    report = _ray_report if config["ray"] else None
    recorder = RunRecorder(
        settings, parts, optimizer, ema, config["extra"], config["identity"], report
    )
    return _Session(
        settings, dataset, plans, parts, assembler, optimizer, ema, device, recorder
    )  # fmt: skip


def _train(session: _Session) -> None:
    writer = sole_writer(session.recorder.run_dir)
    with ExitStack() as stack:
        _together(lambda: stack.enter_context(writer) if collective.rank() == 0 else None)
        _run(session, _resume(session))


def _run(session: _Session, state: RunState) -> None:
    settings, recorder, parts = session.settings, session.recorder, session.parts
    stepper = Stepper(
        parts.model,
        parts.objective,
        session.optimizer,
        settings.loop.clip_norm,
        session.ema,
        session.device,
        skip_non_finite=settings.loop.non_finite == "skip",
        forward=partial(forward_context, settings.loop.precision, session.device),
    )
    stepper.balancer.resume(state.steps, state.factors)
    loop = Loop(
        stepper,
        session.plans["train"],
        settings,
        recorder,
        validate=(lambda: _validate(session)) if session.plans["val"].num_records else None,
        set_training=lambda: set_training(parts.model, parts.report),
    )
    steps = _steps(session, Cursor(state.epoch, state.step))
    if recorder.timing is not None:
        steps = recorder.timing.waiting(steps)
    try:
        state = loop.run(state, steps)
    finally:
        steps.close()
        recorder.close()
    recorder.finish(state)


def _resume(session: _Session) -> RunState:
    """Returns where the run stands, the same on every rank, with everything loaded."""
    run_dir, recorder = session.recorder.run_dir, session.recorder
    rank, world = collective.rank(), collective.world_size()
    folder = collective.broadcast(
        _together(lambda: checkpoint.latest(run_dir) if rank == 0 else None)
    )
    model = session.parts.model
    if folder is None:
        state = RunState()
        collective.broadcast_tensors(model.state_dict().values())
    else:
        state = _together(
            lambda: checkpoint.load_checkpoint(folder, model, session.optimizer, session.ema)
        )
    state = collective.broadcast(
        _together(lambda: _continue_files(recorder, state, folder) if rank == 0 else None)
    )
    if session.settings.loop.log_consumption:
        attempt = collective.broadcast(next_attempt(run_dir) if rank == 0 else None)
        cursor = Cursor(state.epoch, state.step)
        recorder.consumption = ConsumptionLog(run_dir, attempt, rank, world, cursor)
    return state


def _continue_files(recorder: RunRecorder, state: RunState, folder: Path | None) -> RunState:
    """Removes what was undone or left half-written, and opens the metrics for appending."""
    checkpoint.tidy(recorder.run_dir, folder)
    recorder.metrics_log = MetricsLog(recorder.run_dir, state.steps)
    recorder.timing = TimingLog(recorder.run_dir)
    return recorder.reconcile_best(state)


def _steps(session: _Session, cursor: Cursor) -> Any:
    """Returns a generator of this rank's prepared steps, made ahead by threads."""
    settings, compute = session.settings, session.settings.compute
    route: Route = "ray" if (compute.stream, compute.backend) == ("ray", "ray") else "direct"
    shares = _open_stream(
        session,
        "train",
        route,
        micro_batches=settings.batch.micro_batches,
        cursor=cursor,
        epochs=settings.loop.epochs,
    )
    return prefetch(
        shares,
        compute.prefetch,
        session.assembler.step,
        threads=compute.prefetch_threads,
        patience=_patience(compute, route),
    )


def _validate(session: _Session) -> dict[str, float]:
    # Read directly even where training streams through Ray Data: each of its executions costs
    # one or two seconds, and an epoch's validation would need its own.
    compute = session.settings.compute
    batches = prefetch(
        _open_stream(session, "val", "direct"),
        compute.prefetch,
        session.assembler.validation,
        threads=compute.prefetch_threads,
        patience=_patience(compute, "direct"),
    )
    with session.ema.applied() if session.ema else nullcontext():
        return validate(session.parts.model, session.parts.objective, batches, session.device)


def _open_stream(session: _Session, split: str, route: Route, **options: Any) -> Stream:
    """Returns this rank's shares of a split."""
    return Stream(
        session.plans[split],
        session.dataset,
        route=route,
        rank=collective.rank(),
        world=collective.world_size(),
        **options,
    )


def _patience(compute: ComputeSettings, route: Route) -> Patience:
    how = "Ray Data's read tasks" if route == "ray" else "the shards, read directly"
    return Patience(
        compute.stall_warning,
        compute.stall_timeout,
        f"{how} (compute.stream={route}) on rank {collective.rank()}",
    )


def _device(compute: ComputeSettings, *, in_ray: bool) -> torch.device:
    """Returns the device of this process."""
    if not compute.use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "compute.use_gpu=true, but this process sees no CUDA device; check the driver and the "
            "torch build, or set compute.use_gpu=false"
        )
    if in_ray:
        from ray.train.torch import get_device

        device: torch.device = get_device()
        return device
    return torch.device("cuda", torch.cuda.current_device())


def _specs_on_device(
    compute: ComputeSettings, specs: tuple[GraphSpec, ...]
) -> tuple[GraphSpec, ...]:
    """Returns the graphs that are built where the model is.

    Raises:
        ConfigError: If one of them cannot be built there.
    """
    if compute.edges == "host":
        return ()
    for spec in specs:
        if not builds_on_device(spec):
            raise ConfigError(
                "compute.edges=device builds plain radius and nearest-neighbour graphs, not "
                f"{spec}; set compute.edges=host"
            )
    return specs


def _together(action: Callable[[], T]) -> T:
    """Returns the result of ``action``; if it fails on one rank, it fails on all."""
    result: T | None = None
    failure: EpitaxyError | None = None
    try:
        result = action()
    except EpitaxyError as error:
        failure = error
    collective.raise_together(failure)
    return result  # type: ignore[return-value]


def _ray_report(metrics: dict[str, Any]) -> None:
    import ray.train

    ray.train.report(metrics)

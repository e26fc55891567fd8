"""Starts or resumes a run: checks on the driver, then training here or in Ray Train workers."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import secrets
import shutil
import sys
import sysconfig
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import epitaxy
import epitaxy.errors
from epitaxy.data.mixture import digests_of, open_data
from epitaxy.data.selection import exclude_files
from epitaxy.errors import ConfigError, EpitaxyError
from epitaxy.train.checkpoint import CHECKPOINTS, FINAL
from epitaxy.train.folders import read_json
from epitaxy.train.follow import Follower, ProgressBar, Sink
from epitaxy.train.identity import RUN, Identity, check_same_run, identify, locked
from epitaxy.train.logs import read_metrics
from epitaxy.train.recorder import RESULT
from epitaxy.train.settings import ComputeSettings, RunSettings
from epitaxy.train.tracking import Tracker
from epitaxy.train.worker import ERROR, train_worker

OBJECT_STORE_BYTES = 300 * 2**20
"""Of a cluster started here: shares on their way, a few read tasks deep."""
RESIZE_S = 30.0
"""How often a run with fewer workers than it wants looks for room for more."""
POLL_S = "0.5"
"""Ray Train's default of 2 s delays every report and every recovery by that much."""
RAY_FILES = ".ray"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Attributes:
        directory: Folder of the run.
        model: Model folder of the weights that ``loop.select`` chose.
        metrics: Their validation metrics, in the units of ``run.json``.
        history: Every line of ``metrics.jsonl``.
        resumed: Whether an earlier start was continued (or had already finished).
    """

    directory: Path
    model: Path
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    resumed: bool


def launch(settings: RunSettings) -> RunResult:
    """Runs ``settings`` to the end, continuing an earlier start of the same run.

    Raises:
        EpitaxyError: If the settings, the data or the training is at fault; errors of workers
            arrive as they were raised.
    """
    settings = _absolute(settings)
    run_dir = Path(settings.directory)
    with locked(run_dir):
        if (run_dir / RESULT).is_file():
            stored = read_json(run_dir / RUN)
            data = open_data(settings.data, digests_of(stored["data"]))
            check_same_run(stored, settings, data)
            logger.info("the run %r is finished; returning its result", settings.name)
            return _result(run_dir, resumed=True)
        identity = identify(settings)
        (run_dir / ERROR).unlink(missing_ok=True)
        with _followed(settings, identity):
            if settings.compute.backend == "ray":
                _run_on_ray(settings, identity)
            else:
                train_worker(identity.worker_config(settings, in_ray=False))
        return _result(run_dir, resumed=identity.resumed)


def _result(run_dir: Path, *, resumed: bool) -> RunResult:
    metrics = dict(read_json(run_dir / RESULT)["metrics"])
    return RunResult(run_dir, run_dir / FINAL, metrics, read_metrics(run_dir), resumed)


def _absolute(settings: RunSettings) -> RunSettings:
    """Returns the settings with every path absolute: workers run in another folder."""

    def path(value: str) -> str:
        return value if "://" in value else str(Path(value).expanduser().resolve())

    def optional(value: str | None) -> str | None:
        return None if value is None else path(value)

    def several(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        files = tuple(path(file) for file in exclude_files(value))
        return files if len(files) > 1 else next(iter(files), None)

    return dataclasses.replace(
        settings,
        directory=path(settings.directory),
        data=path(settings.data)
        if isinstance(settings.data, str)
        else tuple(path(folder) for folder in settings.data),
        split=dataclasses.replace(settings.split, file=optional(settings.split.file)),
        filter=dataclasses.replace(settings.filter, exclude=several(settings.filter.exclude)),
        init=dataclasses.replace(settings.init, model=optional(settings.init.model)),
        teacher=dataclasses.replace(settings.teacher, model=optional(settings.teacher.model)),
    )


@contextmanager
def _followed(settings: RunSettings, identity: Identity) -> Iterator[None]:
    """Shows progress and tracks the run for the time of a ``with`` block."""
    tracker = _tracker(settings, identity)
    sinks: list[Sink] = [ProgressBar(settings.name, identity.total_records)]
    follower = Follower(Path(settings.directory), [*sinks, *([tracker] if tracker else [])])
    follower.start()
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        follower.stop()
        if tracker:
            tracker.end(status)


def _tracker(settings: RunSettings, identity: Identity) -> Tracker | None:
    if settings.tracking is None:
        return None
    contents = identity.contents
    tags = {
        "epitaxy.version": epitaxy.__version__,
        "epitaxy.directory": settings.directory,
        "epitaxy.science": contents["science_digest"],
        "epitaxy.data": contents["data"]["digest"],
    }
    return Tracker(
        settings.tracking, Path(settings.directory), settings.name, contents["science"], tags
    )


def _run_on_ray(settings: RunSettings, identity: Identity) -> None:
    """Trains in Ray Train workers.

    Ray Train only keeps the workers alive: where to continue is read from our own checkpoints,
    which is also what survives the driver. So its own storage is new for every launch.
    """
    with cluster(math.ceil(_cpus(settings.compute)) + 1, settings.compute.address):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        _check_cluster(settings.compute)
        compute, run_dir = settings.compute, Path(settings.directory)
        resources = {"CPU": compute.cpus_per_worker} | ({"GPU": 1} if compute.use_gpu else {})
        storage = run_dir / RAY_FILES
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=identity.worker_config(settings, in_ray=True),
            torch_config=TorchConfig(backend="nccl" if compute.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=_num_workers(compute),
                elastic_resize_monitor_interval_s=RESIZE_S,
                use_gpu=compute.use_gpu,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=f"{settings.name}-{uuid.uuid4().hex[:8]}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=compute.max_failures),
                callbacks=_tune_callbacks(),
            ),
        )
        _fit(trainer.fit, settings)
        shutil.rmtree(storage, ignore_errors=True)


def _tune_callbacks() -> list[Any]:
    """Returns the callback that hands each epoch's metrics to a surrounding Ray Tune trial."""
    if "ray.tune" not in sys.modules:
        return []
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()] if tune.get_context().get_trial_id() is not None else []


def _fit(fit: Callable[[], Any], settings: RunSettings) -> None:
    """Calls ``fit``; raises what went wrong in a worker as the worker said it."""
    from ray.train import TrainingFailedError

    run_dir = Path(settings.directory)
    try:
        fit()
    except TrainingFailedError as error:
        _raise_stored(run_dir)
        raise EpitaxyError(
            f"the run {settings.name!r} failed after {settings.compute.max_failures} restarts: "
            f"{_reason(error)}. Start it again to continue from the last checkpoint in "
            f"{run_dir / CHECKPOINTS}"
        ) from error
    _raise_stored(run_dir)


def _raise_stored(run_dir: Path) -> None:
    if (run_dir / ERROR).is_file():
        stored = read_json(run_dir / ERROR)
        raise getattr(epitaxy.errors, stored["type"], EpitaxyError)(stored["message"])


def _reason(error: Exception) -> str:
    """Returns the first line that says why workers failed, without Ray's tracebacks."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "_base_exc", failure)
        text = str(cause).strip().splitlines() or [""]
        return f"worker {rank}: {type(cause).__name__}: {text[0]}"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextmanager
def cluster(num_cpus: int, address: str | None = None) -> Iterator[None]:
    """Joins the running or named Ray cluster, or runs one of its own on this machine.

    Args:
        num_cpus: Logical CPUs that one of its own must have at least.
        address: Of the cluster to join; by default that in RAY_ADDRESS.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ray listens on all interfaces: a cluster of our own is closed to everybody else.
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and not _has_token():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None:
        _join(address)
    else:
        _start(num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    # In a submitted job this is merged with the job's own runtime environment.
    path = _python_path()
    ray.init(
        address=address,
        runtime_env={"env_vars": {"PYTHONPATH": path}} if path else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def _start(num_cpus: int) -> None:
    import ray

    os.environ["PYTHONPATH"] = _python_path() or os.environ.get("PYTHONPATH", "")
    ray.init(
        address="local",
        # Logical CPUs: workers and read tasks take turns on the cores there are.
        num_cpus=max(os.cpu_count() or 1, num_cpus),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def _python_path() -> str | None:
    """Returns the PYTHONPATH with which workers find epitaxy, if they need one.

    Where epitaxy is read from a checkout, workers must find it from another folder. A job's
    checkout is unpacked on every node and is the working folder of its workers there: a relative
    entry finds it wherever that is.
    """
    source = Path(epitaxy.__file__).resolve().parents[1]
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    absolute = [str(Path(entry).resolve()) for entry in inherited]
    if str(source) in absolute or source == Path(sysconfig.get_paths()["purelib"]).resolve():
        return None
    here = Path.cwd()
    relative = [str(source.relative_to(here))] if source.is_relative_to(here) else []
    return os.pathsep.join(dict.fromkeys([*relative, str(source), *absolute]))


def _num_workers(compute: ComputeSettings) -> int | tuple[int, int]:
    """Returns how many workers Ray Train starts, or between how many it may choose."""
    fewest = compute.min_workers or compute.workers
    return compute.workers if fewest == compute.workers else (fewest, compute.workers)


def _cpus(compute: ComputeSettings) -> float:
    """Returns the logical CPUs a run needs: its workers, and a read task if Ray Data streams."""
    return (compute.min_workers or compute.workers) * compute.cpus_per_worker + (
        1 if compute.stream == "ray" else 0
    )


def _check_cluster(compute: ComputeSettings) -> None:
    """Refuses a cluster in which the run would wait for ever, without a word from Ray.

    Raises:
        ConfigError: If there are too few CPUs or GPUs.
    """
    import ray

    resources = ray.cluster_resources()
    found, workers = resources.get("CPU", 0.0), compute.min_workers or compute.workers
    if found < _cpus(compute):
        reading = " and 1 for Ray Data's read tasks" if compute.stream == "ray" else ""
        raise ConfigError(
            f"{workers} workers with {compute.cpus_per_worker:g} CPUs each{reading} need "
            f"{_cpus(compute):g} CPUs; the cluster has {found:g}. Lower compute.workers or "
            "compute.cpus_per_worker, set compute.stream=direct, or start Ray with more --num-cpus"
        )
    if compute.use_gpu and resources.get("GPU", 0.0) < workers:
        raise ConfigError(
            f"{workers} workers need {workers} GPUs; the cluster has "
            f"{resources.get('GPU', 0.0):g}. Lower compute.workers or set compute.use_gpu=false"
        )


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()

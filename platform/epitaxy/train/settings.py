"""Everything a training run is told, as plain frozen dataclasses. The app fills them from Hydra.

Only the scientific part is hashed (``RunSettings.science``): ``compute``, ``run`` and logging may
change when a run is resumed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from epitaxy.errors import ConfigError, closest
from epitaxy.train.data_settings import (
    BatchSettings,
    FilterSettings,
    MixSettings,
    SplitSettings,
    at_least,
)

_LATER_SETTINGS = {
    "split": ("time", "fold", "task", "val_fraction", "missing", "name"),
    "filter": ("max_atomic_number", "frames", "structures", "labelled"),
    "batch": ("oversize", "shuffle", "window"),
    "mix": ("weights", "records"),
    "optimizer": ("no_decay",),
    "schedule": ("patience", "threshold", "min_rate"),
    "loop": ("non_finite", "max_skipped", "keep_epochs"),
    "teacher": ("encoder", "lineage"),
}
"""Settings that came after the first release: at their default they are no part of a run's
identity, so that runs started before them are resumed."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser.

    Attributes:
        name: One of adamw, adam, sgd.
        lr: Highest learning rate.
        weight_decay: Decoupled for adamw, L2 for the others.
        momentum: Of sgd.
        no_decay: Parts of names of parameters that are not decayed: ``[bias, norm]`` spares every
            parameter whose name contains one of them.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    no_decay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"optimizer.lr must be positive, got {self.lr}")
        at_least(0, "optimizer.weight_decay", self.weight_decay)


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning rate over the fraction of records consumed.

    Attributes:
        name: Shape of the curve after the warm-up.
        warmup: Fraction of the run with a linear rise.
        final: Factor at the end of ``cosine``.
        milestones: Fractions at which ``multi_step`` multiplies by ``gamma``.
        gamma: Factor at each milestone, and of each reduction of ``plateau``.
        patience: Validations without improvement after which one more reduces the rate of
            ``plateau``; they are judged by loop.select_metric.
        threshold: Share by which a validation must fall below the best to count as an improvement.
        min_rate: Rate below which ``plateau`` does not go.
    """

    name: Literal["constant", "cosine", "one_cycle", "multi_step", "plateau"] = "cosine"
    warmup: float = 0.02
    final: float = 0.01
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    min_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("patience", "threshold", "min_rate"):
            at_least(0, f"schedule.{name}", getattr(self, name))
        if self.name == "plateau" and not 0 < self.gamma < 1:
            raise ConfigError(
                f"schedule.gamma must lie between 0 and 1 for plateau to lower the rate, got "
                f"{self.gamma}"
            )
        fractions = {"warmup": self.warmup, **{f"milestone {m:g}": m for m in self.milestones}}
        for name, value in fractions.items():
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"schedule.{name} must be a fraction of the run, 0 to 1, got {value}"
                )


@dataclass(frozen=True)
class LoopSettings:
    """The training loop.

    Attributes:
        epochs: Passes over the training split.
        clip_norm: Largest gradient norm; steps above it are scaled down and counted.
        precision: Of parameters and arithmetic: ``fp32``, ``fp64``; ``tf32`` multiplies matrices
            of fp32 in tensor cores; ``bf16`` computes the forward pass in bfloat16.
        ema_decay: Decay per step of a moving average of the weights; 0 switches it off.
        validate_every: Epochs between validations.
        select: Weights that are published: those of the best validation, or the last.
        select_metric: Metric that defines the best (smaller is better).
        patience: Validations without improvement before stopping; 0 never stops early.
        keep_epochs: Numbers of epochs after which the run is validated and a model folder kept
            for good, such as ``[12, 25, 50]``.
        checkpoint_every: Steps between checkpoints besides those at epoch ends; 0 for none.
        non_finite: Whether a step whose loss or gradient is not finite ends the run (``stop``) or
            is left out and counted (``skip``).
        max_skipped: Steps that may be left out before the run ends all the same.
        log_every: Steps between lines of ``metrics.jsonl``.
        log_consumption: Whether every rank writes which records each step consumed.
    """

    epochs: int = 20
    clip_norm: float | None = 10.0
    precision: Literal["fp32", "fp64", "tf32", "bf16"] = "fp32"
    ema_decay: float = 0.0
    validate_every: int = 1
    select: Literal["best", "last"] = "best"
    select_metric: str = "val/loss"
    patience: int = 0
    keep_epochs: tuple[int, ...] = ()
    checkpoint_every: int = 0
    non_finite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 100
    log_every: int = 10
    log_consumption: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "validate_every", "log_every"):
            at_least(1, f"loop.{name}", getattr(self, name))
        for name in ("patience", "checkpoint_every", "max_skipped"):
            at_least(0, f"loop.{name}", getattr(self, name))
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"loop.clip_norm must be positive or null, got {self.clip_norm}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"loop.ema_decay must be from 0 to below 1, got {self.ema_decay}")
        outside = [epoch for epoch in self.keep_epochs if not 1 <= epoch <= self.epochs]
        if outside:
            raise ConfigError(
                f"loop.keep_epochs must lie between 1 and loop.epochs={self.epochs}, got {outside}"
            )


@dataclass(frozen=True)
class ComputeSettings:
    """Where and on how much a run executes; never part of its identity.

    Attributes:
        backend: ``local`` runs in this process, ``ray`` in Ray Train workers.
        workers: Number of Ray Train workers.
        min_workers: Number with which a run goes on while the cluster has no room for all of them,
            such as after losing a node; ``None`` waits for all. Steps stay what they are.
        cpus_per_worker: Logical CPUs reserved per worker (fractions are legal).
        use_gpu: Whether each worker gets a GPU.
        stream: ``direct`` reads shards in the worker, ``ray`` receives shares from Ray Data.
        max_failures: Worker failures that Ray Train survives by restarting from a checkpoint.
        threads: Torch threads per worker; 0 leaves torch's default.
        deterministic: Whether torch may only use operations that always give the same bits; an
            operation that has no such form ends the run.
        prefetch: Steps prepared ahead in a worker; 0 prepares each when its turn comes.
        prefetch_threads: Threads that decode records and build graphs for them.
        edges: Where graphs are built: by the prefetch threads (``host``), or by torch where the
            model is (``device``), for GPUs whose host is the bottleneck.
        edge_cache: Gigabytes of memory per worker for the edges of structures seen before; 0 builds
            them in every epoch.
        stall_warning: Seconds without a step's records after which a warning says what is waited
            for; 0 never warns.
        stall_timeout: Seconds after which the run ends in an error instead; 0 waits for ever.
        address: Ray cluster to join; ``None`` uses RAY_ADDRESS or starts one on this machine.
    """

    backend: Literal["local", "ray"] = "local"
    workers: int = 1
    min_workers: int | None = None
    cpus_per_worker: float = 1.0
    use_gpu: bool = False
    stream: Literal["direct", "ray"] = "ray"
    max_failures: int = 2
    threads: int = 0
    deterministic: bool = False
    prefetch: int = 2
    prefetch_threads: int = 1
    edges: Literal["host", "device"] = "host"
    edge_cache: float = 0.0
    stall_warning: float = 30.0
    stall_timeout: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "prefetch_threads"):
            at_least(1, f"compute.{name}", getattr(self, name))
        least_zero = ("max_failures", "threads", "prefetch", "edge_cache")
        for name in (*least_zero, "stall_warning", "stall_timeout"):
            at_least(0, f"compute.{name}", getattr(self, name))
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ConfigError(
                f"compute.min_workers must be from 1 to compute.workers ({self.workers}), got "
                f"{self.min_workers}"
            )
        if not self.cpus_per_worker > 0:
            raise ConfigError(
                f"compute.cpus_per_worker must be positive, got {self.cpus_per_worker}"
            )


@dataclass(frozen=True)
class InitSettings:
    """Weights to start from: a pulled model folder and the strategy that applies them."""

    model: str | None = None
    strategy: Mapping[str, Any] = field(
        default_factory=lambda: {"_target_": "epitaxy.finetune.scratch.Scratch"}
    )
    lineage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherSettings:
    """The frozen encoder that an objective learns from.

    Attributes:
        model: Pulled model folder; ``None`` for no teacher.
        encoder: ``_target_`` and arguments of its encoder.
        lineage: What identifies it: ``weights`` (sha256 of the tensors), ``reference`` and
            ``digest`` (of a published version).
    """

    model: str | None = None
    encoder: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSettings:
    """One training run. ``data`` and ``directory`` must be absolute before a worker sees them.

    Attributes:
        name: Name of the run; the same name resumes it.
        directory: Folder of the run: config, metrics, checkpoints.
        data: Prepared data set, or several that are mixed: paths or URIs.
        encoder: ``_target_`` and arguments.
        objective: ``_target_`` and arguments.
        tracking: MLflow tracking URI; ``None`` switches tracking off.
    """

    name: str
    directory: str
    data: str | tuple[str, ...]
    encoder: Mapping[str, Any]
    objective: Mapping[str, Any]
    seed: int = 0
    split: SplitSettings = field(default_factory=SplitSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    mix: MixSettings = field(default_factory=MixSettings)
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    loop: LoopSettings = LoopSettings()
    init: InitSettings = InitSettings()
    teacher: TeacherSettings = TeacherSettings()
    compute: ComputeSettings = ComputeSettings()
    tracking: str | None = None

    def __post_init__(self) -> None:
        if self.schedule.min_rate > self.optimizer.lr:
            raise ConfigError(
                f"schedule.min_rate={self.schedule.min_rate:g} is above "
                f"optimizer.lr={self.optimizer.lr:g}, the highest rate of the run"
            )

    def science(self) -> dict[str, Any]:
        """Returns the part that defines the result: what a resumed run must not change."""
        everything = to_dict(self)
        for name in ("name", "directory", "compute", "tracking", "data"):
            del everything[name]
        for name in ("log_every", "log_consumption", "checkpoint_every"):
            del everything["loop"][name]
        del everything["init"]["model"], everything["teacher"]["model"]
        for section, names in _LATER_SETTINGS.items():
            defaults = to_dict(type(getattr(self, section))())
            for name in names:
                if everything[section][name] == defaults[name]:
                    del everything[section][name]
        for section in ("mix", "teacher"):
            if not everything[section]:
                del everything[section]
        if everything["encoder"].get("max_neighbors") is None:
            everything["encoder"].pop("ties", None)  # all neighbours: there is nothing to cut
        return everything

    def science_digest(self) -> str:
        """Returns a hash of ``science`` (16 hex digits)."""
        text = json.dumps(self.science(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def to_dict(settings: Any) -> dict[str, Any]:
    """Returns JSON-ready nested dictionaries of a settings dataclass."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def from_dict(kind: type[Any], values: Mapping[str, Any], path: str = "") -> Any:
    """Returns ``kind`` built from nested mappings, checking names and types.

    Raises:
        ConfigError: For an unknown key (with the closest known one) or a value of a wrong type.
    """
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(f"unknown setting {path + key!r}; {closest(key, hints)}")
    return kind(**{key: _coerce(hints[key], value, path + key) for key, value in values.items()})


def _coerce(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        remaining = [a for a in arguments if a is not type(None)]
        lists = [a for a in remaining if typing.get_origin(a) is tuple]
        chosen = lists if lists and isinstance(value, (list, tuple)) else remaining
        return _coerce(chosen[0], value, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a group of settings, got {value!r}")
        return from_dict(typing.cast("type[Any]", hint), value, path + ".")
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{path} is {value!r}; {closest(str(value), arguments)}")
        return value
    if origin is tuple:
        return _coerce_tuple(arguments, value, path)
    if hint in (int, float, str, bool):
        return _coerce_plain(hint, value, path)
    return value


def _coerce_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path} must be a list, got {value!r}")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise ConfigError(f"{path} needs {len(arguments)} entries, got {list(value)}")
    return tuple(_coerce(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))


def _coerce_plain(hint: type[Any], value: Any, path: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{path} must be of type {hint.__name__}, got {value!r}")
    return value

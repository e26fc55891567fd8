"""Model folders and checkpoints: safetensors and JSON, nothing that runs code when it is read.

A model folder holds ``model.safetensors`` and ``model.json``; a checkpoint adds the optimiser,
the moving average and ``state.json``. Both carry a sha256 manifest.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from epitaxy.build import TRUSTED_PREFIXES, build
from epitaxy.errors import CheckpointError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train.ema import Ema
from epitaxy.train.folders import (
    read_json,
    remove_leftovers,
    verify_folder,
    write_folder,
    write_json,
)
from epitaxy.train.schedule import Plateau

FORMAT = 1
WEIGHTS, CARD = "model.safetensors", "model.json"
OPTIMIZER, AVERAGE, STATE = "optimizer.safetensors", "ema.safetensors", "state.json"
CHECKPOINTS, BEST, FINAL, KEPT = "checkpoints", "best", "final", "kept"
NEWEST = 2
"""Checkpoints kept: the newest, and one to fall back to."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """Where a run stands between two steps.

    Attributes:
        epoch: Of the next step.
        step: Of the next step, within its epoch.
        steps: Steps done over all epochs.
        records: Records consumed over all epochs.
        best: Lowest value of the selection metric so far.
        best_epoch: Epochs done when it was reached.
        stale: Validations since then.
        stopped: Whether early stopping ended the run.
        skipped: Steps left out because something was not finite.
        plateau: What the ``plateau`` schedule remembers.
        factors: By which the weights of the loss's parts are balanced.
        metrics: Result of the last validation.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    records: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    stopped: bool = False
    skipped: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    factors: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def save_model(
    folder: Path,
    model: Model,
    encoder_cfg: Mapping[str, Any],
    objective_cfg: Mapping[str, Any],
    objective: Objective,
    extra: Mapping[str, Any],
) -> None:
    """Writes a model folder, atomically.

    Args:
        folder: Where; a model folder already there is replaced.
        model: Its weights are written.
        encoder_cfg: ``_target_`` and arguments.
        objective_cfg: ``_target_`` and arguments.
        objective: Gives the units of the predictions.
        extra: Must hold ``statistics`` (what the objective's ``fit`` returned); further entries,
            such as ``fields``, ``data`` and ``cursor``, are stored beside it.
    """
    card = model_card(model, encoder_cfg, objective_cfg, objective, extra)
    write_folder(folder, lambda path: _write_model(path, model, card))


def model_card(
    model: Model,
    encoder_cfg: Mapping[str, Any],
    objective_cfg: Mapping[str, Any],
    objective: Objective,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the contents of ``model.json``."""
    dtype = next(iter(model.parameters())).dtype
    return {
        "format": FORMAT,
        "encoder": dict(encoder_cfg),
        "objective": dict(objective_cfg),
        "units": dict(objective.units),
        "precision": "fp64" if dtype == torch.float64 else "fp32",
        **extra,
    }


def load_model(
    folder: str | Path, *, trusted_only: bool = True
) -> tuple[Model, Objective, dict[str, Any]]:
    """Returns the model (in eval mode), its objective and the contents of ``model.json``.

    Args:
        folder: A model folder or a checkpoint.
        trusted_only: Refuse parts that are not epitaxy's own; a folder from elsewhere could
            otherwise name any importable callable.

    Raises:
        CheckpointError: If the folder is damaged, newer than this version, or does not fit the
            parts it names.
        ConfigError: If it names a part that is unknown or not trusted.
    """
    folder = Path(folder)
    state, card = load_weights(folder)
    trusted = TRUSTED_PREFIXES if trusted_only else ()
    objective = build(card["objective"], trusted=trusted)
    objective.adopt(card["statistics"])
    model = build_model(build(card["encoder"], trusted=trusted), objective)
    model.to(torch.float64 if card["precision"] == "fp64" else torch.float32)
    _load_state(model, state, folder)
    return model.eval(), objective, card


def load_weights(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the state dict and ``model.json`` of a model folder, checked against its manifest.

    Raises:
        CheckpointError: If the folder is damaged, incomplete or newer than this version.
    """
    folder = Path(folder)
    verify_folder(folder)
    card = read_json(folder / CARD)
    if card.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{folder} has format {card['format']}, this version reads up to {FORMAT}: "
            "update epitaxy"
        )
    for key in ("encoder", "objective", "statistics", "precision"):
        if key not in card:
            raise CheckpointError(f"{folder / CARD} has no entry {key!r}")
    return _read_tensors(folder / WEIGHTS), card


def build_model(encoder: Any, objective: Objective) -> Model:
    """Returns the model of an encoder and the heads that the objective asks for."""
    return Model(encoder, objective.heads(encoder))


def checkpoint_folder(run_dir: Path, state: RunState) -> Path:
    """Returns where the checkpoint of ``state`` belongs."""
    return run_dir / CHECKPOINTS / f"{state.epoch:05d}-{state.step:07d}"


def kept_folder(run_dir: Path, epoch: int) -> Path:
    """Returns where the model that ``epoch`` epochs made belongs, if it is kept."""
    return run_dir / KEPT / f"epoch-{epoch:05d}"


def save_checkpoint(
    run_dir: Path,
    state: RunState,
    model: Model,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    card: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> Path:
    """Writes a checkpoint and drops all but the newest ``NEWEST``; returns its folder.

    Args:
        run_dir: Folder of the run.
        state: Where the run stands.
        model: Current weights.
        optimizer: Its moments are stored by parameter name.
        ema: Moving average, if any.
        card: Contents of ``model.json``.
        identity: Plan description and digests, for whoever resumes.
    """
    tensors, numbers = _optimizer_state(model, optimizer)
    contents = {
        "format": FORMAT,
        "state": asdict(state),
        "optimizer": numbers,
        "ema_updates": ema.updates if ema else None,
        **identity,
    }

    def fill(path: Path) -> None:
        _write_model(path, model, card)
        save_file(tensors, path / OPTIMIZER)
        if ema:
            save_file(ema.average, path / AVERAGE)
        write_json(path / STATE, contents)

    folder = checkpoint_folder(run_dir, state)
    write_folder(folder, fill)
    for old in sorted(_folders(run_dir))[:-NEWEST]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(
    folder: Path, model: Model, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> RunState:
    """Puts weights, optimiser and average back and returns where the run stands.

    Raises:
        CheckpointError: If the checkpoint is damaged or belongs to another model.
    """
    weights, _ = load_weights(folder)
    contents = read_json(folder / STATE)
    _load_state(model, weights, folder)
    _restore_optimizer(
        model, optimizer, _read_tensors(folder / OPTIMIZER), contents["optimizer"], folder
    )
    if ema:
        ema.load(_read_tensors(folder / AVERAGE), contents["ema_updates"])
    state = contents["state"]
    return RunState(**{**state, "plateau": Plateau(**state.get("plateau", {}))})


def latest(run_dir: str | Path) -> Path | None:
    """Returns the newest undamaged checkpoint of a run, or ``None`` if there never was one.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged.
    """
    run_dir = Path(run_dir)
    folders = sorted(_folders(run_dir), reverse=True)
    for folder in folders:
        try:
            verify_folder(folder)
        except CheckpointError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
            continue
        return folder
    if folders:
        raise CheckpointError(
            f"all {len(folders)} checkpoints under {run_dir / CHECKPOINTS} are damaged; remove "
            "that folder to start the run anew"
        )
    return None


def tidy(run_dir: Path, resumed_from: Path | None) -> None:
    """Removes interrupted writes and checkpoints later than the one a run continues from."""
    for parent in (run_dir, run_dir / CHECKPOINTS, run_dir / KEPT):
        remove_leftovers(parent)
    for folder in _folders(run_dir):
        if resumed_from is not None and folder.name > resumed_from.name:
            shutil.rmtree(folder)


def _folders(run_dir: Path) -> list[Path]:
    root = run_dir / CHECKPOINTS
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if re.fullmatch(r"\d{5,}-\d{7,}", path.name)]


def _write_model(path: Path, model: Model, card: Mapping[str, Any]) -> None:
    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    save_file(state, path / WEIGHTS)
    write_json(path / CARD, card)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _load_state(model: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} holds the weights of another model: {error}") from error


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Returns the optimiser's tensors as ``name:key`` and its plain numbers, by name."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}:{key}"] = value.detach().cpu().contiguous().clone()
            elif value is not None:
                numbers.setdefault(name, {})[key] = value
    return tensors, numbers


def _restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Mapping[str, float]],
    folder: Path,
) -> None:
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Any]] = {name: dict(values) for name, values in numbers.items()}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(":")
        states.setdefault(name, {})[entry] = tensor
    for name, state in states.items():
        if name not in parameters:
            raise CheckpointError(f"{folder / OPTIMIZER} belongs to another model: it has {name!r}")
        optimizer.state[parameters[name]] = {
            # A step counter stays on the CPU; moments live where the parameter lives.
            entry: value.to(parameters[name].device)
            if isinstance(value, Tensor) and value.ndim
            else value
            for entry, value in state.items()
        }

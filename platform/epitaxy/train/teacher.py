"""The teacher of a run: the frozen encoder of another model, which its objective learns from."""

from __future__ import annotations

from pathlib import Path

import torch

from epitaxy.build import build
from epitaxy.errors import CheckpointError, NeedsError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train.checkpoint import WEIGHTS, load_weights
from epitaxy.train.folders import MANIFEST, read_json
from epitaxy.train.settings import TeacherSettings


def load_teacher(settings: TeacherSettings, dtype: torch.dtype) -> Model | None:
    """Returns the teacher without its heads: in eval mode, its parameters without gradients.

    Raises:
        ConfigError: If its encoder is unknown.
        CheckpointError: If the folder is damaged, holds other weights than the settings say, or
            those of another encoder.
    """
    if settings.model is None:
        return None
    state, _ = load_weights(settings.model)
    _check_weights(settings, Path(settings.model))
    teacher = Model(build(settings.encoder), {}).to(dtype)
    weights = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    try:
        teacher.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the teacher {settings.model} does not fit its encoder: {error}"
        ) from error
    return teacher.eval().requires_grad_(False)


def introduce(teacher: Model | None, objective: Objective) -> None:
    """Gives the objective its teacher.

    Raises:
        NeedsError: If it needs one and there is none.
        ConfigError: If there is one and it wants none.
    """
    if teacher is not None:
        objective.receive(teacher.encoder)
    elif objective.needs_teacher:
        raise NeedsError(
            f"objective {type(objective).__name__} learns from a teacher, and this run has none; "
            "give teacher=NAME, NAME@ALIAS or a model folder (`epitaxy registry list` shows the "
            "published ones)"
        )


def _check_weights(settings: TeacherSettings, folder: Path) -> None:
    """Refuses a folder that was written anew since the run was planned, as ``best`` of a run is."""
    expected, found = settings.lineage.get("weights"), read_json(folder / MANIFEST)[WEIGHTS]
    if expected is not None and expected != found["sha256"]:
        raise CheckpointError(
            f"the teacher {folder} holds other weights (sha256 {found['sha256'][:12]}…) than when "
            f"the run was started ({expected[:12]}…); put them back, or start a new run with them"
        )

"""Teachers of a run: loaded frozen, refused where they do not belong, part of its identity."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from epitaxy.build import build
from epitaxy.errors import CheckpointError, ConfigError, NeedsError
from epitaxy.heads.model import Model
from epitaxy.train import checkpoint
from epitaxy.train.checkpoint import load_model, load_weights, save_model
from epitaxy.train.folders import read_json
from epitaxy.train.launch import launch
from epitaxy.train.parts import build_parts
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import InitSettings, RunSettings, TeacherSettings
from epitaxy.train.teacher import introduce, load_teacher

STUDENT = {
    "_target_": "epitaxy.encoders.roost.Roost",
    **{"width": 8, "layers": 1, "heads": 1, "gate": [8], "message": [8], "trunk": [8, 6]},
}
TEACHER = {
    "_target_": "epitaxy.encoders.cgcnn.CGCNN",
    **{"width": 6, "layers": 1, "cutoff": 4.0, "norm": "batch", "crystal_width": 5},
}
MULTIMODAL = {"_target_": "epitaxy.objectives.multimodal.Multimodal", "hidden": [8]}
GAP = {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap", "hidden": [8]}
MakeSettings = Callable[..., RunSettings]


def write_teacher(folder: Path, seed: int, encoder: dict[str, Any] = TEACHER) -> TeacherSettings:
    """A model folder in fp64 with a head, and the settings that name it as the app does."""
    torch.manual_seed(seed)
    objective = build(GAP)
    encoder_module = build(encoder)
    model = Model(encoder_module, objective.heads(encoder_module)).double()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, dtype=torch.float64) + 0.5)
    statistics = {"mean": {"gap": 0.0}, "std": {"gap": 1.0}, "units": {"gap": "eV"}}
    save_model(folder, model, encoder, GAP, objective, {"statistics": statistics})
    weights = read_json(folder / "manifest.json")["model.safetensors"]["sha256"]
    return TeacherSettings(str(folder), encoder, {"weights": weights})


@pytest.fixture
def teacher(tmp_path: Path) -> TeacherSettings:
    return write_teacher(tmp_path / "teacher", 1)


@pytest.fixture
def make_taught(make_settings: MakeSettings, teacher: TeacherSettings) -> MakeSettings:
    """Makes settings of multimodal runs."""

    def make(name: str = "run", **changes: Any) -> RunSettings:
        parts = {"encoder": STUDENT, "objective": MULTIMODAL, "teacher": teacher}
        return make_settings(name, **{**parts, **changes})

    return make


def test_a_teacher_is_the_encoder_of_its_folder_and_frozen(teacher: TeacherSettings) -> None:
    loaded = load_teacher(teacher, torch.float64)
    assert loaded is not None
    stored, _ = load_weights(str(teacher.model))
    expected = {name for name in stored if name.startswith("encoder.")}
    assert set(loaded.state_dict()) == expected
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert load_teacher(TeacherSettings(), torch.float64) is None


def test_a_folder_that_is_not_what_the_run_was_planned_with_is_refused(
    teacher: TeacherSettings,
) -> None:
    wider = dataclasses.replace(teacher, encoder={**TEACHER, "width": 7})
    with pytest.raises(CheckpointError, match="does not fit its encoder"):
        load_teacher(wider, torch.float32)
    shutil.rmtree(str(teacher.model))
    write_teacher(Path(str(teacher.model)), 2)
    with pytest.raises(CheckpointError, match="holds other weights"):
        load_teacher(teacher, torch.float32)


def test_teacher_and_objective_must_want_each_other(teacher: TeacherSettings) -> None:
    loaded = load_teacher(teacher, torch.float32)
    with pytest.raises(NeedsError, match=r"Multimodal learns from a teacher.*give teacher=NAME"):
        introduce(None, build(MULTIMODAL))
    with pytest.raises(ConfigError, match=r"Regression learns from none; leave out teacher="):
        introduce(loaded, build(GAP))
    introduce(None, build(GAP))


def test_the_student_starts_the_same_whoever_teaches_it(
    make_taught: MakeSettings, tmp_path: Path
) -> None:
    deep = write_teacher(tmp_path / "deep", 3, {**TEACHER, "layers": 3})
    one, other = (
        dict(build_parts(settings).model.named_parameters())
        for settings in (make_taught(), make_taught(teacher=deep))
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_taught_model_stands_on_its_own(
    make_taught: MakeSettings, make_settings: MakeSettings, teacher: TeacherSettings
) -> None:
    run = launch(make_taught(loop={"ema_decay": 0.9}))
    assert np.isfinite(run.metrics["val/multimodal"])
    told = read_json(run.directory / "run.json")
    assert told["science"]["teacher"] == {"encoder": TEACHER, "lineage": dict(teacher.lineage)}
    assert read_json(run.model / "model.json")["teacher"] == dict(teacher.lineage)
    newest = checkpoint.latest(run.directory)
    assert newest is not None
    for file in ("model.safetensors", "ema.safetensors"):
        assert load_file(newest / file).keys() <= load_file(run.model / "model.safetensors").keys()
    moments = {name.rpartition(":")[0] for name in load_file(newest / "optimizer.safetensors")}
    shutil.rmtree(str(teacher.model))
    model, _, _ = load_model(run.model)
    assert moments == {name for name, _ in model.named_parameters()}
    tuned = launch(
        make_settings(
            "tuned",
            encoder=STUDENT,
            objective=GAP,
            init=InitSettings(str(run.model), {"_target_": "epitaxy.finetune.full.Full"}),
        )
    )
    loaded = set(read_json(tuned.directory / "run.json")["strategy"]["loaded"])
    assert loaded >= {f"encoder.{name}" for name, _ in model.encoder.named_parameters()}
    assert not any(name.startswith("head.") for name in loaded)


def test_a_resumed_run_has_the_teacher_it_had(
    make_taught: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = launch(make_taught("whole"))
    settings = make_taught("cut")
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "epoch_end", _stop)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    other = dataclasses.replace(settings, teacher=write_teacher(tmp_path / "other", 2))
    with pytest.raises(ConfigError, match=r"teacher\.lineage\.weights was"):
        launch(other)
    moved = tmp_path / "elsewhere"
    shutil.move(str(settings.teacher.model), moved)
    moved_teacher = dataclasses.replace(settings.teacher, model=str(moved))
    cut = launch(dataclasses.replace(settings, teacher=moved_teacher))
    assert cut.resumed
    assert cut.metrics == whole.metrics
    expected = load_file(whole.model / "model.safetensors")
    for name, found in load_file(cut.model / "model.safetensors").items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt

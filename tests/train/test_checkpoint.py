"""Folders are whole or absent, and what is read back is what was written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from epitaxy.build import build
from epitaxy.errors import CheckpointError, ConfigError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train import checkpoint
from epitaxy.train.checkpoint import RunState, build_model, load_model, save_model
from epitaxy.train.ema import Ema
from epitaxy.train.folders import read_json, verify_folder, write_folder

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 8, "layers": 1, "cutoff": 4.0}
OBJECTIVE = {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap", "hidden": [4]}
STATISTICS = {"mean": {"gap": 1.5}, "std": {"gap": 0.5}, "units": {"gap": "eV"}}


@pytest.fixture
def parts() -> tuple[Model, Objective]:
    objective: Objective = build(OBJECTIVE)
    objective.adopt(STATISTICS)
    return build_model(build(ENCODER), objective), objective


def save(folder: Path, parts: tuple[Model, Objective], **extra: object) -> None:
    model, objective = parts
    save_model(folder, model, ENCODER, OBJECTIVE, objective, {"statistics": STATISTICS, **extra})


def test_model_folder_round_trip(parts: tuple[Model, Objective], tmp_path: Path) -> None:
    save(tmp_path / "model", parts, data={"digest": "abc"})
    model, objective, card = load_model(tmp_path / "model")
    for name, tensor in parts[0].state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    assert objective.units == {"gap": "eV"}
    assert card["data"] == {"digest": "abc"}
    assert (card["format"], card["precision"]) == (1, "fp32")
    names = {key.split(".")[0] for key in load_file(tmp_path / "model" / "model.safetensors")}
    assert names == {"encoder", "head"}


def test_double_precision_survives(parts: tuple[Model, Objective], tmp_path: Path) -> None:
    parts[0].double()
    save(tmp_path / "model", parts)
    model, _, card = load_model(tmp_path / "model")
    assert card["precision"] == "fp64"
    assert next(model.parameters()).dtype == torch.float64


def test_folder_from_elsewhere_may_name_only_our_parts(
    parts: tuple[Model, Objective], tmp_path: Path
) -> None:
    model, objective = parts
    evil = {"_target_": "os.system", "command": "true"}
    save_model(tmp_path / "m", model, evil, OBJECTIVE, objective, {"statistics": STATISTICS})
    with pytest.raises(ConfigError, match=r"os\.system.* refused"):
        load_model(tmp_path / "m")


def test_newer_format_is_refused(parts: tuple[Model, Objective], tmp_path: Path) -> None:
    save(tmp_path / "model", parts, format=99)
    with pytest.raises(CheckpointError, match="format 99"):
        load_model(tmp_path / "model")


def test_weights_of_another_model_are_refused(
    parts: tuple[Model, Objective], tmp_path: Path
) -> None:
    model, objective = parts
    wide = {**ENCODER, "width": 16}
    save_model(tmp_path / "m", model, wide, OBJECTIVE, objective, {"statistics": STATISTICS})
    with pytest.raises(CheckpointError, match="another model"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_damage_is_found(parts: tuple[Model, Objective], tmp_path: Path, damage: str) -> None:
    save(tmp_path / "model", parts)
    file = tmp_path / "model" / ("manifest.json" if damage == "manifest" else "model.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(bytes(content))
    elif damage == "truncate":
        file.write_bytes(bytes(content[:-7]))
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=file.name):
        load_model(tmp_path / "model")


def trained(model: Model, steps: int) -> tuple[torch.optim.Optimizer, Ema]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ema = Ema(model, 0.9)
    for step in range(steps):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        ema.update()
    return optimizer, ema


def write(run_dir: Path, state: RunState, parts: tuple[Model, Objective]) -> tuple[object, ...]:
    optimizer, ema = trained(parts[0], 3)
    card = checkpoint.model_card(parts[0], ENCODER, OBJECTIVE, parts[1], {"statistics": STATISTICS})
    folder = checkpoint.save_checkpoint(run_dir, state, parts[0], optimizer, ema, card, {})
    return folder, optimizer, ema


def test_training_continues_as_if_never_stored(
    parts: tuple[Model, Objective], tmp_path: Path
) -> None:
    state = RunState(1, 4, 14, 99, best=0.25, best_epoch=1, stale=2, metrics={"val/loss": 0.5})
    _, optimizer, ema = write(tmp_path, state, parts)
    folder = checkpoint.latest(tmp_path)
    assert folder == tmp_path / "checkpoints" / "00001-0000004"
    other = build_model(build(ENCODER), parts[1])
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2)
    other_ema = Ema(other, 0.9)
    assert checkpoint.load_checkpoint(folder, other, other_optimizer, other_ema) == state
    for model, opt, average in ((parts[0], optimizer, ema), (other, other_optimizer, other_ema)):
        torch.manual_seed(9)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        opt.step()  # type: ignore[attr-defined]
        average.update()  # type: ignore[attr-defined]
    for (name, a), b in zip(
        parts[0].state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    for name, tensor in ema.average.items():  # type: ignore[attr-defined]
        torch.testing.assert_close(other_ema.average[name], tensor, rtol=0, atol=0)


def test_two_newest_checkpoints_are_kept(parts: tuple[Model, Objective], tmp_path: Path) -> None:
    for step in range(1, 5):
        write(tmp_path, RunState(0, step), parts)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000-0000003", "00000-0000004"]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None


def test_failure_while_writing_leaves_the_previous_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", lambda path: (path / "a").write_text("old") and None)

    def half(path: Path) -> None:
        (path / "a").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "x", half)
    verify_folder(tmp_path / "x")
    assert (tmp_path / "x" / "a").read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from epitaxy.train import folders

def fill(path):
    (path / "a").write_bytes(b"first" * 100)
    if sys.argv[2] == "filling":
        os.kill(os.getpid(), signal.SIGKILL)
    (path / "b").write_bytes(b"second" * 100)

if sys.argv[2] == "manifest":
    folders._fsync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
folders.write_folder(Path(sys.argv[1]) / "00000-0000002", fill)
"""


@pytest.mark.parametrize("moment", ["filling", "manifest"])
def test_killed_writer_leaves_nothing_that_looks_complete(
    tmp_path: Path, moment: str, parts: tuple[Model, Objective]
) -> None:
    write(tmp_path, RunState(0, 1), parts)
    root = tmp_path / "checkpoints"
    process = subprocess.run([sys.executable, "-c", KILLED, str(root), moment], check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(list(root.iterdir())) == 2  # the whole one and a temporary one
    assert checkpoint.latest(tmp_path) == root / "00000-0000001"
    checkpoint.tidy(tmp_path, root / "00000-0000001")
    assert [path.name for path in root.iterdir()] == ["00000-0000001"]


def test_files_are_safetensors_and_json_alone(
    parts: tuple[Model, Objective], tmp_path: Path
) -> None:
    folder, *_ = write(tmp_path, RunState(0, 1), parts)
    assert isinstance(folder, Path)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    manifest = read_json(folder / "manifest.json")
    assert set(manifest) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    state = load_file(folder / "optimizer.safetensors")
    assert all(np.isfinite(tensor.numpy()).all() for tensor in state.values())

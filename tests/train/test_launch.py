"""Starting, refusing and resuming runs in this process."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.convert import prepare
from epitaxy.errors import CheckpointError, ConfigError, EpitaxyError, NeedsError, PlanError
from epitaxy.graph.record import CrystalRecord
from epitaxy.train import launch as launching
from epitaxy.train.checkpoint import load_weights
from epitaxy.train.identity import locked
from epitaxy.train.launch import launch
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import (
    ComputeSettings,
    FilterSettings,
    InitSettings,
    OptimizerSettings,
    RunSettings,
    SplitSettings,
)

MakeSettings = Callable[..., RunSettings]


def interrupted(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """A run that stopped after its first epoch."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    settings = make_settings()
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    return settings


def test_run_folder_tells_what_was_run(make_settings: MakeSettings, data_set: Path) -> None:
    settings = make_settings(filter=FilterSettings(max_atoms=4))
    result = launch(settings)
    run = json.loads((result.directory / "run.json").read_text())
    assert run["science_digest"] == settings.science_digest()
    assert run["data"]["path"] == str(data_set)
    assert run["units"]["val/forces_mae"] == "eV/Å"
    assert run["versions"].keys() >= {"epitaxy", "torch", "ray", "python"}
    train = run["records"]["splits"]["train"]
    assert train["records"] == 20
    assert train["excluded"] == train["rules"]["num_atoms > 4"]["excluded"] > 0
    assert run["plan"]["num_records"] == train["kept"]
    assert set(run["statistics"]) >= {"scale", "reference"}
    assert set(result.metrics) >= {"val/loss", "val/energy_per_atom_mae", "val/stress_rmse"}
    card = json.loads((result.model / "model.json").read_text())
    assert card["encoder"] == settings.encoder
    assert card["statistics"] == run["statistics"]
    assert card["fields"]["stress"] == "eV/Å^3"


def test_training_learns(make_settings: MakeSettings) -> None:
    target = {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "mean_number",
        "loss": "mse",
    }
    optimizer = OptimizerSettings(lr=1e-2)
    run = launch(make_settings(objective=target, optimizer=optimizer, loop={"epochs": 15}))
    errors = [line["val/mean_number_rmse"] for line in run.history if line["kind"] == "val"]
    assert errors[-1] < 0.5 * errors[0]


def test_fine_tuning_trains_what_the_strategy_says(make_settings: MakeSettings) -> None:
    teacher = launch(make_settings("teacher"))
    target = {
        "_target_": "epitaxy.objectives.regression.Regression",
        "label": "mean_number",
        "hidden": [8],
    }
    strategy = {"_target_": "epitaxy.finetune.last_layer.LastLayer"}
    init = InitSettings(model=str(teacher.model), strategy=strategy, lineage={"name": "t@best"})
    student = launch(make_settings("student", objective=target, init=init))
    before, after = (load_weights(run.model)[0] for run in (teacher, student))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {"head.scalar.out.weight", "head.scalar.out.bias"}
    run = json.loads((student.directory / "run.json").read_text())
    assert set(run["strategy"]["multipliers"]) == moved
    assert json.loads((student.model / "model.json").read_text())["lineage"] == {"name": "t@best"}


def test_finished_run_returns_its_result_at_once(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = launch(make_settings())

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(launching, "train_worker", never)
    again = launch(make_settings(compute=ComputeSettings(backend="ray", workers=4)))
    assert again.resumed
    assert (again.metrics, again.history, again.model) == (
        first.metrics,
        first.history,
        first.model,
    )


@pytest.mark.parametrize("finished", [True, False])
def test_other_science_is_refused_by_name(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    if finished:
        launch(make_settings())
    else:
        interrupted(make_settings, monkeypatch)
    other = make_settings(optimizer=OptimizerSettings(lr=0.5), seed=7)
    with pytest.raises(ConfigError) as caught:
        launch(other)
    message = str(caught.value)
    assert "optimizer.lr was 0.003, is 0.5" in message
    assert "seed was 0, is 7" in message
    assert "encoder" not in message
    assert "another run.name" in message


def test_other_data_is_refused(
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    records: list[CrystalRecord],
    tmp_path: Path,
) -> None:
    interrupted(make_settings, monkeypatch)
    moved = records[0].replace(positions=records[0].positions + 0.01)
    prepare([moved, *records[1:]], tmp_path / "other", format="lmdb", recipe=None, progress=False)
    with pytest.raises(PlanError, match="started on data"):
        launch(make_settings(data=str(tmp_path / "other")))


def test_data_may_move_and_compute_may_change(
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    records: list[CrystalRecord],
    tmp_path: Path,
) -> None:
    settings = interrupted(make_settings, monkeypatch)
    prepare(records, tmp_path / "copy", format="zarr", recipe=None, progress=False)
    compute = dataclasses.replace(settings.compute, prefetch=0)
    result = launch(make_settings(data=str(tmp_path / "copy"), compute=compute))
    assert result.resumed
    assert [line["epoch"] for line in result.history if line["kind"] == "val"] == [0, 1]


def test_needs_are_checked_before_anything_is_written(make_settings: MakeSettings) -> None:
    settings = make_settings(
        encoder={"_target_": "epitaxy.encoders.cgcnn.CGCNN", "rule": "nearest", "max_neighbors": 4}
    )
    with pytest.raises(NeedsError, match="position_grad"):
        launch(settings)
    assert not (Path(settings.directory) / "run.json").exists()


def test_best_without_validation_is_refused(make_settings: MakeSettings) -> None:
    split = SplitSettings(by="record", sizes=(20, 0, 4))
    with pytest.raises(ConfigError, match=r"loop\.select=last"):
        launch(make_settings(split=split))
    run = launch(make_settings(split=split, loop={"select": "last"}))
    assert run.metrics == {}
    assert (run.model / "model.safetensors").is_file()


def test_folder_in_use_is_refused(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with (
        locked(Path(settings.directory)),
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        launch(settings)


def test_relative_paths_become_absolute(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, data_set: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    data = os.path.relpath(data_set, tmp_path)
    run = launch(make_settings(directory="runs/r", data=data))
    assert run.directory == tmp_path / "runs" / "r"
    stored = json.loads((run.directory / "run.json").read_text())["settings"]
    assert stored["data"] == str(data_set)


def test_run_of_a_newer_version_is_refused(make_settings: MakeSettings) -> None:
    run = launch(make_settings())
    path = run.directory / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="newer epitaxy"):
        launch(make_settings())


def test_gpu_that_is_not_there(make_settings: MakeSettings) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no CUDA device"):
        launch(make_settings(compute=ComputeSettings(use_gpu=True)))


def test_reason_of_a_ray_failure_is_one_line() -> None:
    class Wrapped(Exception):
        _base_exc = ValueError("first line\nsecond line")

    class Failed(Exception):
        worker_failures = {1: Wrapped("a wall of text")}  # noqa: RUF012

    assert launching._reason(Failed("x")) == "worker 1: ValueError: first line"


def test_stored_errors_keep_their_class(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text('{"type": "PlanError", "message": "so it was"}')
    with pytest.raises(PlanError, match="so it was"):
        launching._raise_stored(tmp_path)
    (tmp_path / "error.json").write_text('{"type": "Gone", "message": "so it was"}')
    with pytest.raises(EpitaxyError, match="so it was"):
        launching._raise_stored(tmp_path)

"""Whole runs: the number of workers does not matter, and neither does being interrupted."""

from __future__ import annotations

import dataclasses
import errno
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from epitaxy.data.dataset import Dataset
from epitaxy.data.plan import Cursor
from epitaxy.errors import CheckpointError, PlanError, ShardError
from epitaxy.train import checkpoint, worker
from epitaxy.train.identity import identify
from epitaxy.train.launch import launch
from epitaxy.train.logs import read_metrics, surviving_consumption
from epitaxy.train.loop import PreparedStep
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import (
    BatchSettings,
    ComputeSettings,
    RunSettings,
    ScheduleSettings,
    to_dict,
)
from epitaxy.train.worker import train_worker

MakeSettings = Callable[..., RunSettings]
TIMES = ("time",)


def without_time(run_dir: str | Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run_dir)]


def numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "kind"}


def weights(run_dir: str | Path, name: str = "final") -> dict[str, np.ndarray]:
    return load_file(Path(run_dir) / name / "model.safetensors")


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ends the run like ctrl-C, before step number ``steps`` of this attempt."""
    seen = []
    original = RunRecorder.consume

    def consume(self: RunRecorder, step: PreparedStep) -> None:
        if len(seen) == steps:
            raise KeyboardInterrupt
        seen.append(step)
        original(self, step)

    monkeypatch.setattr(RunRecorder, "consume", consume)


def test_loss_curve_is_that_of_one_worker(peers: Any, make_settings: MakeSettings) -> None:
    curves = {}
    for world in (1, 2, 4):
        settings = make_settings(f"world-{world}", loop={"epochs": 3})
        Path(settings.directory).mkdir()
        config = identify(settings).worker_config(settings, in_ray=False)
        peers.values("train", world, config=config)
        curves[world] = without_time(settings.directory)
    assert len(curves[1]) == 3 * (4 + 1)  # 20 records in steps of 6, and a validation
    for world in (2, 4):
        for line, expected in zip(curves[world], curves[1], strict=True):
            assert numbers(line) == pytest.approx(numbers(expected), rel=1e-5)


def test_micro_batches_do_not_change_the_curve(make_settings: MakeSettings) -> None:
    one = make_settings("one")
    three = make_settings("three", batch=BatchSettings(graphs=6, micro_batches=3))
    launch(one)
    launch(three)
    for line, expected in zip(
        without_time(three.directory), without_time(one.directory), strict=True
    ):
        assert numbers(line) == pytest.approx(numbers(expected), rel=1e-9)


def test_training_leaves_the_process_as_it_was_found(make_settings: MakeSettings) -> None:
    threads = torch.get_num_threads()
    launch(make_settings(loop={"epochs": 1}, compute=ComputeSettings(threads=threads + 1)))
    assert torch.get_num_threads() == threads
    assert float(np.float64(2.0**-1040) * 1.0) > 0  # flushed denormals would make it zero


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    loop = {"checkpoint_every": 2, "ema_decay": 0.9, "clip_norm": 0.05}
    undisturbed, disturbed = make_settings("whole", loop=loop), make_settings("cut", loop=loop)
    whole = launch(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            launch(disturbed)
    cut = launch(disturbed)
    assert (whole.resumed, cut.resumed) == (False, True)
    assert cut.metrics == whole.metrics
    assert without_time(cut.directory) == without_time(whole.directory)
    folder = checkpoint.latest(whole.directory)
    assert folder is not None
    for file in ("model.safetensors", "optimizer.safetensors", "ema.safetensors"):
        expected = load_file(folder / file)
        found = load_file(cut.directory / "checkpoints" / folder.name / file)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_plateau_goes_on_where_it_was_interrupted(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the third epoch, one stale validation before the rate is halved."""
    changes = {
        "loop": {"epochs": 5},
        "schedule": ScheduleSettings("plateau", warmup=0.0, gamma=0.5, patience=1),
    }
    losses = [3.0, 3.1, 3.2, 3.3, 3.4]
    script_validation(monkeypatch, losses)
    whole = launch(make_settings("whole", **changes))
    settings = make_settings("cut", **changes)
    with monkeypatch.context() as patch:
        script_validation(patch, losses)
        interrupt_after(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    script_validation(monkeypatch, losses[2:])
    cut = launch(settings)
    assert without_time(cut.directory) == without_time(whole.directory)
    rates = [line["lr"] for line in cut.history if line["kind"] == "train"]
    assert rates[::4] == [3e-3, 3e-3, 3e-3, 1.5e-3, 1.5e-3]


def test_every_record_is_consumed_once_per_epoch_in_the_surviving_history(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(loop={"checkpoint_every": 3})
    for steps in (2, 5):  # before the first checkpoint, and one step after a checkpoint
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            with pytest.raises(KeyboardInterrupt):
                launch(settings)
    launch(settings)
    history = surviving_consumption(settings.directory)
    for epoch in range(2):
        counted = Counter(i for entry in history if entry.epoch == epoch for i in entry.ids)
        assert len(counted) == 20
        assert set(counted.values()) == {1}
    lines = sum(
        len(path.read_text().splitlines()) - 1
        for path in (Path(settings.directory) / "consumption").iterdir()
    )
    assert lines > len(history)  # steps were undone, so the log is longer than the history


def test_run_continues_on_another_number_of_workers(
    peers: Any, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, settings = make_settings("whole"), make_settings("cut", loop={"checkpoint_every": 1})
    launch(whole)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    config = identify(settings).worker_config(settings, in_ray=False)
    peers.values("train", 3, config=config)
    for line, expected in zip(
        without_time(settings.directory), without_time(whole.directory), strict=True
    ):
        assert numbers(line) == pytest.approx(numbers(expected), rel=1e-6)
    history = surviving_consumption(settings.directory)
    for epoch in range(2):
        names = [name for entry in history if entry.epoch == epoch for name in entry.ids]
        assert len(names) == len(set(names)) == 20
    assert {entry.rank for entry in history} == {0, 1, 2}


def test_resuming_falls_back_over_a_damaged_checkpoint(
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = {"checkpoint_every": 2}
    whole = launch(make_settings("whole", loop=loop))
    settings = make_settings("cut", loop=loop)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    newest = checkpoint.latest(settings.directory)
    assert newest is not None
    file = newest / "optimizer.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(bytes(damaged))
    cut = launch(settings)
    assert "optimizer.safetensors is damaged" in caplog.text
    assert without_time(cut.directory) == without_time(whole.directory)


def script_validation(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Makes the validations of the next run give ``losses``, one after the other."""
    values = iter(losses)
    monkeypatch.setattr(worker, "validate", lambda *_: {"val/loss": next(values)})


def test_best_weights_are_published(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation(monkeypatch, [3.0, 1.0, 2.0])
    run = launch(make_settings(loop={"epochs": 3}))
    assert run.metrics == {"val/loss": 1.0}
    model, _, card = checkpoint.load_model(run.model)
    assert (card["epochs"], card["precision"]) == (2, "fp64")
    assert not model.training
    second = weights(run.directory / "checkpoints", "00002-0000000")
    third = weights(run.directory / "checkpoints", "00003-0000000")
    final = weights(run.directory)
    for name, array in second.items():
        np.testing.assert_array_equal(final[name], array)
    assert any((final[name] != third[name]).any() for name in final)


def test_last_weights_are_published_on_request(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation(monkeypatch, [3.0, 1.0, 2.0])
    run = launch(make_settings(loop={"epochs": 3, "select": "last"}))
    assert run.metrics == {"val/loss": 2.0}
    for name, array in weights(run.directory / "checkpoints", "00003-0000000").items():
        np.testing.assert_array_equal(weights(run.directory)[name], array)


def test_best_is_made_again_when_a_kill_came_before_it(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "best", killed)
        with pytest.raises(KeyboardInterrupt):
            launch(make_settings())
    run = launch(make_settings())
    whole = launch(make_settings("whole"))
    for name, array in weights(whole.directory).items():
        np.testing.assert_array_equal(weights(run.directory)[name], array)


def test_worker_refuses_a_plan_it_does_not_share(make_settings: MakeSettings) -> None:
    settings = make_settings()
    Path(settings.directory).mkdir()
    config = identify(settings).worker_config(settings, in_ray=False)
    other = dataclasses.replace(settings, batch=BatchSettings(graphs=5))
    with pytest.raises(PlanError, match=r"batch\.graphs was 6, is 5"):
        train_worker({**config, "settings": to_dict(other)})


def test_damaged_record_reaches_every_rank(
    peers: Any, make_settings: MakeSettings, data_set: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in data_set.rglob("*"):
        target = copy / path.relative_to(data_set)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    dataset = Dataset.open(copy)
    settings = make_settings(data=str(copy))
    Path(settings.directory).mkdir()
    identity = identify(settings)
    config = identity.worker_config(settings, in_ray=False)
    blob = dataset.read([next(iter(dataset.rows_of([_last_trained(settings)])))])[0]
    shard = next(path for path in copy.rglob("*") if path.is_file() and blob in path.read_bytes())
    content = shard.read_bytes().replace(blob, blob[:-1] + bytes([blob[-1] ^ 1]))
    shard.write_bytes(content)
    answers = peers.run("train", 2, config=config)
    assert [answer.get("error") for answer in answers] == [ShardError.__name__] * 2
    assert "damaged" in answers[0]["message"]


def _last_trained(settings: RunSettings) -> str:
    from epitaxy.encoders.cgcnn import CGCNN
    from epitaxy.train.worker import plans_of

    dataset = Dataset.open(settings.data)
    spec = CGCNN(cutoff=4.0).spec
    plan = plans_of(settings, dataset, spec)[0]["train"]
    last = list(plan.steps_from(Cursor(), 1))[-1]
    return str(dataset.ids[plan.step_rows(last.epoch, last.step)[0]])


def test_all_checkpoints_damaged_is_an_error(make_settings: MakeSettings) -> None:
    settings = make_settings()
    done = launch(settings)
    (done.directory / "result.json").unlink()
    for folder in (done.directory / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="all 2 checkpoints"):
        launch(settings)


@pytest.mark.parametrize("file", ["optimizer.safetensors", "state.json"])
def test_a_full_disk_ends_the_run_and_the_next_start_goes_on(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    loop = {"checkpoint_every": 2}
    whole, settings = launch(make_settings("whole", loop=loop)), make_settings("cut", loop=loop)
    save, write, written = checkpoint.save_file, checkpoint.write_json, []

    def full(original: Callable[..., None], path: Path) -> Callable[..., None]:
        written.append(path.name)
        if path.name == file and written.count(file) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", lambda t, path: full(save, path)(t, path))
        patch.setattr(checkpoint, "write_json", lambda path, d: full(write, path)(path, d))
        with pytest.raises(CheckpointError, match=r"No space left on device.*make room there"):
            launch(settings)
    assert checkpoint.latest(settings.directory) is not None
    cut = launch(settings)
    assert cut.resumed
    assert without_time(cut.directory) == without_time(whole.directory)
    assert list(Path(settings.directory).rglob(".tmp-*")) == []

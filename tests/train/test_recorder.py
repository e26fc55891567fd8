"""Models kept after chosen epochs: complete, averaged, made again after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from epitaxy.train.checkpoint import RunState, load_model
from epitaxy.train.folders import read_json
from epitaxy.train.launch import launch
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import RunSettings

MakeSettings = Callable[..., RunSettings]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_kept_models_hold_the_average_and_their_own_metrics(make_settings: MakeSettings) -> None:
    loop = {"epochs": 3, "keep_epochs": (3, 2), "ema_decay": 0.9, "validate_every": 3}
    run = launch(make_settings(loop=loop))
    listed = read_json(run.directory / "result.json")["kept"]
    assert listed == ["kept/epoch-00002", "kept/epoch-00003"]
    validations = {line["epoch"]: line for line in run.history if line["kind"] == "val"}
    for epoch, path in zip((2, 3), listed, strict=True):
        model, _, card = load_model(run.directory / path)
        assert (card["epochs"], model.training) == (epoch, False)
        assert card["metrics"]["val/loss"] == validations[epoch - 1]["val/loss"]
        averaged = load_file(
            run.directory / "checkpoints" / f"{epoch:05d}-0000000" / "ema.safetensors"
        )
        kept = weights(run.directory / path)
        for name, array in averaged.items():
            np.testing.assert_array_equal(kept[name], array, err_msg=name)


def test_a_kill_after_keeping_costs_nothing(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = {"epochs": 3, "keep_epochs": (1, 2)}
    whole, settings = launch(make_settings("whole", loop=loop)), make_settings("cut", loop=loop)
    checkpoint = RunRecorder.checkpoint

    def killed(self: RunRecorder, state: RunState) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt
        checkpoint(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    cut = launch(settings)
    for name in ("epoch-00001", "epoch-00002"):
        expected = weights(whole.directory / "kept" / name)
        for key, array in weights(cut.directory / "kept" / name).items():
            np.testing.assert_array_equal(array, expected[key], err_msg=key)


def test_a_run_that_stops_early_lists_what_it_reached(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from epitaxy.train import worker

    values = iter([1.0, 2.0])

    def scripted(*_: Any) -> dict[str, float]:
        return {"val/loss": next(values)}

    monkeypatch.setattr(worker, "validate", scripted)
    run = launch(make_settings(loop={"epochs": 4, "keep_epochs": (2, 4), "patience": 1}))
    assert read_json(run.directory / "result.json")["kept"] == ["kept/epoch-00002"]
    assert [path.name for path in (run.directory / "kept").iterdir()] == ["epoch-00002"]

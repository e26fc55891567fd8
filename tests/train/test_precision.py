"""Arithmetic that a run asks for, and the process as it was before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from epitaxy.train.identity import identify
from epitaxy.train.launch import launch
from epitaxy.train.precision import forward_context, numerics
from epitaxy.train.settings import ComputeSettings, RunSettings

MakeSettings = Callable[..., RunSettings]
NUMBER = {
    "_target_": "epitaxy.objectives.regression.Regression",
    "label": "mean_number",
    "hidden": [8],
}


def state_of_the_process() -> tuple[Any, ...]:
    return (
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_the_process_is_left_as_it_was(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, workspace: str | None
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = state_of_the_process()
    settings = make_settings(
        loop={"precision": "tf32"}, compute=ComputeSettings(threads=2, deterministic=True)
    )
    with numerics(settings):
        within = state_of_the_process()
    assert within == ("high", True, False, True, False, ":4096:8", 2)
    assert state_of_the_process() == before


def test_plain_fp32_does_not_depend_on_the_process(make_settings: MakeSettings) -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with numerics(make_settings(loop={"precision": "fp32"})):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_operation_without_a_deterministic_form_is_refused(make_settings: MakeSettings) -> None:
    with (
        numerics(make_settings(compute=ComputeSettings(deterministic=True))),
        pytest.raises(RuntimeError, match="deterministic"),
    ):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))


def test_only_bf16_changes_the_forward_pass() -> None:
    weight = torch.eye(4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with forward_context(precision, torch.device("cpu")):
            assert (weight @ weight).dtype == dtype


def test_a_bf16_run_trains_fp32_weights(make_settings: MakeSettings) -> None:
    runs = {
        precision: launch(
            make_settings(precision, objective=NUMBER, loop={"precision": precision, "epochs": 3})
        )
        for precision in ("fp32", "bf16")
    }
    losses = {
        precision: np.array([line["train/loss"] for line in run.history if "lr" in line])
        for precision, run in runs.items()
    }
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.03)
    assert (losses["bf16"] != losses["fp32"]).all()  # 7 bits of mantissa
    stored = load_file(runs["bf16"].model / "model.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float32)}


def test_two_processes_train_the_same_bits(peers: Any, make_settings: MakeSettings) -> None:
    def weights(settings: RunSettings) -> dict[str, np.ndarray]:
        return load_file(Path(settings.directory) / "final" / "model.safetensors")

    compute = ComputeSettings(deterministic=True, prefetch_threads=2)
    here, there = (make_settings(n, loop={"precision": "fp32"}, compute=compute) for n in "ab")
    launch(here)
    Path(there.directory).mkdir()
    config = identify(there).worker_config(there, in_ray=False)
    peers.values("train", 1, config=config)
    expected = weights(here)
    for name, array in weights(there).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)

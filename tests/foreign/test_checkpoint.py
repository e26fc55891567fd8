"""Files of training codes: what they hold is found, whatever shape it has; nothing is run."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import published_weights as made
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from epitaxy.errors import CheckpointError, SourceError
from epitaxy.foreign.checkpoint import STATE_ENTRIES, read_checkpoint

WEIGHTS = made.drawn(made.cgcnn(counted=True))


def saved(path: Path, content: Any, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def same(path: str) -> bool:
    found = read_checkpoint(path).weights
    return found.keys() == WEIGHTS.keys() and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        for name, tensor in WEIGHTS.items()
    )


@pytest.mark.parametrize("entry", ["", *STATE_ENTRIES])
def test_weights_are_found(tmp_path: Path, entry: str) -> None:
    state = OrderedDict(WEIGHTS)
    content = {entry: state, "epoch": 3, "optimizer": {"state": {}}} if entry else state
    assert same(saved(tmp_path / "a.pth", content))
    old = saved(tmp_path / "b.pth.tar", content, _use_new_zipfile_serialization=False)
    assert same(old)


def test_parallel_training_and_safetensors_give_the_same(tmp_path: Path) -> None:
    parallel = {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}
    assert same(saved(tmp_path / "a.pth", {"state_dict": parallel}))
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert same(str(tmp_path / "a.safetensors"))
    parameters = {name: nn.Parameter(t, t.is_floating_point()) for name, t in WEIGHTS.items()}
    assert same(saved(tmp_path / "c.pth", parameters))


@pytest.mark.parametrize(
    "normalizer",
    [
        {"mean": -1.5, "std": 0.25},
        {"mean": torch.tensor(-1.5), "std": torch.tensor(0.25)},
        {"mean": torch.tensor([-1.5]), "std": torch.tensor([[0.25]])},
        {"mean": torch.tensor(-1.5).numpy(), "std": 0.25},
    ],
)
def test_a_normalizer_is_two_numbers(tmp_path: Path, normalizer: dict[str, Any]) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": WEIGHTS, "normalizer": normalizer})
    assert read_checkpoint(path).normalizer == (-1.5, 0.25)
    by_label = {"state_dict": WEIGHTS, "normalizer_dict": {"gap": normalizer, "kind": None}}
    assert read_checkpoint(saved(tmp_path / "b.pth", by_label)).normalizer == (-1.5, 0.25)


def test_no_or_several_normalizers_are_none(tmp_path: Path) -> None:
    several = {"a": {"mean": 0.0, "std": 1.0}, "b": {"mean": 1.0, "std": 1.0}}
    for entry in ({}, {"normalizer": None}, {"normalizer_dict": several}):
        path = saved(tmp_path / "a.pth", {"state_dict": WEIGHTS, **entry})
        assert read_checkpoint(path).normalizer is None


def test_arguments_are_found(tmp_path: Path) -> None:
    arguments = {"radius": 6.0, "task": "regression"}
    for value in (arguments, argparse.Namespace(**arguments)):
        path = saved(tmp_path / "a.pth", {"state_dict": WEIGHTS, "args": value})
        found = read_checkpoint(path).arguments
        assert {name: found[name] for name in arguments} == arguments


class Network(nn.Module):
    """Stands for the authors' code."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(2, 2)


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_whole_models_are_refused_with_the_remedy(tmp_path: Path, data_dir: Path) -> None:
    whole = saved(tmp_path / "whole.pth", Network())
    real = str(data_dir / "checkpoints/crysxpp_model_pretrain.pth")
    for path, name in ((whole, "test_checkpoint.Network"), (real, "model.CrystalAE")):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert f"{path} holds an object of class " in str(caught.value)
        assert f"{name}, which can be read only by running that code" in str(caught.value)
        assert "torch.save(model.state_dict(), 'weights.pth')" in str(caught.value)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "trap.pth", {"state_dict": WEIGHTS, "args": Trap()})
    with pytest.raises(CheckpointError, match=r"posix\.system.*nothing was executed"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected the dict of a checkpoint"),
        ({"epoch": 3, "loss": 0.1}, "holds no weights.*found the entries epoch, loss"),
        ({}, "holds no weights.*found the entries none"),
        ({"state_dict": {"a": "text"}}, "'a' is no parameter"),
        ({"state_dict": {"a": torch.tensor([True])}}, "'a' is no parameter"),
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, "'a' holds NaN or infinity"),
        ({"state_dict": WEIGHTS, "normalizer": {"mean": 1.0}}, "normalizer.std is missing"),
        (
            {"state_dict": WEIGHTS, "normalizer": {"mean": torch.zeros(2), "std": 1.0}},
            "normalizer.mean is no single number",
        ),
        (
            {"state_dict": WEIGHTS, "normalizer": {"mean": float("inf"), "std": 1.0}},
            "normalizer.mean is inf, expected a finite number",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path / "a.pth", content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "a.pth", WEIGHTS))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match=r"a\.pth"):
        read_checkpoint(str(path))
    (tmp_path / "a.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read"):
        read_checkpoint(str(tmp_path / "a.safetensors"))
    with pytest.raises(CheckpointError, match=r"b\.safetensors cannot be read"):
        read_checkpoint(str(tmp_path / "b.safetensors"))
    with pytest.raises(SourceError, match="there is no file"):
        read_checkpoint(str(tmp_path / "b.pth"))

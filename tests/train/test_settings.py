"""Settings survive the way to the workers; wrong ones are named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from epitaxy.errors import ConfigError
from epitaxy.train.settings import (
    BatchSettings,
    ComputeSettings,
    FilterSettings,
    InitSettings,
    LoopSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
    SplitSettings,
    TeacherSettings,
    from_dict,
    to_dict,
)


def made(**changes: Any) -> RunSettings:
    base = RunSettings("r", "/runs/r", "/data/d", {"_target_": "a.B"}, {"_target_": "c.D"})
    return dataclasses.replace(base, **changes)


def test_json_round_trip() -> None:
    settings = made(
        split=SplitSettings(sizes=(5, 2, 1)),
        filter=FilterSettings(max_force=30.0),
        batch=BatchSettings(graphs=None, edges=5000),
        schedule=ScheduleSettings("multi_step", milestones=(0.5, 0.75)),
        optimizer=OptimizerSettings(no_decay=("bias", "norm")),
        loop=LoopSettings(keep_epochs=(5, 10)),
        init=InitSettings(model="/m", lineage={"name": "source@best"}),
        teacher=TeacherSettings("/t", {"_target_": "a.B"}, {"weights": "ab"}),
        tracking="sqlite:////x",
    )
    text = json.dumps(to_dict(settings))
    assert from_dict(RunSettings, json.loads(text)) == settings


def test_identity_ignores_where_and_how_it_is_computed() -> None:
    same = made(
        name="other",
        directory="/elsewhere",
        data="/copy",
        tracking="sqlite:////y",
        compute=ComputeSettings("ray", workers=8, deterministic=True),
        loop=LoopSettings(log_every=1, log_consumption=True, checkpoint_every=5),
        init=InitSettings(model="/cache/pulled"),
        teacher=TeacherSettings(model="/cache/pulled"),
    )
    assert same.science_digest() == made().science_digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"encoder": {"_target_": "a.B", "width": 2}},
        {"split": SplitSettings(seed=1)},
        {"filter": FilterSettings(max_atoms=9)},
        {"batch": BatchSettings(graphs=64)},
        {"loop": LoopSettings(epochs=21)},
        {"loop": LoopSettings(precision="bf16")},
        {"loop": LoopSettings(keep_epochs=(5,))},
        {"optimizer": OptimizerSettings(no_decay=("bias",))},
        {"schedule": ScheduleSettings(patience=5)},
        {"init": InitSettings(lineage={"digest": "another source"})},
        {"teacher": TeacherSettings(lineage={"weights": "of a teacher"})},
        {"teacher": TeacherSettings(encoder={"_target_": "a.B"})},
    ],
)
def test_identity_depends_on_the_science(changes: dict[str, Any]) -> None:
    assert made(**changes).science_digest() != made().science_digest()


@pytest.mark.parametrize(
    ("split", "filter"),
    [
        ({"by": "formula"}, {}),
        ({"time": "year"}, {}),
        ({"fold": 0}, {}),
        ({"task": "matbench_phonons"}, {}),
        ({"val_fraction": 0.2}, {}),
        ({"missing": "skip"}, {}),
        ({"name": "gap-trial1-100"}, {}),
        ({}, {"max_atomic_number": 80}),
        ({}, {"frames": "last"}),
        ({}, {"structures": True}),
        ({}, {"labelled": "any"}),
        ({}, {"labelled": ["gap", "modulus"]}),
        ({}, {"exclude": ["/a", "/b"]}),
    ],
)
def test_identity_depends_on_the_split(split: dict[str, Any], filter: dict[str, Any]) -> None:
    changed = from_dict(RunSettings, {**to_dict(made()), "split": split, "filter": filter})
    assert changed.science_digest() != made().science_digest()
    assert from_dict(RunSettings, json.loads(json.dumps(to_dict(changed)))) == changed


def test_runs_of_the_first_release_keep_their_identity() -> None:
    """Digests that the first release gave; its runs are resumed by this one."""
    assert made().science_digest() == "23aa535b7497ea8f"
    assert sorted(made().science()["split"]) == ["by", "file", "fractions", "seed", "sizes"]
    listed = made(
        filter=FilterSettings(max_force=30.0, exclude="/x.txt"),
        split=SplitSettings(by="record", sizes=(5, 2, 1), file="/s.json"),
    )
    assert listed.science_digest() == "4fd488c9f6ed3a49"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loop": {"epoch": 3}}, r"unknown setting 'loop\.epoch'; did you mean 'epochs'"),
        ({"loop": {"epochs": "3"}}, r"loop\.epochs must be of type int, got '3'"),
        ({"loop": {"epochs": 2.5}}, r"loop\.epochs must be of type int"),
        ({"loop": {"log_consumption": 1}}, "must be of type bool"),
        ({"optimizer": {"name": "adamx"}}, "did you mean 'adam"),
        ({"split": {"fractions": [0.5, 0.5]}}, "needs 3 entries"),
        ({"split": {"by": "formulas"}}, "did you mean 'formula'"),
        ({"split": {"fold": "0"}}, r"split\.fold must be of type int"),
        ({"filter": {"exclude": 5}}, r"filter\.exclude must be of type str, got 5"),
        ({"filter": {"exclude": ["a", 5]}}, r"filter\.exclude\[1\] must be of type str"),
        ({"batch": 12}, "must be a group of settings"),
        ({"loop": {"epochs": 0}}, r"loop\.epochs must be at least 1"),
        ({"loop": {"log_every": 0}}, r"loop\.log_every must be at least 1"),
        ({"loop": {"clip_norm": 0.0}}, r"loop\.clip_norm must be positive or null"),
        ({"loop": {"ema_decay": 1.0}}, r"loop\.ema_decay"),
        ({"batch": {"micro_batches": 0}}, r"batch\.micro_batches must be at least 1"),
        ({"compute": {"workers": 0}}, r"compute\.workers must be at least 1"),
        ({"compute": {"cpus_per_worker": 0.0}}, r"compute\.cpus_per_worker must be positive"),
        ({"optimizer": {"lr": 0.0}}, r"optimizer\.lr must be positive"),
        ({"schedule": {"warmup": 5.0}}, r"schedule\.warmup must be a fraction"),
        ({"schedule": {"milestones": [100.0]}}, r"schedule\.milestone 100 must be a fraction"),
        ({"schedule": {"patience": -1}}, r"schedule\.patience must be at least 0"),
        ({"schedule": {"name": "plateau", "gamma": 1.0}}, r"schedule\.gamma must lie between"),
        ({"schedule": {"name": "plateau", "min_rate": 0.1}}, r"schedule\.min_rate=0\.1 is above"),
        ({"loop": {"keep_epochs": [20, 21]}}, r"between 1 and loop\.epochs=20, got \[21\]"),
        ({"loop": {"keep_epochs": 5}}, r"loop\.keep_epochs must be a list"),
        ({"loop": {"precision": "fp16"}}, r"loop\.precision is 'fp16'"),
        ({"optimizer": {"no_decay": "bias"}}, r"optimizer\.no_decay must be a list"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(RunSettings, {**to_dict(made()), **values})


def test_whole_numbers_pass_for_fractions() -> None:
    values = {**to_dict(made()), "optimizer": {"lr": 1}}
    assert from_dict(RunSettings, values).optimizer.lr == 1.0

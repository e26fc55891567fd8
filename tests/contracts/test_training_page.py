"""The recipes and experiments in docs/training.md are those of the YAML files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from epitaxy.app.compose import compose
from epitaxy.app.groups import options_of, text_of

NAMES = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "training.md").read_text("utf-8")


def schedule_cell(schedule: Mapping[str, Any]) -> str:
    name, gamma = schedule["name"], f"× {schedule['gamma']:g}"
    rise = f", rise {schedule['warmup']:g}" if schedule["warmup"] else ""
    if name == "multi_step":
        return f"{gamma} at {', '.join(f'{m:g}' for m in schedule['milestones'])}{rise}"
    if name == "plateau":
        return f"plateau {gamma} / {schedule['patience']} / {schedule['min_rate']:g}{rise}"
    return name.replace("_", " ") + rise


def row(recipe: str) -> str:
    """The line of a recipe in the page, from what it composes to."""
    config = compose("pretrain", [f"train={recipe}"]).config
    optimizer, loop = config["optimizer"], config["loop"]
    momentum = f" {optimizer['momentum']:g}" if optimizer["name"] == "sgd" else ""
    spared = " ¹" if optimizer["no_decay"] else ""
    cells = [
        f"`{recipe}`",
        NAMES[optimizer["name"]] + momentum,
        f"{optimizer['lr']:g}",
        f"{optimizer['weight_decay']:g}{spared}",
        schedule_cell(config["schedule"]),
        f"{config['batch']['graphs']}",
        f"{loop['epochs']}",
        f"{loop['clip_norm']:g}" if loop["clip_norm"] else "–",
        loop["select"],
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_of_recipes_is_the_files(page: str) -> None:
    lines = re.findall(r"^\| `\w+` .*\|$", page.partition("## Experiments")[0], re.MULTILINE)
    told = [line for line in lines if line.count("|") == 10]
    assert "\n".join(told) == "\n".join(row(recipe) for recipe in ordered())


def ordered() -> list[str]:
    """Our own recipe first."""
    return sorted(options_of("train"), key=lambda name: (name != "default", name))


def experiment_row(name: str) -> str:
    """The line of an experiment in the page: what its file says it is."""
    return f"| `{name}` | {text_of('experiment', name).splitlines()[1].removeprefix('# ')} |"


def test_the_table_of_experiments_is_the_files(page: str) -> None:
    _, _, experiments = page.partition("## Experiments")
    told = re.findall(r"^\| `\w+` \|.*$", experiments, re.MULTILINE)
    assert "\n".join(told) == "\n".join(map(experiment_row, options_of("experiment")))


def test_the_example_of_an_experiment_is_the_file(page: str, repository: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(# @package _global_.*?)^```", page, re.MULTILINE | re.DOTALL)
    example = "layer_transfer_formation_energy"
    assert text == (repository / "jobs" / "experiment" / f"{example}.yaml").read_text("utf-8")

"""The printed command, read by the command line's own parser, gives the settings of the run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from epitaxy.app.compose import compose
from epitaxy.app.runs import settings_of
from epitaxy.report.collect import read_run
from epitaxy.report.reproduce import command_of
from epitaxy.train.settings import FilterSettings, SplitSettings


def test_command_gives_the_same_science(folders: Any, epitaxy_home: Path) -> None:
    split = SplitSettings(by="record", sizes=(1, 1, 0), seed=4)
    words = ["finetune", f"data={folders.dataset.path}", "objective.label=gap", "seed=7",
             "finetune=scratch", "encoder.width=24", "run.name=again", "split.by=record",
             "split.sizes=[1,1,0]", "split.seed=4", "filter.max_atoms=50"]  # fmt: skip
    wanted = settings_of(compose(words[0], words[1:]))
    run = folders.run(
        "again", seed=7, lr=wanted.optimizer.lr, split=split, encoder=wanted.encoder,
        objective=wanted.objective, filter=FilterSettings(max_atoms=50), init=wanted.init,
        loop=wanted.loop, batch=wanted.batch, schedule=wanted.schedule,
    )  # fmt: skip
    command = shlex.split(command_of(read_run(run)))
    assert command[:2] == ["epitaxy", "finetune"]
    assert "encoder.width=24" in command
    assert settings_of(compose(command[1], command[2:])).science() == wanted.science()


def test_parts_of_a_combined_objective_are_spelled_out(folders: Any, epitaxy_home: Path) -> None:
    parts = (
        "objective.parts={forces: {use: energy_force_stress, hidden: [4]}, "
        "gap: {use: regression, label: gap, share: true, weight: {start: 1, end: 0.5}}}"
    )
    words = [f"data={folders.dataset.path}", "objective=combined", parts, "run.name=both",
             "objective.balance.every=3"]  # fmt: skip
    wanted = settings_of(compose("pretrain", words))
    run = folders.run(
        "both", lr=wanted.optimizer.lr, encoder=wanted.encoder, objective=wanted.objective,
        split=wanted.split, loop=wanted.loop, batch=wanted.batch, schedule=wanted.schedule,
    )  # fmt: skip
    command = shlex.split(command_of(read_run(run)))
    assert "objective.parts.forces.use=energy_force_stress" in command
    again = settings_of(compose(command[1], command[2:]))
    assert again.objective == wanted.objective

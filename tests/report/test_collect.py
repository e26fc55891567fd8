"""Folders become summaries; evaluations find their runs by the hash of the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from epitaxy.errors import ConfigError
from epitaxy.report.collect import SYMBOLS, collect, read_run


def test_symbols_are_in_order_of_atomic_number() -> None:
    from ase.data import chemical_symbols

    assert chemical_symbols[:119] == SYMBOLS


def test_run_and_data(folders: Any) -> None:
    collection = collect([folders.run("one", "Full", seed=3)])
    (run,) = collection.runs
    assert (run.name, run.verb, run.strategy, run.seed) == ("one", "finetune", "full", 3)
    assert run.labels == ("gap",)
    (data,) = collection.data.values()
    assert data.elements == ("Na", "Cl", "Cu")
    assert data.records == 2
    assert not collection.notes


def test_evaluations_are_found_by_weights(folders: Any, tmp_path: Path) -> None:
    one, two = folders.run("one"), folders.run("two")
    folders.evaluation(one, 0.1, tmp_path / "evaluations" / "x")
    folders.evaluation(two, 0.2, tmp_path / "evaluations" / "y")
    assert collect([one]).evaluations == []
    (found,) = collect([one], search=tmp_path / "evaluations").evaluations
    assert found.run is not None
    assert found.run.name == "one"
    given = collect([one], [tmp_path / "evaluations" / "y"]).evaluations
    assert [(item.run, item.name) for item in given] == [(None, "two")]


def test_the_folder_of_a_sweep_stands_for_its_trials(folders: Any, tmp_path: Path) -> None:
    trials = tmp_path / "sweep" / "trials"
    for name in ("b", "a"):
        shutil.copytree(folders.run(name), trials / name)
    assert [run.name for run in collect([tmp_path / "sweep"]).runs] == ["a", "b"]


def test_unfinished_runs_and_missing_data_are_noted(folders: Any) -> None:
    folder = folders.run("one")
    (folder / "result.json").unlink()
    shutil.rmtree(folders.dataset.path)
    notes = collect([folder]).notes
    assert notes[0] == "The run one is not finished."
    assert "cannot be described" in notes[1]


def test_a_folder_without_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run folder: it has no run\.json"):
        read_run(tmp_path)

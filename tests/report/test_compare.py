"""Which runs are compared, on which errors, and paired how."""

from __future__ import annotations

from typing import Any

import pytest

from epitaxy.report.collect import collect
from epitaxy.report.compare import find_comparisons


def test_pairs_by_seed_on_the_test_split(folders: Any) -> None:
    runs = []
    for seed, (scratch, full) in {2: (0.5, 0.3), 1: (0.4, 0.3)}.items():
        for strategy, mae in (("Full", full), ("Scratch", scratch)):
            runs.append(folders.run(f"{strategy}{seed}", strategy, seed, mae=9.0))
            folders.evaluation(runs[-1], mae)
    runs.append(folders.run("Full7", "Full", 7))
    folders.evaluation(runs[-1], 0.1)
    (found,) = find_comparisons(collect(runs))
    assert (found.split, found.unit, found.seeds, found.baseline) == (
        "test",
        "eV",
        (1, 2),
        "scratch",
    )
    assert found.arms["scratch"] == pytest.approx([0.4, 0.5])
    assert found.arms["full"] == pytest.approx([0.3, 0.3])
    assert found.difference("full").mean == pytest.approx(-0.15)
    assert found.unpaired == ("Full7",)
    assert found.differing == ()


def test_validation_errors_if_one_run_is_not_evaluated(folders: Any) -> None:
    runs = [folders.run("a", mae=0.5), folders.run("b", "Full", mae=0.4)]
    folders.evaluation(runs[0], 0.1)
    (found,) = find_comparisons(collect(runs))
    assert found.split == "validation"
    assert dict(found.arms) == {"scratch": [0.5], "full": [0.4]}


def test_arms_tell_apart_what_varies_within_a_strategy(folders: Any) -> None:
    runs = [
        folders.run("a"),
        folders.run("b", "Full", lr=0.01),
        folders.run("c", "Full", lr=0.001),
    ]
    (found,) = find_comparisons(collect(runs))
    assert list(found.arms) == [
        "scratch", "full, optimizer.lr=0.01", "full, optimizer.lr=0.001",
    ]  # fmt: skip
    assert found.differing == ("optimizer.lr",)


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_to_compare(folders: Any, seed: int) -> None:
    """One strategy only, or no common seed."""
    runs = [folders.run("a", "Full"), folders.run("b", "Scratch" if seed else "Full", seed=seed)]
    assert find_comparisons(collect(runs[: 1 + seed])) == []

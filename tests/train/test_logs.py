"""Logs survive kills: half lines, undone steps, several attempts."""

from __future__ import annotations

from pathlib import Path

from epitaxy.data.plan import Cursor
from epitaxy.train.logs import (
    ConsumptionLog,
    MetricsLog,
    next_attempt,
    read_metrics,
    surviving_consumption,
)


def test_lines_of_undone_steps_are_removed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for steps in (1, 2, 3, 4):
        log.write({"steps": steps, "kind": "train"})
    log.close()
    log = MetricsLog(tmp_path, 2)
    log.write({"steps": 3, "kind": "train", "again": True})
    log.close()
    assert [(line["steps"], "again" in line) for line in read_metrics(tmp_path)] == [
        (1, False),
        (2, False),
        (3, True),
    ]


def test_half_a_line_is_ignored_and_overwritten(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write({"steps": 1})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"steps": 2, "train/lo')
    assert len(read_metrics(tmp_path)) == 1
    log = MetricsLog(tmp_path, 1)
    log.write({"steps": 2})
    log.close()
    assert [line["steps"] for line in read_metrics(tmp_path)] == [1, 2]


def test_surviving_history_over_attempts_and_worlds(tmp_path: Path) -> None:
    def attempt(number: int, start: Cursor, world: int, steps: list[Cursor]) -> None:
        assert next_attempt(tmp_path) == number
        logs = [ConsumptionLog(tmp_path, number, rank, world, start) for rank in range(world)]
        for cursor in steps:
            for rank, log in enumerate(logs):
                log.write(cursor, [f"{number}:{cursor.epoch}.{cursor.step}.{rank}"])
        for log in logs:
            log.close()

    attempt(1, Cursor(0, 0), 2, [Cursor(0, 0), Cursor(0, 1), Cursor(0, 2)])
    attempt(2, Cursor(0, 2), 1, [Cursor(0, 2), Cursor(1, 0), Cursor(1, 1)])
    attempt(3, Cursor(1, 0), 2, [Cursor(1, 0)])
    assert [name for entry in surviving_consumption(tmp_path) for name in entry.ids] == [
        "1:0.0.0",
        "1:0.0.1",
        "1:0.1.0",
        "1:0.1.1",
        "2:0.2.0",
        "3:1.0.0",
        "3:1.0.1",
    ]


def test_no_run_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    assert surviving_consumption(tmp_path) == []

"""Logs survive kills: half lines, undone steps, several attempts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from epitaxy.data.plan import Cursor
from epitaxy.train import logs
from epitaxy.train.logs import (
    ConsumptionLog,
    MetricsLog,
    TimingLog,
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


def slow(count: int, seconds: float) -> Iterator[int]:
    for index in range(count):
        time.sleep(seconds)
        yield index


def test_timing_tells_the_share_of_time_that_steps_waited_for_data(tmp_path: Path) -> None:
    log = TimingLog(tmp_path)
    items = log.waiting(slow(4, 0.03))
    for index in items:
        time.sleep(0.01)  # the step
        if index % 2:
            log.write({"epoch": 0, "step": index + 1, "steps": index + 1, "kind": "train"})
    log.close()
    first, second = map(json.loads, (tmp_path / "timing.jsonl").read_text().splitlines())
    assert (first["steps"], second["steps"]) == (2, 4)
    for line in (first, second):
        assert line["seconds"] >= 0.08
        assert 0.4 < line["data_wait"] < 1.0  # 0.75 on an idle machine


def test_closing_the_timed_steps_closes_their_source(tmp_path: Path) -> None:
    source, log = slow(3, 0.0), TimingLog(tmp_path)
    items = log.waiting(source)
    next(items)
    items.close()
    log.close()
    assert next(source, "closed") == "closed"


def test_an_epoch_that_waits_for_data_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "SLOW_EPOCH_S", 0.05)
    log = TimingLog(tmp_path)
    for waits, work in ((0.0, 0.08), (0.08, 0.0)):
        caplog.clear()
        for _ in log.waiting(slow(1, waits)):
            time.sleep(work)
        log.write({"epoch": 0, "step": 1, "steps": 1})
        log.end_epoch()
        assert ("compute.prefetch_threads" in caplog.text) == (waits > 0)
    log.close()

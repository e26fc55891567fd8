"""Batches through several processes: order, errors, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epitaxy.data import pool
from epitaxy.data.pool import ordered_map
from epitaxy.errors import RecordError, SourceError

BATCHES = [[index] for index in range(12)]


class Square:
    """Later batches are quicker, so that results come back in another order than they went."""

    def __call__(self, batch: list[int]) -> tuple[int, int]:
        time.sleep(0.002 * (12 - batch[0]))
        return batch[0] ** 2, os.getpid()


class Fail:
    def __call__(self, batch: list[int]) -> int:
        if batch[0] == 7:
            raise RecordError("seven is refused")
        return batch[0]


class Die:
    def __call__(self, batch: list[int]) -> int:
        if batch[0] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch[0]


class Hang:
    def __call__(self, batch: list[int]) -> int:
        if batch[0] == 6:
            time.sleep(600)
        return batch[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    done = list(ordered_map(Square(), BATCHES, workers))
    assert [batch for batch, _ in done] == BATCHES
    assert [square for _, (square, _) in done] == [index**2 for index in range(12)]
    processes = {process for _, (_, process) in done}
    assert (processes == {os.getpid()}) == (workers == 1)


def test_few_batches_start_no_process() -> None:
    done = list(ordered_map(Square(), BATCHES[:4], 8))
    assert {process for _, (_, process) in done} == {os.getpid()}


def test_an_error_of_a_worker_arrives() -> None:
    with pytest.raises(RecordError, match="seven is refused"):
        list(ordered_map(Fail(), BATCHES, 2))


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"a reader process died.*workers=1"):
        list(ordered_map(Die(), BATCHES, 2))


def test_a_batch_that_takes_forever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PATIENCE", 2.0)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"took more than 2 s.*workers=1 shows"):
        list(ordered_map(Hang(), BATCHES, 1 + 1))
    assert time.monotonic() - started < 60


def test_reading_stays_a_few_batches_ahead() -> None:
    taken = []

    def batches() -> object:
        for index in range(40):
            taken.append(index)
            yield [index]

    stream = ordered_map(Fail(), batches(), 2)
    for _ in range(5):
        next(stream)
    assert len(taken) <= 4 + 2 * pool._AHEAD + 1
    stream.close()


PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
from test_pool import Square
from epitaxy.data.pool import ordered_map

if __name__ == "__main__":
    for batch, (_, process) in ordered_map(Square(), [[1]] * 10_000, 2):
        print(process, flush=True)
"""


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent)))
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    seen = {int(parent.stdout.readline()) for _ in range(40)} - {parent.pid}
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert seen
    deadline = time.monotonic() + 20
    while any(_alive(process) for process in seen) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(process) for process in seen)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

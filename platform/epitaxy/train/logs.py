"""What a run writes line by line: ``metrics.jsonl`` and the consumption log.

Both survive being killed: a resumed run first removes the lines of steps that were undone.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from epitaxy.data.plan import Cursor

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
CONSUMPTION = "consumption"
SLOW_EPOCH_S, MUCH_WAITING = 60.0, 0.25

T = TypeVar("T")

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends lines to ``metrics.jsonl``; one writer (rank 0).

    Args:
        run_dir: Folder of the run.
        steps: Steps done at the point the run continues from; later lines are removed.
    """

    def __init__(self, run_dir: Path, steps: int) -> None:
        path = run_dir / METRICS
        kept = [line for line in read_metrics(run_dir) if line["steps"] <= steps]
        temporary = path.with_suffix(".tmp")
        # A new file under the old name, so that a reader that follows it notices.
        temporary.write_text("".join(_encode(line) for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line with the time, and hands it to the operating system."""
        self._stream.write(_encode({"time": time.time(), **line}))
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's ``metrics.jsonl``; none if it has not started."""
    path = Path(run_dir) / METRICS
    return list(_read_lines(path)) if path.is_file() else []


class TimingLog:
    """Writes ``timing.jsonl``: how long steps took, and how much of that they waited for data.

    Apart from the metrics, which are the same in every run of the same settings; one writer.
    """

    def __init__(self, run_dir: Path) -> None:
        self._stream = (run_dir / TIMING).open("a", encoding="utf-8")
        self._waited, self._since = 0.0, time.monotonic()
        self._epoch = [0.0, 0.0]

    def waiting(self, items: Generator[T, None, None]) -> Generator[T, None, None]:
        """Yields ``items``, adding up how long each is waited for."""
        try:
            while True:
                began = time.monotonic()
                item = next(items, None)
                self._waited += time.monotonic() - began
                if item is None:
                    return
                yield item
        finally:
            items.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds the time since the last line, at the steps that a line of metrics counts."""
        now = time.monotonic()
        seconds, waited = now - self._since, self._waited
        counters = {name: line[name] for name in ("epoch", "step", "steps")}
        share = round(waited / max(seconds, 1e-9), 4)
        self._stream.write(_encode({**counters, "seconds": round(seconds, 3), "data_wait": share}))
        self._stream.flush()
        self._waited, self._since = 0.0, now
        self._epoch = [self._epoch[0] + seconds, self._epoch[1] + waited]

    def end_epoch(self) -> None:
        """Warns if an epoch of more than a minute spent much of it waiting for data."""
        seconds, waited = self._epoch
        if seconds > SLOW_EPOCH_S and waited > MUCH_WAITING * seconds:
            logger.warning(
                "the steps of this epoch waited %.0f %% of their time for data; raise "
                "compute.prefetch_threads and compute.prefetch, or give the reader more CPUs",
                100 * waited / seconds,
            )
        self._epoch = [0.0, 0.0]
        self._waited, self._since = 0.0, time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


@dataclass(frozen=True)
class Consumed:
    """Records that one rank consumed in one step of the history that leads to the weights."""

    epoch: int
    step: int
    rank: int
    ids: tuple[str, ...]


class ConsumptionLog:
    """Writes which records this rank consumed, before each step.

    A line is written before the ranks meet in the step, so a step that a checkpoint counts as
    done has the lines of all ranks, whoever was killed right after.
    """

    def __init__(self, run_dir: Path, attempt: int, rank: int, world: int, start: Cursor) -> None:
        folder = run_dir / CONSUMPTION
        folder.mkdir(exist_ok=True)
        self._stream = (folder / f"{attempt:04d}-{rank:04d}.jsonl").open("w", encoding="utf-8")
        self._write({"start": start.to_json(), "world": world, "pid": os.getpid()})

    def write(self, cursor: Cursor, ids: Iterable[str]) -> None:
        """Adds the records of the step at ``cursor``."""
        self._write({**cursor.to_json(), "ids": list(ids)})

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(_encode(line))
        self._stream.flush()


def next_attempt(run_dir: Path) -> int:
    """Returns the number of the next attempt at a run that logs its consumption."""
    folder = run_dir / CONSUMPTION
    attempts = [int(path.name[:4]) for path in folder.glob("*.jsonl")] if folder.is_dir() else []
    return max(attempts, default=0) + 1


def surviving_consumption(run_dir: str | Path) -> list[Consumed]:
    """Returns what every rank consumed, without the steps that a restart undid."""
    history: list[Consumed] = []
    attempts: dict[int, list[Path]] = {}
    for path in sorted((Path(run_dir) / CONSUMPTION).glob("*.jsonl")):
        attempts.setdefault(int(path.name[:4]), []).append(path)
    for _, paths in sorted(attempts.items()):
        for path in paths:
            # A process killed before its first line was whole had consumed nothing.
            for header in islice(_read_lines(path), 1):
                start = Cursor.from_json(header["start"])
                history = [h for h in history if Cursor(h.epoch, h.step) < start]
        for path in paths:
            rank = int(path.stem[5:])
            for line in list(_read_lines(path))[1:]:
                history.append(Consumed(line["epoch"], line["step"], rank, tuple(line["ids"])))
    return sorted(history, key=lambda h: (h.epoch, h.step, h.rank))


def _encode(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for text in stream:
            # A process killed while it wrote leaves a last line without its end.
            if text.endswith("\n"):
                yield json.loads(text)

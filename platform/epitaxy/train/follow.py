"""The driver's view of a run: follows ``metrics.jsonl`` for a progress bar and for tracking."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from epitaxy.train.logs import METRICS

POLL_S = 0.5

logger = logging.getLogger(__name__)

Line = Mapping[str, Any]


class Sink(Protocol):
    """Receives new lines in order; lines of undone steps may come again after a restart."""

    def receive(self, lines: Sequence[Line]) -> None:
        """Takes new lines."""

    def close(self) -> None:
        """Ends, after the last line."""


class Follower(threading.Thread):
    """Hands each new line of a run to ``sinks``. A sink that fails is dropped: the run goes on."""

    def __init__(self, run_dir: Path, sinks: Sequence[Sink]) -> None:
        super().__init__(name="follower", daemon=True)
        self._path = run_dir / METRICS
        self._sinks = list(sinks)
        self._stopping = threading.Event()
        self._file: tuple[int, int] = (0, 0)

    def run(self) -> None:
        """Polls until stopped."""
        while not self._stopping.wait(POLL_S):
            self._deliver()

    def stop(self) -> None:
        """Delivers what is left and closes the sinks."""
        self._stopping.set()
        self.join()
        self._deliver()
        for sink in self._sinks:
            _guard(sink.close)

    def _deliver(self) -> None:
        lines = self._new_lines()
        if lines:
            self._sinks = [sink for sink in self._sinks if _guard(lambda s=sink: s.receive(lines))]

    def _new_lines(self) -> list[Line]:
        if not self._path.is_file():
            return []
        with self._path.open("rb") as stream:
            inode = self._path.stat().st_ino
            # A restarted worker replaces the file by one without the undone lines.
            offset = self._file[1] if inode == self._file[0] else 0
            stream.seek(offset)
            complete, _, _ = stream.read().rpartition(b"\n")
        if not complete:
            return []
        self._file = (inode, offset + len(complete) + 1)
        return [json.loads(text) for text in complete.splitlines()]


class ProgressBar:
    """A bar over the records of the whole run; silent where no terminal is watching."""

    def __init__(self, name: str, total: int) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=total, desc=name, unit="rec", disable=None, smoothing=0.1, dynamic_ncols=True
        )
        self._shown: dict[str, str] = {}

    def receive(self, lines: Sequence[Line]) -> None:
        """Moves the bar to the last line."""
        for line in lines:
            for key in ("train/loss", "val/loss", "lr"):
                if key in line:
                    self._shown[key] = f"{line[key]:.4g}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.n = int(lines[-1]["records"])
        self._bar.refresh()

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self._bar.close()


def _guard(action: Any) -> bool:
    """Returns whether ``action`` succeeded; training must not die of its own logging."""
    try:
        action()
    except Exception:
        logger.warning("following the run failed; its own log is not affected", exc_info=True)
        return False
    return True

"""SIGKILLs at random moments of a run that is started again and again, on changing workers.

After every kill what is on disk must be whole; at the end every record of every epoch must have
been consumed exactly once, in the order of the run that nobody killed, with its losses.

    python tests/shared/kill_suite.py --kills 30 --seed 0 --log benchmarks/results/kill_run.txt
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from epitaxy.data.convert import prepare
from epitaxy.data.plan import Cursor
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.train import checkpoint
from epitaxy.train.folders import verify_folder
from epitaxy.train.logs import read_metrics, surviving_consumption
from epitaxy.train.settings import (
    BatchSettings,
    ComputeSettings,
    LoopSettings,
    RunSettings,
    SplitSettings,
    to_dict,
)

DRIVER = Path(__file__).resolve().parents[1] / "faults" / "driver.py"
RECORDS, GRAPHS = 48, 4
STEPS = RECORDS // GRAPHS
KILL_AT = "EPITAXY_TEST_KILL_AT"
"""File operation before which the process that runs ``driver.py`` kills itself."""
PATIENCE_S = 180.0
MOMENTS = ("worker", "reader", "driver", "checkpoint", "file operation", "file operation")

Ids = dict[tuple[int, int], list[str]]


def prepare_data(folder: Path) -> Path:
    """Records of 10 atoms with half a megabyte of ballast, so that readers are kept busy."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(RECORDS + 4):
        labels = {
            "energy": Label(rng.normal(), "eV"),
            "forces": Label(rng.normal(size=(10, 3)) * 0.3, "eV/Å", per_atom=True),
            "stress": Label(np.eye(3) * rng.normal() * 0.05, "eV/Å^3"),
            "ballast": Label(rng.normal(size=65536), ""),
        }
        grid = np.stack(np.meshgrid(*[range(3)] * 3), axis=-1).reshape(-1, 3)[:10]
        positions = grid * 2.6 + rng.uniform(-0.3, 0.3, (10, 3))
        numbers = rng.choice([3, 8, 13, 26], 10).astype(np.uint8)
        records.append(
            CrystalRecord(f"s{index:03d}", numbers, positions, np.eye(3) * 7.8, labels=labels)
        )
    prepare(records, folder, format="lmdb", recipe=None, progress=False)
    return folder


def make_settings(name: str, root: Path, data: Path, epochs: int, **compute: Any) -> RunSettings:
    """A force pre-training of twelve steps an epoch, with a checkpoint every five."""
    return RunSettings(
        name=name,
        directory=str(root / name),
        data=str(data),
        encoder={"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 64, "layers": 3},
        objective={"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress"},
        split=SplitSettings(by="record", sizes=(RECORDS, 4, 0)),
        batch=BatchSettings(graphs=GRAPHS),
        loop=LoopSettings(
            epochs=epochs, precision="fp64", checkpoint_every=5, log_every=1, log_consumption=True
        ),
        compute=ComputeSettings(**compute),
    )


class Start:
    """One start of the run: the driver's process and what it started."""

    def __init__(self, settings: RunSettings, kill_at: int = 0) -> None:
        self.run_dir = Path(settings.directory)
        self.attempt = _last_attempt(self.run_dir) + 1
        file = self.run_dir.with_suffix(".json")
        file.write_text(json.dumps(to_dict(settings)))
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(file)],
            env={**environment, KILL_AT: str(kill_at)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def workers(self, attempt: int, steps: int) -> list[int]:
        """Waits until all ranks of an attempt began ``steps`` steps; returns their pids.

        None are returned if the run ends before.
        """
        return self.until(lambda: _pids(self.run_dir, attempt, steps)) or []

    def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until ``condition`` gives something, or the driver is gone."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := condition():
                return found
            if self.process.poll() is not None:
                return None
            time.sleep(0.005)
        raise AssertionError(f"{self.run_dir.name} stood still for {PATIENCE_S} s")

    def readers(self, workers: list[int]) -> list[int]:
        """Ray's processes that read or did read; not those that train."""
        return [
            process.pid
            for process in _descendants(self.process.pid)
            if process.pid not in workers and _title(process).startswith(("ray::Read", "ray::IDLE"))
        ]

    def kill(self) -> None:
        """Kills the driver and waits until everything that it started is gone."""
        family = _descendants(self.process.pid)
        self.process.kill()
        self.process.communicate()
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
        if alive:
            raise AssertionError(f"{alive} outlived their driver")

    def finish(self) -> int:
        """Waits for the end; returns how the driver ended."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        if self.process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(errors.decode())
        return int(self.process.returncode)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _last_attempt(run_dir: Path) -> int:
    paths = (run_dir / "consumption").glob("*.jsonl")
    return max((int(path.name[:4]) for path in paths), default=0)


def _pids(run_dir: Path, attempt: int, steps: int) -> list[int]:
    paths = sorted((run_dir / "consumption").glob(f"{attempt:04d}-*.jsonl"))
    lines = [path.read_text().splitlines(keepends=True) for path in paths]
    whole = [[text for text in rank if text.endswith("\n")] for rank in lines]
    if not whole or not all(len(rank) > steps for rank in whole):
        return []
    headers = [json.loads(rank[0]) for rank in whole]
    return [h["pid"] for h in headers] if len(headers) == headers[0]["world"] else []


def _consumed(run_dir: Path) -> Ids:
    """Ids by step in the surviving history, those of all ranks together."""
    steps: Ids = {}
    for entry in surviving_consumption(run_dir):
        steps.setdefault((entry.epoch, entry.step), []).extend(entry.ids)
    return steps


def _losses(run_dir: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]


class KillSuite:
    """Kills one run ``kills`` times, then lets it end; ``say`` gets a line for each."""

    def __init__(
        self,
        root: Path,
        kills: int,
        seed: int,
        say: Callable[[str], None],
        moments: tuple[str, ...] = MOMENTS,
    ) -> None:
        self.root, self.kills, self.say, self.moments = root, kills, say, moments
        self.rng = random.Random(seed)
        self.done = 0
        self.epochs = 2 + kills // 2
        self.data = prepare_data(root / "data")
        self.began = time.monotonic()

    def settings(self, name: str, **compute: Any) -> RunSettings:
        return make_settings(name, self.root, self.data, self.epochs, **compute)

    def run(self) -> None:
        """Raises AssertionError if anything is lost, repeated, out of order or half-written."""
        whole = self.settings("undisturbed", backend="local")
        assert Start(whole).finish() == 0
        self.whole = _consumed(Path(whole.directory))
        self.run_dir = Path(self.settings("killed").directory)
        deck: list[str] = []
        while self.done < self.kills:
            deck = deck or self.rng.sample(self.moments, len(self.moments))
            self._round(deck.pop())
        last = Start(self.settings("killed", backend="local"))
        assert last.finish() == 0
        self._check_end(Path(whole.directory))
        self.say(
            f"{self.done} kills, {_last_attempt(self.run_dir)} attempts, {len(self.whole)} steps: "
            "every record of every epoch exactly once, in the order and with the losses of the "
            f"undisturbed run ({time.monotonic() - self.began:.0f} s)"
        )

    def _round(self, moment: str) -> None:
        if moment == "file operation":
            self._kill_at_file_operation()
            return
        world = self.rng.choice((1, 2, 3))
        start = Start(
            self.settings("killed", backend="ray", workers=world, stream="ray", max_failures=5)
        )
        steps = self.rng.randint(1, 7)
        workers = start.workers(start.attempt, steps)
        assert workers, "the run ended before all kills: give it more epochs"
        if moment == "worker":
            self._kill_worker(start, workers, self.rng.randrange(world))
        elif moment == "reader":
            self._kill_readers(start, workers, steps)
        elif moment == "checkpoint":
            start.until(lambda: list((self.run_dir / "checkpoints").glob(".tmp-*")))
            time.sleep(self.rng.uniform(0, 0.01))
            self._kill_worker(start, workers, 0, "while it wrote a checkpoint")
        start.kill()
        self._note(f"driver of {world} workers, with all of them")

    def _kill_worker(self, start: Start, workers: list[int], rank: int, when: str = "") -> None:
        attempt = _last_attempt(self.run_dir)
        os.kill(workers[rank], signal.SIGKILL)
        self._note(f"worker {rank} of {len(workers)} {when}".strip(), whole=False)
        assert start.workers(attempt + 1, self.rng.randint(1, 5)), "Ray Train did not go on"

    def _kill_readers(self, start: Start, workers: list[int], steps: int) -> None:
        attempt = _last_attempt(self.run_dir)
        victims = start.readers(workers)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self._note(f"{len(victims)} readers of {len(workers)} workers", whole=False)
        assert start.workers(attempt, steps + 3), "the stream did not go on"
        assert _last_attempt(self.run_dir) == attempt, "a dead reader must not restart workers"

    def _kill_at_file_operation(self) -> None:
        at = self.rng.randint(1, 60)
        start = Start(self.settings("killed", backend="local"), kill_at=at)
        assert start.finish() == -signal.SIGKILL, "the run ended before all kills"
        told = (self.run_dir.parent / "operation.txt").read_text()
        self._note(f"one process, before its file operation {at}: {told}")

    def _note(self, victim: str, *, whole: bool = True) -> None:
        """Counts and tells a kill; checks what it left behind once nobody writes any more."""
        self.done += 1
        history = _consumed(self.run_dir)
        at = max(history, default=(0, 0))
        kept = self._check_remains() if whole else ""
        self.say(
            f"{time.monotonic() - self.began:6.0f} s  kill {self.done:3d}  at epoch {at[0]:2d} "
            f"step {at[1]:2d}: {victim}{kept}"
        )

    def _check_remains(self) -> str:
        """Every folder under its final name is whole, and the history is that of the whole run."""
        newest = checkpoint.latest(self.run_dir)
        for name in ("best", "final"):
            if (self.run_dir / name).is_dir():
                verify_folder(self.run_dir / name)
        cursor = Cursor()
        if newest is not None:
            state = json.loads((newest / "state.json").read_text())["state"]
            cursor = Cursor(state["epoch"], state["step"])
        done = {key: ids for key, ids in _consumed(self.run_dir).items() if Cursor(*key) < cursor}
        wanted = {key: ids for key, ids in self.whole.items() if Cursor(*key) < cursor}
        assert _sorted(done) == _sorted(wanted)
        assert list(done) == list(wanted), "in the order of the undisturbed run"
        read_metrics(self.run_dir)
        return f"; resumes at epoch {cursor.epoch} step {cursor.step}"

    def _check_end(self, whole: Path) -> None:
        found = _consumed(self.run_dir)
        assert list(found) == list(self.whole)
        assert _sorted(found) == _sorted(self.whole)
        for epoch in range(self.epochs):
            ids = [name for key, names in found.items() if key[0] == epoch for name in names]
            assert len(ids) == len(set(ids)) == RECORDS
        np.testing.assert_allclose(_losses(self.run_dir), _losses(whole), rtol=1e-6)
        results = [json.loads((d / "result.json").read_text()) for d in (self.run_dir, whole)]
        metrics = [result.pop("metrics") for result in results]
        assert results[0] == results[1]
        assert metrics[0].keys() == metrics[1].keys()
        for name, value in metrics[1].items():
            np.testing.assert_allclose(metrics[0][name], value, rtol=1e-5, err_msg=name)
        leftovers = [path.name for path in self.run_dir.rglob(".tmp-*")]
        assert leftovers == [], "what was half-written is removed"


def _sorted(steps: Ids) -> Ids:
    return {key: sorted(ids) for key, ids in steps.items()}


def kill_before_file_operation(number: int, run_dir: Path) -> None:
    """Makes this process kill itself before it changes something in ``run_dir`` for the n-th time.

    Opening a file to write it, renaming, removing and making folders count.
    """
    events = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"}
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in events or not str(arguments[0]).startswith(f"{run_dir}{os.sep}"):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        if seen == number:
            told = f"{event} {Path(str(arguments[0])).relative_to(run_dir)}"
            os.write(os.open(run_dir.parent / "operation.txt", 0o1102, 0o644), told.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main() -> None:
    """Runs the suite and writes its log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        lines.append(line)
        if options.log:
            options.log.write_text("\n".join(lines) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        say(f"kill suite: {options.kills} kills, seed {options.seed}")
        KillSuite(Path(folder), options.kills, options.seed, say).run()


if __name__ == "__main__":
    main()

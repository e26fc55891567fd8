"""SIGKILL of a Ray worker and of the driver in the middle of an epoch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.plan import Cursor
from epitaxy.train.launch import launch
from epitaxy.train.logs import read_metrics
from epitaxy.train.settings import RunSettings, to_dict

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

MakeSlow = Callable[..., RunSettings]


def losses(run_dir: str | Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def undisturbed(make_slow: MakeSlow) -> list[float]:
    """Loss curve of the same run in one process that nobody kills."""
    return losses(launch(make_slow("undisturbed", backend="local")).directory)


def test_worker_killed_in_the_middle_of_an_epoch(
    ray_cluster: Any, make_slow: MakeSlow, undisturbed: list[float], watch: Any
) -> None:
    settings = make_slow("worker", backend="ray", workers=2, stream="ray", max_failures=2)
    run_dir = Path(settings.directory)
    killed: list[int] = []

    def kill() -> None:
        killed.append(watch.wait_for_steps(run_dir, attempt=1, steps=8)[1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = launch(settings)
    killer.join()
    assert len(killed) == 1
    history = watch.check_exactly_once(run_dir)
    assert {entry.rank for entry in history} == {0, 1}
    assert len(list((run_dir / "consumption").glob("0002-*.jsonl"))) == 2
    header = (run_dir / "consumption" / "0002-0000.jsonl").read_text().splitlines()[0]
    start = Cursor.from_json(json.loads(header)["start"])
    assert start > Cursor(0, 0)  # it went on from a checkpoint, not from the beginning
    assert losses(result.directory) == pytest.approx(undisturbed, rel=1e-5)


def test_driver_killed_in_the_middle_of_an_epoch(
    make_slow: MakeSlow, undisturbed: list[float], watch: Any, tmp_path: Path
) -> None:
    settings = make_slow("driver", backend="ray", workers=2, stream="direct")
    run_dir, file = Path(settings.directory), tmp_path / "settings.json"
    file.write_text(json.dumps(to_dict(settings)))
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), str(file)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    first = subprocess.Popen(command, env=environment)
    workers = watch.wait_for_steps(run_dir, attempt=1, steps=8)
    first.kill()
    assert first.wait(timeout=30) == -signal.SIGKILL
    wait_until_gone(workers)
    again = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    assert json.loads(again.stdout)["resumed"] is True
    watch.check_exactly_once(run_dir)
    assert losses(run_dir) == pytest.approx(undisturbed, rel=1e-5)


def wait_until_gone(pids: list[int]) -> None:
    """Waits for the workers of a dead driver; they may still be writing before that."""
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError(f"workers {pids} outlived their driver by a minute")

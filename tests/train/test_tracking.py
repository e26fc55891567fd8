"""Following a run: MLflow gets each value once, through restarts; a broken sink is dropped."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from epitaxy.errors import ConfigError
from epitaxy.train.follow import Follower, ProgressBar
from epitaxy.train.launch import launch
from epitaxy.train.logs import MetricsLog
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import RunSettings
from epitaxy.train.tracking import Tracker


class Collector:
    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.closed = False

    def receive(self, lines: Sequence[Any]) -> None:
        self.lines += lines

    def close(self) -> None:
        self.closed = True


class Broken(Collector):
    def receive(self, lines: Sequence[Any]) -> None:
        raise OSError("the disk is gone")


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing came")


def test_lines_arrive_while_the_run_goes_on_and_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epitaxy.train.follow.POLL_S", 0.01)
    collector = Collector()
    follower = Follower(tmp_path, [collector])
    follower.start()
    log = MetricsLog(tmp_path, 0)
    for steps in (1, 2, 3):
        log.write({"steps": steps, "records": 4 * steps, "kind": "train"})
    wait_for(lambda: len(collector.lines) == 3)
    log.close()
    log = MetricsLog(tmp_path, 1)  # a restart undid steps 2 and 3
    log.write({"steps": 2, "records": 8, "kind": "train"})
    wait_for(lambda: len(collector.lines) == 5)
    log.write({"steps": 3, "records": 12, "kind": "train"})
    log.close()
    follower.stop()
    assert [line["steps"] for line in collector.lines] == [1, 2, 3, 1, 2, 3]
    assert collector.closed


def test_broken_sink_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector()
    follower = Follower(tmp_path, [Broken(), collector])
    follower.start()
    log = MetricsLog(tmp_path, 0)
    log.write({"steps": 1, "records": 4, "kind": "train"})
    log.close()
    follower.stop()
    assert len(collector.lines) == 1
    assert "following the run failed" in caplog.text


def test_progress_bar_shows_records_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    bar = ProgressBar("my-run", 40)
    bar.receive([{"records": 30, "train/loss": 0.123456, "lr": 1e-3}])
    bar.close()
    for part in ("my-run", "30/40", "train/loss=0.1235", "lr=0.001"):
        assert part in screen.getvalue()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def line(steps: int, value: float, kind: str = "train") -> dict[str, Any]:
    return {"time": 100.0 + steps, "kind": kind, "epoch": 0, "step": steps, "steps": steps,
            "progress": 0.5, "records": 4 * steps, f"{kind}/loss": value}  # fmt: skip


def test_values_are_logged_once_through_a_restart(tmp_path: Path, uri: str) -> None:
    settings = {"loop": {"epochs": 3}, "seed": 1}
    tracker = Tracker(uri, tmp_path, "r", settings, {"epitaxy.data": "abc"})
    tracker.receive([line(1, 5.0), line(2, 4.0), line(2, 3.5, "val")])
    # The driver is killed here: MLflow still says RUNNING, and step 2 is done again.
    again = Tracker(uri, tmp_path, "r", settings, {})
    assert again.run_id == tracker.run_id
    again.receive([line(1, 5.0), line(2, 4.0), line(2, 3.5, "val"), line(3, 3.0)])
    again.end("FINISHED")
    client = MlflowClient(tracking_uri=uri)
    history = client.get_metric_history(again.run_id, "train/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (1, 5.0, 101_000),
        (2, 4.0, 102_000),
        (3, 3.0, 103_000),
    ]
    run = client.get_run(again.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"loop.epochs": "3", "seed": "1"}
    assert run.data.tags["epitaxy.data"] == "abc"
    assert run.data.metrics["val/loss"] == 3.5


def test_status_of_an_interrupted_and_resumed_run(
    make_settings: Callable[..., RunSettings], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    settings = make_settings("tracked", tracking=uri)
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            launch(settings)
    known = json.loads((Path(settings.directory) / "tracking.json").read_text())
    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(known["run_id"]).info.status == "KILLED"
    launch(settings)
    run = client.get_run(known["run_id"])
    assert run.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(known["run_id"], "train/loss")]
    assert steps == list(range(1, 9))  # 4 steps an epoch, none of them twice


def test_unusable_tracking_is_refused(make_settings: Callable[..., RunSettings]) -> None:
    with pytest.raises(ConfigError, match=r"tracking=nonsense.* cannot be used"):
        launch(make_settings("untracked", tracking="nonsense://server/mlflow"))

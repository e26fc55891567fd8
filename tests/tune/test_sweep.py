"""Sweeps: placed so that they cannot wait for themselves, and resumed after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from epitaxy.app import api
from epitaxy.data.convert import prepare
from epitaxy.errors import ConfigError, EpitaxyError
from epitaxy.train.settings import ComputeSettings, InitSettings, RunSettings
from epitaxy.tune.results import collect
from epitaxy.tune.sweep import SweepSettings, Trial, check, cpus_of_trial, place, run_sweep

EPOCHS = 30
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory, crystals) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "data"
    prepare(crystals.many(60, max_atoms=2), folder, progress=False)
    return folder


def options(data: Path) -> list[str]:
    return [
        f"data={data}",
        "run.name=grid",
        "finetune=scratch",
        "objective.label=energy",
        "objective.hidden=[4]",
        "encoder.width=4",
        "encoder.layers=1",
        "encoder.cutoff=4.0",
        "batch.graphs=4",
        "loop.log_consumption=true",
        f"loop.epochs={EPOCHS}",
        f"sweep.seed={list(SEEDS)}",
        "sweep.concurrent=1",
    ]


def settings(tmp_path: Path, **changes) -> RunSettings:
    base = RunSettings("r", str(tmp_path / "r"), str(tmp_path / "data"), {}, {})
    return replace(base, **changes)


def test_trials_and_their_workers_must_fit_together(tmp_path):
    sweep = SweepSettings("s", str(tmp_path), cpus_per_trial=1.0)
    ray = ComputeSettings(backend="ray", workers=2, cpus_per_worker=0.5)
    assert cpus_of_trial(sweep, settings(tmp_path)) == 1
    assert cpus_of_trial(sweep, settings(tmp_path, compute=ray)) == 1 + 2 * 0.5 + 1
    assert place(sweep, 1, 4) == 4
    assert place(sweep, 3, 8) == 2
    assert place(replace(sweep, concurrent=1), 3, 8) == 1
    assert place(replace(sweep, concurrent=9), 3, 8) == 2
    with pytest.raises(ConfigError, match="a trial needs 3 CPUs, the cluster has 2"):
        place(sweep, 3, 2)
    with pytest.raises(ConfigError, match="at least 1"):
        place(replace(sweep, concurrent=0), 1, 2)


def test_ranking_and_tables(tmp_path):
    trials = []
    for name, loss in (("a", 0.5), ("b", 0.25), ("c", None)):
        folder = tmp_path / name
        folder.mkdir()
        run = settings(tmp_path, directory=str(folder))
        trials.append(Trial(name, {"lr": 0.1}, run))
        if loss is not None:
            (folder / "result.json").write_text(json.dumps({"metrics": {"val/loss": loss}}))
            (folder / "run.json").write_text(json.dumps({"units": {"val/x_mae": "eV"}}))

    result = collect(trials, SweepSettings("s", str(tmp_path)))

    assert [trial.name for trial in result.trials] == ["b", "a", "c"]
    assert result.best is not None
    assert result.best.model == tmp_path / "b" / "final"
    result.write(tmp_path)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines == [
        "trial,lr,finished,val/loss",
        "b,0.1,True,0.25",
        "a,0.1,True,0.5",
        "c,0.1,False,",
    ]
    assert json.loads((tmp_path / "results.json").read_text())["units"] == {"val/x_mae": "eV"}
    with pytest.raises(ConfigError, match="'val/los' was not measured; did you mean 'val/loss'"):
        collect(trials, SweepSettings("s", str(tmp_path), metric="val/los"))


def test_misfits_show_before_anything_starts(tmp_path, data, epitaxy_home):
    words = [word for word in options(data) if not word.startswith("objective.label")]
    with pytest.raises(EpitaxyError, match=r"trial seed0: .*asks for the label 'gap'"):
        api.sweep(*words, "objective.label=gap")
    with pytest.raises(EpitaxyError, match=r"trial seed0: the val split .* is empty"):
        api.sweep(*options(data), "split.fractions=[0.99,0.005,0.005]")
    with pytest.raises(ConfigError, match=r"seed and sweep\.seed are both set"):
        api.sweep(*options(data), "seed=3")
    bad = settings(tmp_path, data=str(data), init=InitSettings(strategy={"_target_": "no.where"}))
    with pytest.raises(ConfigError, match="trial t: "):
        check([Trial("t", {}, bad)])


def test_another_grid_under_the_same_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("epitaxy.tune.sweep.check", lambda trials: None)
    monkeypatch.setattr("epitaxy.tune.sweep._run", lambda sweep, trials: {"a": "no"})
    sweep = SweepSettings("s", str(tmp_path))
    run = settings(tmp_path, directory=str(tmp_path / "a"))
    with pytest.raises(EpitaxyError, match="1 of 1 trials failed: a; the first: no"):
        run_sweep(sweep, [Trial("a", {}, run)])
    with pytest.raises(ConfigError, match="started with other settings: a, b differ"):
        run_sweep(sweep, [Trial("a", {}, replace(run, seed=1)), Trial("b", {}, run)])


@pytest.mark.ray
def test_a_killed_sweep_is_resumed_by_the_same_command(data, epitaxy_home):
    """Driver, Ray and trials are killed at once while the second of three trials runs."""
    sweep = epitaxy_home / "sweeps" / "grid"
    code = "import sys; from epitaxy.app.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "sweep", *options(data)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    second = sweep / "trials" / "seed1"
    wait_for(lambda: len(list((second / "checkpoints").glob("0*"))) > 1, driver)
    kill_everything_of(epitaxy_home)
    driver.communicate()
    first = sweep / "trials" / "seed0" / "result.json"
    finished = first.stat().st_mtime_ns
    assert not (second / "result.json").exists()
    assert not (sweep / "trials" / "seed2" / "checkpoints").exists()

    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "2 trials to run, 1 finished before" in done.stderr
    assert first.stat().st_mtime_ns == finished
    starts = [start_of(path) for path in sorted((second / "consumption").glob("*-0000.jsonl"))]
    assert [start["epoch"] > 0 for start in starts] == [False, True]
    results = json.loads((sweep / "results.json").read_text())
    losses = [trial["metrics"]["val/loss"] for trial in results["trials"]]
    assert sorted(trial["name"] for trial in results["trials"]) == ["seed0", "seed1", "seed2"]
    assert losses == sorted(losses)
    assert f"best   {results['trials'][0]['name']}" in done.stdout
    assert len(list((sweep / "tune").glob("seed*/events.out.tfevents.*"))) >= 3
    assert tracked_trials(epitaxy_home) == {f"seed{seed}": "FINISHED" for seed in SEEDS}


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline, "the sweep did not get there in time"
        time.sleep(0.02)


def kill_everything_of(home: Path) -> None:
    """Ends every process of the sweep at once: left alone, a trial outlives its driver a while."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue


def start_of(path: Path) -> dict:
    return json.loads(path.read_text().splitlines()[0])["start"]


def tracked_trials(home: Path) -> dict[str, str]:
    """Trial to status of its one MLflow run."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{home}/registry/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.\"epitaxy.sweep\" = 'grid'")
    assert len(runs) == len(SEEDS)
    return {run.data.tags["epitaxy.trial"]: run.info.status for run in runs}

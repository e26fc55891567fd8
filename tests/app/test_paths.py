"""Paths that workers, who run in other folders, can use."""

from pathlib import Path

import pytest

from epitaxy.app.paths import absolute, absolute_output, default_home, set_absolute
from epitaxy.errors import ConfigError


def test_paths_become_absolute_and_uris_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b") == f"{tmp_path}/b"
    assert absolute("~/x") == str(Path.home() / "x")
    assert absolute("s3://bucket/a") == "s3://bucket/a"
    assert absolute("file:///mnt/a") == "/mnt/a"


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("EPITAXY_HOME", str(tmp_path))
    assert default_home() == str(tmp_path)
    monkeypatch.delenv("EPITAXY_HOME")
    assert default_home() == str(Path.home() / ".epitaxy")


def test_outputs_inside_a_ray_job_would_be_lost(tmp_path, monkeypatch):
    job = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    assert absolute("data") == f"{job}/data"  # inputs may come with the job
    with pytest.raises(ConfigError, match=r"out=result is relative to the folder of the Ray job"):
        absolute_output("result", "out")
    assert absolute_output(str(tmp_path), "out") == str(tmp_path)


def test_only_values_that_are_set_are_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"data": "d", "split": {"file": None}, "run": {"directory": "r"}, "out": "???"}
    set_absolute(config, ("data", "split.file", "filter.exclude"), ("run.directory", "out"))
    assert config == {
        "data": f"{tmp_path}/d",
        "split": {"file": None},
        "run": {"directory": f"{tmp_path}/r"},
        "out": "???",
    }

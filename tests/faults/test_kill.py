"""SIGKILL of workers, readers, drivers and writers; see ``kill_suite``.

Three kills in one run by default, 30 in the slow suite, ``EPITAXY_KILLS`` of them on request.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kill_suite import KillSuite

from epitaxy.errors import CheckpointError
from epitaxy.train import folders
from epitaxy.train.folders import remove_leftovers, sole_writer
from epitaxy.train.logs import surviving_consumption

HOLDER = """
import sys, time
from pathlib import Path
from epitaxy.train.folders import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_survives_three_kills(tmp_path: Path) -> None:
    """A writer between two file operations, then a worker and, restarted, everything."""
    said: list[str] = []
    KillSuite(tmp_path, 3, 4, said.append, moments=("worker", "file operation")).run()
    assert len(said) == 4
    assert "exactly once" in said[-1]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(7200)
def test_a_run_survives_many_kills(tmp_path: Path) -> None:
    kills = int(os.environ.get("EPITAXY_KILLS", "30"))
    KillSuite(tmp_path, kills, 0, lambda line: sys.stdout.write(f"{line}\n") and None).run()


def test_a_new_start_waits_until_the_last_writer_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=-1)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(folders, "WRITER_TIMEOUT_S", 0.2)
        with pytest.raises(CheckpointError, match="a worker of an earlier start still writes"):
            sole_writer(tmp_path).__enter__()
        monkeypatch.undo()
    finally:
        holder.kill()
        holder.communicate()
    with sole_writer(tmp_path):
        pass


def test_leftovers_of_files_and_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-result.json-1234").write_text("{")
    (tmp_path / ".tmp-best-1234").mkdir()
    (tmp_path / ".tmp-best-1234" / "model.json").write_text("{")
    (tmp_path / "best").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_log_without_its_first_line_has_consumed_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "consumption"
    folder.mkdir()
    start = '{"start": {"epoch": 0, "step": %d}, "world": 2, "pid": 1}\n'
    lines = '{"epoch": 0, "step": 0, "ids": ["a"]}\n{"epoch": 0, "step": 1, "ids": ["b"]}\n'
    (folder / "0001-0000.jsonl").write_text(start % 0 + lines)
    (folder / "0002-0000.jsonl").write_text("")
    (folder / "0002-0001.jsonl").write_text((start % 1)[:20])
    assert [entry.ids for entry in surviving_consumption(tmp_path)] == [("a",), ("b",)]
    (folder / "0003-0000.jsonl").write_text(start % 1)
    assert [entry.ids for entry in surviving_consumption(tmp_path)] == [("a",)]

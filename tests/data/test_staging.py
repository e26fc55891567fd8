"""A folder appears complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from epitaxy.data.staging import staging
from epitaxy.errors import ConfigError


def make_data_set(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    (folder / "sidecars").mkdir()


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staging(out) as folder:
        make_data_set(folder, "new")
        assert folder.parent == out.parent
        assert folder.name.startswith(".out.tmp-")
        assert not out.exists()
    assert (out / "manifest.json").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staging(tmp_path / "out") as folder:
            make_data_set(folder, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_folder_exclude_each_other(tmp_path: Path) -> None:
    with staging(tmp_path / "out") as folder:
        with (
            pytest.raises(ConfigError, match="writing this data set now"),
            staging(tmp_path / "out"),
        ):
            pass
        with staging(tmp_path / "out2") as other:
            assert other != folder
        assert folder.exists()


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in (".out.tmp-1", ".out.tmp-22"):
        make_data_set(Path.mkdir(tmp_path / name) or tmp_path / name, "half")
    (tmp_path / ".out2.tmp-1").mkdir()
    (tmp_path / ".out.lock").touch()
    with staging(tmp_path / "out") as folder:
        make_data_set(folder, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out2.tmp-1"}


def test_a_data_set_whose_replacement_was_interrupted_comes_back(tmp_path: Path) -> None:
    """Killed between moving the old one away and the new one in."""
    (tmp_path / ".out.old").mkdir()
    make_data_set(tmp_path / ".out.old", "old")
    with pytest.raises(ConfigError, match="exists already"), staging(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "manifest.json").read_text() == "old"


def test_an_old_copy_that_was_replaced_is_removed(tmp_path: Path) -> None:
    for name in (".out.old", "out"):
        (tmp_path / name).mkdir()
        make_data_set(tmp_path / name, name)
    with staging(tmp_path / "out", overwrite=True) as folder:
        make_data_set(folder, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "manifest.json").read_text() == "new"

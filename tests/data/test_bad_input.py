"""Bad input of every kind: a clear error with place and remedy, or a counted skip; no debris."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bad_files import CASES, FRAME, GOOD, XYZ, Case, frames

from epitaxy.data import lmdb_shard
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.recipe import Recipe
from epitaxy.errors import ConfigError, EpitaxyError, ShardError

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def run(case: Case, folder: Path, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    source = case.make(folder)
    recipe = Recipe.from_dict(case.recipe, "case")
    out = folder.parent / "out"
    return prepare(str(source), out, recipe=recipe, checks="off", progress=False, **options)


def test_there_are_more_than_forty_kinds() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    with pytest.raises(EpitaxyError, match=f"(?s){case.message}"):
        run(case, tmp_path / "in")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}, "something was left behind"
    assert not (tmp_path / "in" / "touched").exists(), "the pickle was run"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kept is not None])
def test_skipping_counts_and_lists_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    manifest = run(case, tmp_path / "in", on_error="skip")
    assert (manifest.num_records, manifest.skipped.count) == (case.kept, 1)
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    (entry,) = [json.loads(line) for line in lines]
    assert entry["where"]
    assert entry["why"]
    Dataset.open(tmp_path / "out").verify()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kept is None])
def test_skipping_never_makes_a_data_set_of_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(EpitaxyError):
        run(CASES[name], tmp_path / "in", on_error="skip")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["NaN energy", "gzip bomb", "pickle that runs a command"])
def test_the_command_line_says_it_in_one_message(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    recipe = tmp_path / "case.yaml"
    recipe.write_text(yaml.safe_dump(case.recipe))
    words = [f"recipe={recipe}", f"source={case.make(tmp_path)}", f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "epitaxy.app.cli", "prepare", *words, "workers=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_left_handed_cell_is_fine(tmp_path: Path) -> None:
    """Mirrored lattice vectors are a legal choice: the volume counts, not its sign."""
    mirrored = frames({"lattice": "4 0 0 0 4 0 0 0 -4"})
    manifest = run(Case(mirrored, XYZ, ""), tmp_path / "in")
    assert manifest.num_records == 2
    record = Dataset.open(tmp_path / "out").record(1)
    assert np.linalg.det(record.cell) < 0
    assert record.volume == pytest.approx(64)


def test_a_cell_of_a_million_ångström_is_read(tmp_path: Path) -> None:
    """It is mostly vacuum; each atom has no neighbour, and nothing runs forever."""
    vast = frames({"lattice": "1e6 0 0 0 1e6 0 0 0 1e6"})
    run(Case(vast, XYZ, ""), tmp_path / "in")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.record(1).volume == pytest.approx(1e18)


def test_a_cell_with_too_many_atoms_is_refused(tmp_path: Path) -> None:
    count = 10_001
    rng = np.random.default_rng(0)
    lines = [f"Na {x} {y} {z}" for x, y, z in rng.uniform(0, 100, (count, 3))]
    header = f'{count}\nLattice="100 0 0 0 100 0 0 0 100" id=big\n'
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.xyz"
    source.write_text(header + "\n".join(lines) + "\n")
    recipe = Recipe.from_dict({"source": XYZ["source"], "fields": {}}, "big")
    with pytest.raises(EpitaxyError, match="10001 atoms, more than 10000"):
        prepare(str(source), tmp_path / "out", recipe=recipe, progress=False)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifth write of a shard fails as on a full disk."""
    original, writes = lmdb_shard._put, []

    def full(*arguments: Any) -> int:
        writes.append(arguments)
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    monkeypatch.setattr(lmdb_shard, "_put", full)
    with pytest.raises(ShardError, match=r"No space left on device.*nothing was left behind"):
        run(Case(frames({}, {}, {}), XYZ, ""), tmp_path / "in", shard_size=1)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of two pages: what the kernel says reaches the user."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let tests mount a file system")
    try:
        texts = [FRAME.format(**GOOD, id=f"f{number}") for number in range(3000)]
        source = tmp_path / "a.xyz"
        source.write_text("".join(texts))
        recipe = Recipe.from_dict(XYZ, "case")
        with pytest.raises(ShardError, match=r"cannot be written|No space left"):
            prepare(str(source), mount / "out", recipe=recipe, checks="off", progress=False)
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """``/proc`` refuses even root."""
    source = frames({})(tmp_path)
    recipe = Recipe.from_dict(XYZ, "case")
    with pytest.raises(ConfigError, match=r"/proc.*cannot be (made|written)"):
        prepare(str(source), "/proc/epitaxy/out", recipe=recipe, progress=False)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    source = frames({})(tmp_path)
    recipe = Recipe.from_dict(XYZ, "case")
    with pytest.raises(ConfigError, match="exists already"):
        prepare(str(source), source, recipe=recipe, progress=False)
    with pytest.raises(ConfigError, match="is no prepared data set"):
        prepare(str(source), source, recipe=recipe, progress=False, overwrite=True)
    with pytest.raises(ConfigError, match=r"cannot be made|Not a directory|cannot be written"):
        prepare(str(source), source / "below", recipe=recipe, progress=False)
    assert source.read_text().startswith("2\n")

"""Killed imports go on where they were and give the bytes of an undisturbed one."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data import convert, importing
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.journal import Journal
from epitaxy.data.manifest import Manifest, tree_sha256
from epitaxy.data.recipe import Recipe
from epitaxy.data.rewrite import StoredRecords, rewrite
from epitaxy.errors import ConfigError, LabelError, RecordError
from epitaxy.graph.record import CrystalRecord

FRAMES = 60
RECIPE = {
    "source": {"_target_": "epitaxy.data.sources.extxyz.ExtendedXyz", "id_keys": ["id"]},
    "fields": {"energy": {"key": "energy", "unit": "eV", "optional": True}},
    "filter": {"max_atoms": 2},
}

PROGRAM = """
import json, sys
from epitaxy.data.convert import prepare
from epitaxy.data.recipe import Recipe
from epitaxy.data.rewrite import StoredRecords, rewrite

source, out, recipe, options = sys.argv[1:]
print("started", flush=True)
prepare(source, out, recipe=Recipe.from_dict(json.loads(recipe), "r"), **json.loads(options))
"""
# Where an import of six shards is killed, one after the other: (place, function, at which call).
MOMENTS = [
    (importing, "write_part", 1),
    (importing, "write_part", 3),
    (Journal, "add", 1),
    (Journal, "add", 2),
    (importing, "decode", 15),
    (convert, "join", 1),
    (convert, "folder_digest", 1),
]


def frame(index: int, *, atoms: int = 2, id: str = "") -> str:
    """Two atoms of a cubic cell whose side grows with ``index``."""
    lines = "".join(f"Cu {2.0 * k} 0 0\n" for k in range(atoms))
    side = 5 + index / 100
    energy = "nan" if index % 13 == 5 else f"{-index / 3!r}"
    return (
        f'{atoms}\nLattice="{side} 0 0 0 {side} 0 0 0 {side}" Properties=species:S:1:pos:R:3 '
        f'id={id or f"f{index}"} energy={energy} pbc="T T T"\n{lines}'
    )


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Two files with bad records, records that a rule leaves out, and one id that comes twice."""
    frames = [frame(i, atoms=3 if i % 17 == 3 else 2) for i in range(FRAMES)]
    frames.insert(50, frame(7, id="f8"))
    (tmp_path / "a.xyz").write_text("".join(frames[:35]))
    (tmp_path / "b.xyz").write_text("".join(frames[35:]))
    return f"{tmp_path / 'a.xyz'},{tmp_path / 'b.xyz'}"


def options(**others: Any) -> dict[str, Any]:
    return {"shard_size": 9, "on_error": "skip", "checks": "report", **others}


def recipe() -> Recipe:
    return Recipe.from_dict(RECIPE, "r")


def killed_at(moment: tuple[Any, str, int], work: Callable[[], object]) -> None:
    """Does ``work`` in a process of its own that SIGKILL ends at ``moment``."""
    place, name, left = moment
    wrapped = getattr(place, name)

    def killing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return wrapped(*arguments, **keywords)

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if child == 0:
        try:
            setattr(place, name, killing)
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def killed(source: str, out: Path, moment: tuple[Any, str, int], **others: Any) -> None:
    """An import that is killed at ``moment``."""
    killed_at(moment, lambda: prepare(source, out, recipe=recipe(), **options(**others)))
    assert not out.exists()


def content(folder: Path) -> tuple[dict[str, str], Manifest]:
    """Checksum of every file but the manifest, and what the manifest says but the time."""
    sums = {p.name: tree_sha256(p) for p in folder.rglob("*") if p.is_file()}
    sums.pop("manifest.json")
    manifest = Manifest.load(folder)
    return sums, Manifest(**{**vars(manifest), "created": ""})


@pytest.mark.parametrize("format", ["lmdb", "zarr"])
def test_killed_at_every_stage_it_ends_as_if_undisturbed(
    source: str, tmp_path: Path, format: str
) -> None:
    """One import, killed again and again; each attempt takes up what the last one left."""
    prepare(source, tmp_path / "calm", recipe=recipe(), **options(format=format))
    out = tmp_path / "out"
    for moment in MOMENTS if format == "lmdb" else MOMENTS[1::3]:
        killed(source, out, moment, format=format)
    manifest = prepare(source, out, recipe=recipe(), **options(format=format))
    assert content(out) == content(tmp_path / "calm")
    assert (manifest.skipped.count, dict(manifest.filtered)) == (5 + 1, {"num_atoms > 2": 4})
    Dataset.open(out).verify()
    assert not list(tmp_path.glob(".out*"))


def test_finished_shards_are_not_parsed_again(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    killed(source, out, (Journal, "add", 5))
    parsed: list[str] = []
    work = importing.Work.__call__

    def counting(self: Any, batch: Any) -> Any:
        parsed.extend(f"{place[0][-5:]} {place[1]}" for place, _ in batch)
        return work(self, batch)

    monkeypatch.setattr(importing.Work, "__call__", counting)
    with caplog.at_level(logging.INFO):
        prepare(source, out, recipe=recipe(), **options())
    # 36 records are in four shards; before them 3 of 61 items were bad and 3 too large.
    assert parsed[0] == "b.xyz 7"
    assert len(parsed) == 61 - 42
    assert "36 records in 4 shards are done" in caplog.text


@pytest.mark.parametrize("damage", ["torn line", "flipped shard", "cut part", "cut log"])
def test_what_a_power_loss_tore_is_written_again(source: str, tmp_path: Path, damage: str) -> None:
    prepare(source, tmp_path / "calm", recipe=recipe(), **options())
    out, folder = tmp_path / "out", tmp_path / ".out.partial"
    killed(source, out, (Journal, "add", 4))
    name = {
        "torn line": "journal.jsonl",
        "flipped shard": "shard-00001.lmdb",
        "cut part": "parts/part-00000.npz",
        "cut log": "skipped.jsonl",
    }[damage]
    data = (folder / name).read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    (folder / name).write_bytes(flipped if damage == "flipped shard" else data[:-20])
    prepare(source, out, recipe=recipe(), **options())
    assert content(out) == content(tmp_path / "calm")


@pytest.mark.parametrize("change", ["source files", "recipe", "shard size", "resume=False"])
def test_another_import_starts_from_the_beginning(
    source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    out, given, others = tmp_path / "out", recipe(), options()
    killed(source, out, (Journal, "add", 3))
    if change == "source files":
        with open(source.split(",")[1], "a") as file:
            file.write(frame(99))
    elif change == "recipe":
        given = Recipe.from_dict({**RECIPE, "filter": {}}, "r")
    elif change == "shard size":
        others["shard_size"] = 10
    else:
        others["resume"] = False
    prepare(source, out, recipe=given, **others)
    assert (f"of another {change}" in caplog.text) == (change != "resume=False")
    prepare(source, tmp_path / "calm", recipe=given, **others)
    assert content(out) == content(tmp_path / "calm")


def test_an_import_without_bad_records_goes_on_when_they_are_skipped(tmp_path: Path) -> None:
    """What was finished under on_error=stop stays good; what skipped records does not."""
    frames = [frame(6 + 13 * i + k) for i in range(3) for k in range(10)]
    (tmp_path / "a.xyz").write_text("".join(frames) + frame(5))
    out, source = tmp_path / "out", str(tmp_path / "a.xyz")
    with pytest.raises(RecordError, match="frame 30"):
        prepare(source, out, recipe=recipe(), **options(on_error="stop"))
    partial = tmp_path / ".out.partial"
    assert len((partial / "journal.jsonl").read_text().splitlines()) == 1 + 3
    assert prepare(source, out, recipe=recipe(), **options()).skipped.count == 1


def test_contradicted_labels_leave_the_shards_for_another_answer(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradicted(*_: Any, stop: bool) -> Any:
        if stop:
            raise LabelError("the labels contradict physics")
        return ()

    monkeypatch.setattr(convert, "judged", contradicted)
    with pytest.raises(LabelError):
        prepare(source, tmp_path / "out", recipe=recipe(), **options(checks="stop"))
    assert (tmp_path / ".out.partial" / "journal.jsonl").exists()
    prepare(source, tmp_path / "out", recipe=recipe(), **options(checks="report"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.xyz", "b.xyz", "out"}


def test_physics_and_twins_see_finished_shards(tmp_path: Path) -> None:
    """A structure of a finished shard that comes again after the kill is a twin all the same."""
    frames = [frame(index) for index in range(20, 30)] * 2
    named = [text.replace("id=f", f"id=g{k}-") for k, text in enumerate(frames)]
    (tmp_path / "a.xyz").write_text("".join(named))
    killed(str(tmp_path / "a.xyz"), tmp_path / "out", (Journal, "add", 2))
    manifest = prepare(str(tmp_path / "a.xyz"), tmp_path / "out", recipe=recipe(), **options())
    twins = next(c for c in manifest.checks if c["name"] == "repeated_structures")
    assert twins["evidence"]["repeated"] == 10


def test_killed_at_random_moments(source: str, tmp_path: Path) -> None:
    """Whatever the moment: the next attempt is right, and no attempt leaves a folder that opens."""
    prepare(source, tmp_path / "calm", recipe=recipe(), **options())
    out, rng = tmp_path / "out", np.random.default_rng(0)
    words = [source, str(out), json.dumps(RECIPE), json.dumps(options())]
    kills = 0
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM, *words]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"started\n"
        time.sleep(float(rng.uniform(0.0, 0.2)))
        writer.kill()
        writer.stdout.close()
        kills += writer.wait() == -signal.SIGKILL
        assert not out.exists() or Dataset.open(out)
        if out.exists():
            break
    if not out.exists():
        prepare(source, out, recipe=recipe(), **options())
    assert content(out) == content(tmp_path / "calm")
    assert kills > 0


def test_a_running_import_is_not_taken_over(source: str, tmp_path: Path) -> None:
    from epitaxy.data.staging import staging

    with staging(tmp_path / "out"), pytest.raises(ConfigError, match="writing this data set now"):
        prepare(source, tmp_path / "out", recipe=recipe(), **options())


def test_a_killed_conversion_goes_on(
    crystals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From LMDB to Zarr: the records before the last finished shard are not converted again."""
    prepare(crystals.many(40), tmp_path / "lmdb", checks="off")
    dataset, out = Dataset.open(tmp_path / "lmdb"), tmp_path / "zarr"

    def convert_all() -> None:
        rewrite(dataset, out, format="zarr", shard_size=8)

    killed_at((Journal, "add", 4), convert_all)
    asked: list[int] = []
    since = StoredRecords.since

    def noted(self: StoredRecords, number: int) -> Iterator[CrystalRecord]:
        asked.append(number)
        return since(self, number)

    monkeypatch.setattr(StoredRecords, "since", noted)
    convert_all()
    assert asked == [24]
    assert Dataset.open(out).read(range(40)) == dataset.read(range(40))

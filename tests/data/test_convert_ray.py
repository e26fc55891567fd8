"""Imports on a Ray cluster: the bytes of a local one, and clear words when something dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.convert_ray import ray_map
from epitaxy.data.dataset import Dataset
from epitaxy.data.recipe import Recipe
from epitaxy.errors import ConfigError, SourceError

pytestmark = pytest.mark.ray

FRAME = """2
Lattice="{side} 0 0 0 {side} 0 0 0 {side}" Properties=species:S:1:pos:R:3 id=f{n} e={e} pbc="T T T"
Na 0 0 0
Cl 2 2 2
"""
RECIPE = Recipe.from_dict(
    {
        "source": {"_target_": "epitaxy.data.sources.extxyz.ExtendedXyz", "id_keys": ["id"]},
        "fields": {"energy": {"key": "e", "unit": "eV"}},
    },
    "salt",
)


def frame(n: int) -> str:
    return FRAME.format(side=4 + n / 1000, n=n, e="nan" if n % 97 == 5 else -n)


def test_the_bytes_are_those_of_a_local_import(ray_cluster: Any, tmp_path: Path) -> None:
    """More than a block of two files, with bad records that are skipped in order."""
    padding = "".join(f' key{k}="{"x" * 50}"' for k in range(20))
    texts = [frame(n).replace(" pbc=", f"{padding} pbc=") for n in range(1500)]
    (tmp_path / "a.xyz").write_text("".join(texts[:900]))
    (tmp_path / "b.xyz").write_text("".join(texts[900:]))
    source = str(tmp_path / "*.xyz")
    given: dict[str, Any] = {"recipe": RECIPE, "on_error": "skip", "shard_size": 400}
    local = prepare(source, tmp_path / "local", **given)
    remote = prepare(source, tmp_path / "ray", backend="ray", workers=2, **given)
    assert remote.data_digest == local.data_digest
    assert [e.sha256 for e in remote.files] == [e.sha256 for e in local.files]
    assert [e.sha256 for e in remote.shards] == [e.sha256 for e in local.shards]
    assert remote.skipped == local.skipped
    assert remote.skipped.count == 16
    Dataset.open(tmp_path / "ray").verify()


def numbered(count: int) -> Callable[[], Iterator[Any]]:
    def batches() -> Iterator[Any]:
        for number in range(count):
            yield [(("file", number), number)]

    return batches


def test_a_task_that_dies_once_is_done_again(ray_cluster: Any, tmp_path: Path) -> None:
    marker = tmp_path / "died"

    def work(batch: Any) -> Any:
        if batch[0][1] == 3 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [number**2 for _, number in batch]

    done = list(ray_map(work, numbered(6), workers=1))
    assert marker.exists()
    assert [(places[0][0], found) for places, found in done] == [
        (("file", number), [number**2]) for number in range(6)
    ]


@pytest.mark.slow
def test_a_task_that_dies_again_is_named(ray_cluster: Any) -> None:
    def work(batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(SourceError, match=r"file, record 0 and what follows died 3 times.*memory"):
        list(ray_map(work, numbered(2), workers=1))


def test_the_command_line_does_the_same(
    ray_cluster: Any, tmp_path: Path, epitaxy_home: Path
) -> None:
    from epitaxy.app import api

    given: dict[str, Any] = {"recipe": "emt_trajectories", "card": False, "checks": "off"}
    given["source"] = "emt://?alloys=3&frames=5"
    local = api.prepare(**given, out=str(tmp_path / "local"), workers=1)
    remote = api.prepare(**given, out=str(tmp_path / "ray"), compute="ray", workers=2)
    assert remote.data_digest == local.data_digest


def test_an_error_of_the_source_comes_through(ray_cluster: Any, tmp_path: Path) -> None:
    source = tmp_path / "a.xyz"
    source.write_text(frame(0) + frame(1)[:-20])
    with pytest.raises(SourceError, match="ends inside frame 1"):
        prepare(str(source), tmp_path / "out", recipe=RECIPE, backend="ray")
    assert {path.name for path in tmp_path.iterdir()} == {"a.xyz"}


def test_records_of_a_program_stay_local(ray_cluster: Any, crystals: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compute=local"):
        prepare(crystals.many(2), tmp_path / "out", backend="ray")


def test_a_cluster_without_room_is_refused_early(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1.0})
    with pytest.raises(SourceError, match=r"needs two CPUs.*has 1: give it more CPUs"):
        next(ray_map(len, numbered(2), workers=1))  # type: ignore[arg-type]
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(SourceError, match=r"no Ray is running.*compute=local"):
        next(ray_map(len, numbered(2), workers=1))  # type: ignore[arg-type]

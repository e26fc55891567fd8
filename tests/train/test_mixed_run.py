"""Training on several data sets: what an epoch holds, and stopping in the middle of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data.convert import prepare
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.record import Label
from epitaxy.train.folders import read_json
from epitaxy.train.identity import RUN
from epitaxy.train.launch import launch
from epitaxy.train.logs import read_metrics, surviving_consumption
from epitaxy.train.recorder import RunRecorder
from epitaxy.train.settings import BatchSettings, MixSettings, RunSettings, from_dict, to_dict

MakeSettings = Callable[..., RunSettings]


@pytest.fixture(scope="module")
def second(crystals: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second") / "data"
    records = [
        crystals.labelled(crystals.triclinic(seed, 4), seed).replace(id=f"x{seed}", group="")
        for seed in range(100, 110)
    ]
    prepare(records, folder, progress=False)
    return folder


@pytest.fixture
def mixed(make_settings: MakeSettings, second: Path) -> MakeSettings:
    def make(name: str, **options: Any) -> RunSettings:
        settings = make_settings(name, batch=BatchSettings(graphs=6), **options)
        content = to_dict(settings) | {
            "data": [settings.data, str(second)],
            "mix": to_dict(MixSettings(weights=(1.0, 1.0), records=24)),
            "split": {"by": "record", "fractions": [0.8, 0.2, 0.0]},
        }
        made: RunSettings = from_dict(RunSettings, content)
        return made

    return make


def losses(run_dir: str | Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]


def test_every_epoch_has_the_mixture(mixed: MakeSettings) -> None:
    settings = mixed("whole", loop={"epochs": 3, "log_consumption": True})
    launch(settings)
    visits: Counter[str] = Counter()
    for epoch in range(3):
        history = [h for h in surviving_consumption(settings.directory) if h.epoch == epoch]
        ids = [name for entry in history for name in entry.ids]
        assert Counter(name.startswith("x") for name in ids) == {True: 12, False: 12}
        visits.update(ids)
    own = {name: count for name, count in visits.items() if name.startswith("x")}
    assert max(own.values()) - min(own.values()) <= 1, "no record is two visits ahead"
    run = read_json(Path(settings.directory) / RUN)
    assert [member["path"] for member in run["data"]["members"]] == list(settings.data)


def test_an_interrupted_mixture_goes_on_where_it_stood(
    mixed: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = {"epochs": 3, "log_consumption": True, "log_every": 1, "checkpoint_every": 1}
    whole, stopped = mixed("undisturbed", loop=loop), mixed("stopped", loop=loop)
    launch(whole)
    seen: list[Any] = []
    original = RunRecorder.consume

    def consume(self: RunRecorder, step: Any) -> None:
        seen.append(step)
        if len(seen) == 6:  # in the middle of the second epoch
            raise KeyboardInterrupt
        original(self, step)

    monkeypatch.setattr(RunRecorder, "consume", consume)
    with pytest.raises(KeyboardInterrupt):
        launch(stopped)
    monkeypatch.undo()
    launch(stopped)
    assert losses(stopped.directory) == losses(whole.directory)
    histories = [
        [(h.epoch, h.step, h.ids) for h in surviving_consumption(s.directory)]
        for s in (whole, stopped)
    ]
    assert histories[0] == histories[1]


def test_other_weights_are_another_run(mixed: MakeSettings) -> None:
    settings = mixed("weights", loop={"epochs": 1})
    launch(settings)
    content = to_dict(settings) | {"mix": {"weights": [2.0, 1.0], "records": 24}}
    with pytest.raises(ConfigError, match=r"mix.weights was \[1.0, 1.0\], is \[2.0, 1.0\]"):
        launch(from_dict(RunSettings, content))


def test_labels_of_two_schemes_are_not_mixed(
    make_settings: MakeSettings, crystals: Any, tmp_path: Path
) -> None:
    settings = make_settings("schemes")
    other = [
        record.replace(id=f"y{i}", labels={**record.labels, "energy": Label(1.0, "eV", "r2SCAN")})
        for i, record in enumerate(crystals.many(6, max_atoms=4))
    ]
    prepare(other, tmp_path / "other", checks="off", progress=False)
    content = to_dict(settings) | {"data": [settings.data, str(tmp_path / "other")]}
    with pytest.raises(NeedsError, match=r"'energy', which the data sets define diff.*r2SCAN"):
        launch(from_dict(RunSettings, content))


def test_a_run_goes_on_with_the_version_that_it_was_started_on(
    make_settings: MakeSettings,
    crystals: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The data set grows while the run is stopped; a new run takes the new records too."""
    from epitaxy.data.append import append

    def made(first: int, count: int) -> list[Any]:
        return [
            crystals.labelled(crystals.triclinic(seed, 3), seed).replace(id=f"v{seed}", group="")
            for seed in range(first, first + count)
        ]

    prepare(made(0, 20), tmp_path / "growing", checks="off", progress=False)
    settings = make_settings("growing", loop={"epochs": 2, "checkpoint_every": 1})
    content = to_dict(settings) | {"data": str(tmp_path / "growing")}
    content["split"] = {"by": "record", "fractions": [0.8, 0.2, 0.0]}
    settings = from_dict(RunSettings, content)
    seen: list[Any] = []
    original = RunRecorder.consume

    def consume(self: RunRecorder, step: Any) -> None:
        seen.append(step)
        if len(seen) == 2:
            raise KeyboardInterrupt
        original(self, step)

    monkeypatch.setattr(RunRecorder, "consume", consume)
    with pytest.raises(KeyboardInterrupt):
        launch(settings)
    monkeypatch.undo()
    append(tmp_path / "growing", made(50, 10), checks="off", progress=False)
    launch(settings)
    for epoch in (0, 1):
        history = [h for h in surviving_consumption(settings.directory) if h.epoch == epoch]
        ids = Counter(name for entry in history for name in entry.ids)
        assert (len(ids), set(ids.values())) == (16, {1})
        assert all(int(name[1:]) < 50 for name in ids)
    later = launch(
        from_dict(RunSettings, content | {"name": "l", "directory": str(tmp_path / "l")})
    )
    names = {n for entry in surviving_consumption(later.directory) for n in entry.ids}
    assert len(names) == 24
    assert any(int(name[1:]) >= 50 for name in names)

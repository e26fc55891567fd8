"""The quickstart in miniature: every step, then again, with nothing left to do."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from epitaxy.app import quickstart
from epitaxy.app.cli import main
from epitaxy.app.quickstart import Outcome, Quickstart, headline, help_text
from epitaxy.data.dataset import Dataset
from epitaxy.errors import ConfigError
from epitaxy.predict.evaluation import Quantity
from epitaxy.report.statistics import paired_difference
from epitaxy.train.folders import read_json

SIZES = ("alloys=10", "frames=4", "targets=24", "labels=6", "width=8", "epochs=1",
         "finetune_epochs=2", "seeds=2")  # fmt: skip


@pytest.mark.ray
def test_the_whole_path_in_miniature(
    tmp_path: Path, ray_cluster: object, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("EPITAXY_REGISTRY", str(tmp_path / "models"))
    command = ["quickstart", f"out={tmp_path / 'quick'}", *SIZES]
    assert main(command) == 0
    home = tmp_path / "quick"
    page = (home / "report.html").read_text("utf-8")
    assert "scratch" in page
    assert page.count("data:image/png;base64,") >= 4
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "needs the network"
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert said.splitlines()[-1].startswith(f"report {home / 'report.html'}")

    frames = Dataset.open(home / "data" / "emt_trajectories")
    targets = Dataset.open(home / "data" / "emt_bulk_modulus")
    assert not set(frames.groups.tolist()) & set(targets.groups.tolist())
    scratch, full = (
        read_json(home / "runs" / f"bulk_modulus-{arm}-0" / "run.json")
        for arm in ("scratch", "full")
    )
    for name in ("encoder", "objective", "optimizer", "schedule", "loop", "split", "batch", "seed"):
        assert scratch["settings"][name] == full["settings"][name], name
    assert full["settings"]["init"]["lineage"]["reference"].startswith("alloy-forces@")
    assert not scratch["settings"]["init"]["lineage"]

    weights = [path.stat().st_mtime_ns for path in sorted(home.rglob("*.safetensors"))]
    assert main(command) == 0
    assert [path.stat().st_mtime_ns for path in sorted(home.rglob("*.safetensors"))] == weights
    assert main([*command, "targets=30"]) == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=3", "unknown setting 'seed'; did you mean 'seeds'"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("seeds=1", "an interval needs at least two pairs"),
        ("labels=150", "leaves nothing to test on"),
        ("epochs=many", "epochs must be of type int"),
    ],
)
def test_wrong_options_are_refused_at_once(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        quickstart.main([f"out={tmp_path}", word])
    assert not list(tmp_path.iterdir())


def test_the_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.main([], wants_help=True) == 0
    assert capsys.readouterr().out.strip() == help_text().strip()
    for item in fields(Quickstart):
        assert f"{item.name}={item.default}" in help_text()


def test_the_headline_says_how_much_better_and_how_sure() -> None:
    def quantity(mae: float, zero: float, unit: str) -> Quantity:
        return Quantity(unit, mae, mae, 0.9, zero, zero, "training split", zero, 1, 0, 1, 0)

    errors = {"scratch": [8.0, 10.0, 12.0], "full": [4.0, 5.0, 6.0]}
    teacher = {"forces": quantity(0.02, 0.5, "eV/Å"), "stress": quantity(0.002, 0.04, "eV/Å^3")}
    difference = paired_difference(errors["full"], errors["scratch"])
    text = headline(Outcome(Path("report.html"), teacher, errors, difference))
    # Differences −4, −5, −6: mean −5, s = 1, half-width t(0.975, 2) / √3 = 4.3027 / 1.7321 = 2.484.
    assert "scratch 10.00 GPa, from the teacher 5.00 GPa (-50 %)" in text
    assert "-5.00 GPa, 95 % interval [-7.48, -2.52], 3 seeds" in text
    assert "forces 0.0200 eV/Å (predict zero 0.500)" in text

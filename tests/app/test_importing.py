"""``registry import-foreign``: from a published file to a registered model, and on from there."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import published_weights as made
import pytest
import torch

from epitaxy.app import api
from epitaxy.app.cli import main
from epitaxy.errors import ConfigError, NeedsError

CHECKPOINT = {
    "state_dict": made.drawn(made.cgcnn(counted=True)),
    "normalizer": {"mean": -9.0, "std": 2.0},
    "args": {"radius": 8.0, "max_num_nbr": 12},
}
ACTION = "import-foreign"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(CHECKPOINT, tmp_path / "published.pth.tar")
    return tmp_path / "published.pth.tar"


@pytest.fixture
def twins(data_dir: Path) -> tuple[Path, Path]:
    """A pre-trained Crystal Twins and the authors' configuration."""
    folder = data_dir / "checkpoints"
    return folder / "crystal_twins_barlow.pth", folder / "crystal_twins_barlow_config.yaml"


def test_it_is_registered_and_evaluated(
    checkpoint: Path, small_data: Path, epitaxy_home: Path, tmp_path: Path
) -> None:
    store = f"registry.uri={tmp_path / 'models'}"
    found = api.registry(
        ACTION, store, file=str(checkpoint), label="energy", unit="eV", name="old", alias=["paper"]
    )
    assert found.version.reference == "old@1"
    assert found.version.aliases == ("paper",)
    assert found.model.folder == epitaxy_home / "imported" / "old"
    assert found.text().splitlines() == [
        "predicts energy in eV (regression)",
        f"model  {found.model.folder}",
        "published as old@1",
    ]
    card = api.registry("show", store, model="old@paper")
    assert "| parent: file | `published.pth.tar` |" in card
    assert "| energy | eV |" in card
    assert "Labels were standardised by mean -9 and deviation 2." in card

    measured = api.evaluate(
        store, model="old@paper", data=str(small_data), split="all", out=str(tmp_path / "e")
    )

    quantity = measured.evaluation.quantities["energy"]
    assert (quantity.records, quantity.non_finite) == (40, 0)
    assert quantity.mean_of == "training split"  # the authors' normalizer knows it


def test_the_command_says_what_it_did(
    checkpoint: Path, tmp_path: Path, epitaxy_home: Path, capsys: Any, caplog: Any
) -> None:
    words = ["registry", ACTION, f"file={checkpoint}", "label=energy", "unit=eV"]
    with caplog.at_level(logging.INFO, logger="epitaxy"):
        assert main([*words, f"out={tmp_path / 'model'}"]) == 0
    assert f"model  {tmp_path / 'model'}" in capsys.readouterr().out
    assert "Weights of the published CGCNN, from published.pth.tar" in caplog.text
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert card["imported"]["family"] == "cgcnn"
    assert card["name"] == "published"
    assert main(words) == 0
    assert f"model  {epitaxy_home / 'imported' / 'published'}" in capsys.readouterr().out


def test_the_job_runs_it_too(checkpoint: Path, tmp_path: Path, repository: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, str(repository / "jobs/registry.py"), ACTION, "file=published.pth.tar",
            "label=energy", "unit=eV", f"out={tmp_path / 'model'}",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"model  {tmp_path / 'model'}"


def test_an_encoder_without_a_head_is_fine_tuned_with_a_fresh_one(
    twins: tuple[Path, Path], small_data: Path, epitaxy_home: Path
) -> None:
    file, configuration = twins
    found = api.registry(ACTION, file=str(file), options=str(configuration))
    assert "Graph: radius 8, max_neighbors 12, dmin 0, step 0.2." in found.model.notes
    assert found.text().startswith("predicts nothing: an encoder to fine-tune")
    with pytest.raises(NeedsError, match=r"predicts no label: .* epitaxy finetune from="):
        api.evaluate(model=str(found.model.folder), data=str(small_data), split="all")

    trained = api.finetune(
        "tracking=null",
        "objective.label=energy",
        "loop.epochs=1",
        data=str(small_data),
        from_=str(found.model.folder),
        run={"name": "tuned"},
    )

    run = json.loads((trained.directory / "run.json").read_text())
    assert all(name.startswith("encoder.") for name in run["strategy"]["loaded"])
    assert len(run["strategy"]["loaded"]) == 40  # all that the file has, besides its projector
    assert all(name.startswith("head.") for name in run["strategy"]["reinitialised"])
    assert all(name.startswith("head.projector.") for name in run["strategy"]["unused"])
    assert len(run["strategy"]["unused"]) == 4
    assert np.isfinite(trained.metrics["val/energy_mae"])


def test_a_linear_probe_on_an_imported_encoder(
    twins: tuple[Path, Path], small_data: Path, epitaxy_home: Path
) -> None:
    found = api.registry(ACTION, file=str(twins[0]))
    common = ("tracking=null", "finetune=last_layer", "objective.label=energy", "loop.epochs=1")
    options: dict[str, Any] = {"data": str(small_data), "from_": str(found.model.folder)}
    with pytest.raises(ConfigError, match="would freeze 2 weights that the source does not have"):
        api.finetune(*common, **options, run={"name": "deep"})
    trained = api.finetune(*common, "objective.hidden=[]", **options, run={"name": "linear"})
    assert np.isfinite(trained.metrics["val/energy_mae"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs file=…"),
        (("file=published.pth.tar",), "label=… must say what it predicts"),
        (("file=published.pth.tar", "label=e", "unit=eV", "alias=a"), "name=NAME is not"),
        (("file=published.pth.tar", "label=e", "unit=eV", "family=cgcn"), "did you mean 'cgcnn'"),
        (("file=published.pth.tar", "label=e", "unit=eV", "options={raduis: 6}"), "options.radius"),
        (("file=published.pth.tar", "options=none.yaml"), "cannot be read as YAML"),
        (("file=published.pth.tar", "options=list.yaml"), "holds no mapping"),
        (("file=none.pth", "label=e", "unit=eV"), "there is no file"),
    ],
)
def test_mistakes_are_told(
    words: tuple[str, ...],
    message: str,
    checkpoint: Path,
    epitaxy_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "list.yaml").write_text("- radius")
    assert main(["registry", ACTION, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (epitaxy_home / "imported").exists()

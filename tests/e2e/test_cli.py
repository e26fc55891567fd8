"""From a source file to registered, fine-tuned and measured models: what the README shows."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from epitaxy.app import api
from epitaxy.app.cli import main

TINY = (
    "encoder.width=8",
    "encoder.layers=1",
    "encoder.cutoff=4.0",
)
SHORT = ("objective.hidden=[8]", "batch.graphs=16", "loop.epochs=2", "compute=local")


def frame(index: int) -> Atoms:
    """A rattled, strained metal with its EMT energy, forces and stress."""
    rng = np.random.default_rng(index)
    atoms = bulk(("Cu", "Al", "Ni", "Pd")[index % 4], cubic=True)
    atoms.set_cell(atoms.cell[:] * (1 + 0.03 * rng.normal()), scale_atoms=True)
    atoms.rattle(0.1, rng=rng)
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture
def home(epitaxy_home, monkeypatch) -> Path:
    """A working folder with ``frames.xyz``; the registry is a folder: MLflow has its own tests."""
    monkeypatch.chdir(epitaxy_home.parent)
    monkeypatch.setenv("EPITAXY_REGISTRY", str(epitaxy_home / "models"))
    write("frames.xyz", [frame(index) for index in range(40)])
    return epitaxy_home


def run(*words: str) -> None:
    assert main(list(words)) == 0, words


def test_from_frames_to_a_fine_tuned_model(home, capsys):
    run("prepare", "recipe=extxyz", "source=frames.xyz", "out=frames", "format=zarr")
    assert (
        "40 records, labels: energy (eV), forces (eV/Å), stress (eV/Å^3)" in capsys.readouterr().out
    )
    pretrain = ("pretrain", "data=frames", "run.name=teacher", "tracking=null", *TINY, *SHORT)
    run(*pretrain, "publish=teacher", "alias=best")
    assert "published as teacher@1" in capsys.readouterr().out

    tune = ("data=frames", "from=teacher@best", "objective.label=energy", "tracking=null", *SHORT)
    for strategy in ("scratch", "full", "last_layer"):
        run("finetune", f"finetune={strategy}", f"run.name={strategy}", "publish=energy", *tune)
    text = capsys.readouterr().out
    assert "val/energy_mae" in text
    assert "published as energy@3" in text

    run("evaluate", "model=energy@2", "data=frames")
    assert "eV" in capsys.readouterr().out
    run("registry", "list")
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == ["version", "energy@1", "energy@2", "energy@3", "teacher@1"]

    check_lineage(home)
    check_resolved_configuration(home)
    # The same command again: nothing is trained or published twice.
    run(*pretrain, "publish=teacher", "alias=best")
    assert "(resumed)" in capsys.readouterr().out
    assert len(api.registry("list")) == 4


def check_lineage(home: Path) -> None:
    def card(where: str) -> dict:
        return json.loads((home / "models" / where / "card.json").read_text())

    teacher, student = card("teacher/versions/00001"), card("energy/versions/00002")
    assert teacher["parent"] is None
    assert teacher["labels"]["forces"]["unit"] == "eV/Å"
    assert student["parent"]["reference"] == "teacher@1"
    assert student["parent"]["strategy"] == "epitaxy.finetune.full.Full"
    assert student["data"]["digest"] == teacher["data"]["digest"]
    assert student["metrics"]["val/energy_mae"]["unit"] == "eV"
    assert student["encoder"] == teacher["encoder"]
    assert card("energy/versions/00001")["parent"] is None


def check_resolved_configuration(home: Path) -> None:
    saved = yaml.safe_load((home / "runs" / "full" / "config.yaml").read_text())
    assert saved["data"] == str(home.parent / "frames")
    assert saved["encoder"]["width"] == 8
    assert saved["finetune"]["_target_"] == "epitaxy.finetune.full.Full"


def test_python_calls_are_the_same_commands(home, capsys):
    manifest = api.prepare(recipe="extxyz", source="frames.xyz", out="frames")
    assert manifest.num_records == 40
    trained = api.pretrain(
        *TINY,
        *SHORT,
        data="frames",
        run={"name": "python"},
        tracking=None,
        optimizer={"lr": 1e-3},
    )
    run("pretrain", "data=frames", "run.name=shell", "tracking=null", *TINY, *SHORT)
    shell = json.loads((home / "runs" / "shell" / "result.json").read_text())
    assert dict(trained.metrics) == shell["metrics"]
    assert trained.units["val/forces_mae"] == "eV/Å"
    version = api.publish(trained.model, "p", alias="good")
    assert version.aliases == ("good",)
    assert (api.pull("p@good", "copy") / "model.json").is_file()


def test_a_refused_resumption_leaves_the_saved_configuration(home, capsys):
    api.prepare(recipe="extxyz", source="frames.xyz", out="frames")
    command = ("pretrain", "data=frames", "run.name=a", "tracking=null", *TINY, *SHORT)
    run(*command)
    saved = (home / "runs" / "a" / "config.yaml").read_text()

    assert main([*command, "optimizer.lr=0.5"]) == 2

    assert "optimizer.lr was 0.001, is 0.5" in capsys.readouterr().err
    assert (home / "runs" / "a" / "config.yaml").read_text() == saved

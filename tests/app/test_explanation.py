"""The verb ``explain``: from a trained model to tables and pictures, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from epitaxy.app import api
from epitaxy.app.cli import main
from epitaxy.app.explanation import ModelExplanation
from epitaxy.errors import ConfigError, NeedsError

SIZES = {
    "cgcnn": ("encoder.width=4", "encoder.layers=2", "encoder.cutoff=4.0"),
    "crysxpp": ("encoder.width=4", "encoder.layers=1", "encoder.cutoff=4.0"),
    "roost": ("encoder.width=8", "encoder.layers=1", "encoder.trunk=[8]"),
    "tensornet": ("encoder.width=4", "encoder.layers=1", "encoder.cutoff=4.0"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """Runs of four encoders; that of cgcnn is published as ``energies``."""
    folder = tmp_path_factory.mktemp("home")
    for name, sizes in SIZES.items():
        publish = ["publish=energies"] if name == "cgcnn" else []
        api.finetune(
            f"home={folder}",
            "finetune=scratch",
            "compute=local",
            "tracking=null",
            "objective.label=energy",
            "objective.hidden=[4]",
            "loop.epochs=1",
            f"registry.uri={folder / 'models'}",
            f"encoder={name}",
            *sizes,
            *publish,
            data=str(small_data),
            run={"name": name},
        )
    return folder


def explained(
    home: Path, name: str, small_data: Path, out: Path, **options: Any
) -> ModelExplanation:
    model = str(home / "runs" / name / "final")
    return api.explain(model=model, data=str(small_data), out=str(out), **options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_finished_run_is_explained(home: Path, small_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights"
    explanation = explained(home, "cgcnn", small_data, out, limit=3)
    names = ["1-c0000.png", "2-c0001.png", "3-c0002.png"]
    assert {path.name for path in out.iterdir()} == {
        *names, "edges.csv", "atoms.csv", "summary.json", "manifest.json",
    }  # fmt: skip
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["weights"] == {"edges": "gate"}
    assert [entry["picture"] for entry in summary["structures"]] == names
    assert "the first 3 of 40 structures" in explanation.text()
    edges = rows(out / "edges.csv")
    assert {row["id"] for row in edges} == {"c0000", "c0001", "c0002"}
    best = summary["structures"][0]["strongest_edge"]
    own = [row for row in edges if row["id"] == "c0000"]
    assert best["weight"] == pytest.approx(max(float(row["weight"]) for row in own), rel=1e-5)
    assert float(own[best["edge"]]["weight"]) == pytest.approx(best["weight"], rel=1e-5)


def test_predictions_are_those_of_the_model(home: Path, small_data: Path, tmp_path: Path) -> None:
    explanation = explained(home, "cgcnn", small_data, tmp_path / "w", ids=["c0005"])
    evaluated = api.evaluate(
        model=str(home / "runs/cgcnn/final"), data=str(small_data), split="all",
        out=str(tmp_path / "e"),
    ).evaluation  # fmt: skip
    place = list(evaluated.ids).index("c0005")
    (entry,) = explanation.summary["structures"]
    expected = evaluated.parity["energy"].predicted[place]
    assert entry["predicted"]["energy"] == pytest.approx(expected, rel=1e-5)
    assert explanation.summary["units"] == {"energy": "eV"}


def test_a_published_model_and_a_file(
    home: Path, crystals: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = crystals.rocksalt()
    cell = " ".join(f"{value}" for value in record.cell.ravel())
    atoms = [
        f"{'Na' if number == 11 else 'Cl'} {x} {y} {z}"
        for number, (x, y, z) in zip(record.numbers, record.positions, strict=True)
    ]
    head = f'Lattice="{cell}" Properties=species:S:1:pos:R:3'
    (tmp_path / "salt.xyz").write_text("\n".join(["8", head, *atoms]) + "\n")
    words = [f"source={tmp_path}/salt.xyz", "recipe=extxyz", f"out={tmp_path}/w"]
    store = [f"home={home}", f"registry.uri={home / 'models'}"]
    assert main(["explain", "model=energies", *words, *store]) == 0
    text = capsys.readouterr().out
    assert text.split()[:6] == ["structure", "formula", "atoms", "edges", "energy", "(eV)"]
    assert "ClNa" in text
    assert "all 1 structure of" in text
    assert f"written to {tmp_path}/w" in text
    # 6 at 2.82 Å and 12 at 3.99 Å around each of 8 ions, within 4 Å
    assert len(rows(tmp_path / "w" / "edges.csv")) == 8 * 18


def test_a_mask_gets_a_table_and_a_picture(home: Path, small_data: Path, tmp_path: Path) -> None:
    explanation = explained(home, "crysxpp", small_data, tmp_path / "w", limit=1)
    features = rows(tmp_path / "w" / "features.csv")
    assert len(features) == 92
    assert features[0]["feature"] == "group none (f block)"
    for row in features:
        weight = explanation.explained.features[row["feature"]]
        assert float(row["weight"]) == pytest.approx(weight, rel=1e-6)
    assert (tmp_path / "w" / "features.png").is_file()


def test_compositions_are_explained(home: Path, small_data: Path, tmp_path: Path) -> None:
    explanation = explained(home, "roost", small_data, tmp_path / "w", limit=2)
    first = explanation.summary["structures"][0]
    assert first["edges"] == first["atoms"] ** 2
    atoms = [row for row in rows(tmp_path / "w" / "atoms.csv") if row["id"] == first["id"]]
    assert len(atoms) == len({row["element"] for row in atoms})
    assert sum(float(row["pooled"]) for row in atoms) == pytest.approx(1.0, rel=1e-5)


def test_an_encoder_without_weights_is_refused_with_others_named(
    home: Path, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(NeedsError, match=r"TensorNet, has no attention.*alignn, .*gatgnn.*roost"):
        explained(home, "tensornet", small_data, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_only_an_earlier_explanation_is_replaced(
    home: Path, small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "w"
    explained(home, "cgcnn", small_data, out, limit=2)
    explained(home, "cgcnn", small_data, out, limit=1)
    assert [path.name for path in out.glob("*.png")] == ["1-c0000.png"]
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is no earlier explanation; choose another folder"):
        explained(home, "cgcnn", small_data, other)
    assert (other / "thesis.tex").is_file()

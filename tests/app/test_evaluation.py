"""The verb ``evaluate``: which records it takes, and what it says of them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from epitaxy.app import api
from epitaxy.data.dataset import Dataset
from epitaxy.data.splits import make_split
from epitaxy.errors import ConfigError, RegistryError


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_data) -> Path:
    """Regression of energies, split by record with another seed than the default."""
    home = tmp_path_factory.mktemp("home")
    trained = api.finetune(
        f"home={home}",
        "finetune=scratch",
        "tracking=null",
        "objective.label=energy",
        "objective.hidden=[4]",
        "encoder.width=4",
        "encoder.layers=1",
        "encoder.cutoff=4.0",
        "loop.epochs=1",
        "split.by=record",
        "split.seed=7",
        data=str(small_data),
        run={"name": "m"},
    )
    return trained.model


def test_the_split_is_the_one_of_training(model, small_data, tmp_path):
    data = Dataset.open(small_data)
    rows = make_split(data, by="record", seed=7).rows["test"]

    result = api.evaluate(model=str(model), data=str(small_data), out=str(tmp_path / "e"))

    assert sorted(result.evaluation.ids) == sorted(data.ids[rows])
    energies = data.label_table(rows).scalar("energy")
    stored = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert stored["quantities"]["energy"]["mae_zero"] == pytest.approx(np.abs(energies).mean())
    header, first = result.table().splitlines()[:2]
    assert header.split()[:5] == ["label", "unit", "records", "missing", "MAE"]
    assert first.split()[:4] == ["energy", "eV", "4", "0"]


def test_all_is_said_not_to_be_honest(model, small_data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="epitaxy"):
        result = api.evaluate(
            model=str(model), data=str(small_data), split="all", out=str(tmp_path / "e")
        )
    assert "split=test is honest" in caplog.text
    assert len(result.evaluation.ids) == 40


def test_results_go_home_by_default(model, small_data, epitaxy_home):
    result = api.evaluate(model=str(model), data=str(small_data), split="val")
    assert result.directory == epitaxy_home / "evaluations" / "m" / "small-val"


def test_unknown_split_and_foreign_code_are_refused(model, small_data, tmp_path):
    with pytest.raises(ConfigError, match="split is 'tset'; did you mean 'test'"):
        api.evaluate(model=str(model), data=str(small_data), split="tset")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    card = json.loads((copy / "model.json").read_text())
    card["objective"]["_target_"] = "os.system"
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(RegistryError, match=r"'os\.system', which is not trusted"):
        api.evaluate(model=str(copy), data=str(small_data))

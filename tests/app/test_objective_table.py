"""The table of objectives: every configuration is in it, and the page shows what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from epitaxy.app import api
from epitaxy.app.cli import main
from epitaxy.app.objective_table import ObjectiveRow, markdown
from epitaxy.errors import ConfigError


@pytest.fixture(scope="module")
def rows() -> dict[str, ObjectiveRow]:
    return {row.name: row for row in api.objectives()}


def test_every_configuration_has_a_row(rows: Any, repository: Path) -> None:
    conf = repository / "platform/epitaxy/conf"
    assert set(rows) == {path.stem for path in (conf / "objective").glob("*.yaml")}
    encoders = {path.stem for path in (conf / "encoder").glob("*.yaml")}
    for row in rows.values():
        assert row.remark or set(row.encoders) == encoders


def test_forces_by_hand(rows: Any) -> None:
    row = rows["energy_force_stress"]
    assert row.labels == ("energy", "forces", "stress")
    assert row.requires == ("node", "position_grad")
    assert row.heads == ("scalar",)
    assert row.encoders["cgcnn"] == "✓"
    assert row.encoders["roost"] == "FN"  # compositions have neither positions nor atoms
    assert row.encoders["cgcnn_paper"] == "F"  # the 12 nearest change rank
    assert rows["regression"].encoders["cgcnn_paper"] == "1"  # batch norm
    assert rows["regression"].encoders["roost"] == "✓"


def test_the_docs_hold_the_matrix_of_today(rows: Any, repository: Path) -> None:
    page = (repository / "docs/objective_matrix.md").read_text("utf-8")
    assert page == markdown(list(rows.values())), "`make matrix` writes it anew"


def test_the_command_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "matrix.json"
    chosen = ("only=[regression,classification]", "encoders=roost")
    assert main(["objectives", *chosen, f"out={out}"]) == 0
    assert "regression" in capsys.readouterr().out
    content = json.loads(out.read_text("utf-8"))
    assert [one["encoders"] for one in content["objectives"]] == [{"roost": "✓"}] * 2


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'regression'"):
        api.objectives(only=["regresion"])
    with pytest.raises(ConfigError, match="did you mean 'roost'"):
        api.objectives(encoders="rooost")
    with pytest.raises(ConfigError, match=r"must end with \.json, \.md"):
        api.objectives(out=str(tmp_path / "matrix.txt"))

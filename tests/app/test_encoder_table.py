"""The table of encoders: every configuration is in it, with numbers counted by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from epitaxy.app import api
from epitaxy.app.cli import main
from epitaxy.app.encoder_table import EncoderRow, build_encoder, graph_words, table, with_taps
from epitaxy.errors import ConfigError
from epitaxy.graph import elements
from epitaxy.graph.spec import GraphSpec

SMALL = "_target_: epitaxy.encoders.cgcnn.CGCNN\nwidth: {}\nlayers: 1\n"


@pytest.fixture(scope="module")
def rows() -> dict[str, EncoderRow]:
    return {row.name: row for row in api.encoders()}


def test_every_configuration_has_a_row(rows: Any, repository: Path) -> None:
    folder = repository / "platform/epitaxy/conf/encoder"
    assert set(rows) == {path.stem for path in folder.glob("*.yaml")}
    for row in rows.values():
        assert row.graph
        assert row.parameters
        assert row.gflop is not None
        assert row.forward_ms is None


def test_the_published_cgcnn_counted_by_hand(rows: Any) -> None:
    embedding = 92 * 64 + 64
    layer = (64 + 64 + 41) * 128 + 128 + 2 * 128 + 2 * 64  # linear, and a norm of edges and atoms
    row = rows["cgcnn_paper"]
    assert row.parameters == embedding + 4 * layer == 94_528
    assert row.graph == "12 nearest in 8 Å, padded"
    assert row.edges_per_atom == 12
    assert row.provides == ("node",)
    assert row.invariances == ("rotation", "translation")
    assert row.taps == ("edges",)


def test_what_others_say_of_themselves(rows: Any) -> None:
    assert rows["crysxpp"].parameters == rows["cgcnn"].parameters + 92
    assert rows["crysxpp"].taps == ("edges", "features")
    assert rows["alignn"].taps == ("edges", "angles")
    assert rows["gatgnn"].taps == ("edges", "atoms")
    assert rows["tensornet"].taps == ()
    assert rows["tensornet"].provides == ("node", "vector", "position_grad")
    assert rows["roost"].graph == "composition"
    assert "3 elements" in rows["roost"].remark


def test_the_text_has_letters_in_fixed_places(rows: Any) -> None:
    lines = table([rows["cgcnn_paper"], rows["tensornet"]]).splitlines()
    head, first, second = (line.split() for line in lines[:3])
    assert head == [
        *("encoder", "graph", "parameters", "provides"),
        *("holds", "weighs", "edges/atom", "GFLOP"),
    ]
    assert first[-6:-1] == ["94,528", "N···", "RT····", "E···", "12.0"]
    assert second[-5:-1] == ["N·VF", "RTPSUC", "····", "50.0"]
    assert all(len(line) <= 110 for line in lines)


@pytest.mark.parametrize(
    ("spec", "angle_cutoff", "words"),
    [
        (GraphSpec("radius", 5.0), None, "radius 5 Å"),
        (GraphSpec("radius", 8.0, 250), None, "250 nearest in 8 Å"),
        (GraphSpec("nearest", 7.5, 12, ties="keep"), None, "12 nearest in 7.5 Å, ties kept"),
        (GraphSpec("shell", 8.0, 12, line_graph=True), None, "shell of 12, angles"),
        (GraphSpec("radius", 5.0, line_graph=True), 4.0, "radius 5 Å, angles 4 Å"),
        (GraphSpec("minimum_image", 8.0), None, "minimum images in 8 Å"),
        (GraphSpec("radius", 8.0, max_images=2), None, "radius 8 Å, 2 images"),
        (GraphSpec("composition"), None, "composition"),
    ],
)
def test_graphs_in_words(spec: GraphSpec, angle_cutoff: float | None, words: str) -> None:
    assert graph_words(spec, angle_cutoff) == words


def test_an_encoder_without_its_package_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "_learned_file", lambda name: None)
    elements._read.cache_clear()
    try:
        (row,) = api.encoders(only="roost")
    finally:
        elements._read.cache_clear()
    assert row.parameters
    assert row.gflop is None
    assert "matminer" in row.remark
    assert "pip install" in row.remark
    assert row.remark in table([row])


def test_own_encoders_are_listed_with_what_they_lack(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "mine.yaml").write_text(SMALL.format(5))
    (folder / "open.yaml").write_text(SMALL.format("???"))
    (folder / "wrong.yaml").write_text(SMALL.format("wide"))
    mine, left_open, wrong = api.encoders(
        only=["mine", "open", "wrong"], config_dirs=[str(tmp_path)]
    )
    layer = (5 + 5 + 32) * 10 + 10
    assert mine.parameters == 92 * 5 + 5 + layer
    assert "encoder.width=" in left_open.remark
    assert "must be of type int" in wrong.remark
    assert left_open.parameters is None


def test_unknown_names_and_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no encoder 'cgcn'; did you mean 'cgcnn'"):
        api.encoders(only=["cgcn"])
    with pytest.raises(ConfigError, match=r"must end with \.csv, \.json, \.md"):
        api.encoders(only=["cgcnn"], out=str(tmp_path / "a.txt"))


def test_files_hold_what_the_rows_hold(tmp_path: Path) -> None:
    names = ["cgcnn", "roost"]
    for ending in ("csv", "json", "md"):
        rows = api.encoders(only=names, out=str(tmp_path / f"e.{ending}"))
    with (tmp_path / "e.csv").open(encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["name"], second["name"]) == ("cgcnn", "roost")
    assert int(first["parameters"]) == rows[0].parameters
    assert float(first["gflop"]) == rows[0].gflop
    assert first["provides"] == "node position_grad"
    assert first["forward_ms"] == ""
    content = json.loads((tmp_path / "e.json").read_text("utf-8"))
    assert content["encoders"][1]["taps"] == ["edges", "atoms"]
    assert "scaled from 40" in content["gflop"]
    lines = (tmp_path / "e.md").read_text("utf-8").splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| cgcnn | radius 5 Å |")


def test_times_are_measured_on_request() -> None:
    (row,) = api.encoders(only="cgcnn_attention_paper", time=True)
    assert row.forward_ms is not None
    assert row.forward_ms > 0
    assert row.forward_backward_ms is not None
    assert "+ backward" in table([row]).splitlines()[0]


def test_the_command_says_what_the_function_returns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["encoders", "only=cgcnn", f"out={tmp_path}/e.md"]) == 0
    assert capsys.readouterr().out.strip() == table(api.encoders(only="cgcnn"))
    assert (tmp_path / "e.md").is_file()


def test_only_encoders_with_taps_can_be_explained() -> None:
    names = with_taps()
    assert {"cgcnn", "gatgnn", "alignn", "roost", "torchmd_et"} <= set(names)
    assert not {"tensornet", "tensornet_paper"} & set(names)


def test_weights_are_the_same_every_time() -> None:
    config = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 4, "layers": 1}
    one, other = build_encoder(config), build_encoder(config)
    assert all((a == b).all() for a, b in zip(one.parameters(), other.parameters(), strict=True))

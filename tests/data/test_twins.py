"""Structures that occur twice, with the same labels or with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.data.convert import prepare
from epitaxy.data.recipe import load_recipe
from epitaxy.data.twins import Twins
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label


def test_a_repeated_structure_is_counted_and_its_labels_compared(crystals: Any) -> None:
    records = crystals.many(3)
    twins = Twins()
    for record in records:
        twins.add(record)
    assert twins.checks() == []
    twins.add(records[1].replace(id="copy", group="elsewhere"))
    (check,) = twins.checks()
    assert (check.verdict, check.evidence["with_other_labels"]) == ("suspicious", 0)
    assert "c0001 and copy" in check.statement
    other = {**records[2].labels, "energy": Label(np.array(-1.0), "eV")}
    twins.add(records[2].replace(id="liar", labels=other))
    (check,) = twins.checks()
    assert check.verdict == "suspicious"
    assert check.evidence == {"repeated": 2, "with_other_labels": 1}
    assert "c0002 and liar" in check.statement


def test_compositions_have_no_structure_to_repeat() -> None:
    twins = Twins()
    for name in ("one", "two"):
        amount = {AMOUNT: Label(np.array([1.0]), "", per_atom=True)}
        nothing = np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool)
        twins.add(CrystalRecord(name, np.array([26]), *nothing, amount))
    assert twins.checks() == []


def test_frames_that_a_script_wrote_twice_are_noticed(data_dir: Path, tmp_path: Path) -> None:
    """The published file holds its 25 test frames twice, under two ids."""
    source = data_dir / "importers" / "alignn_ff_mlearn_Si_id_prop.json.gz"
    manifest = prepare(
        source, tmp_path / "out", recipe=load_recipe("mlearn_alignn_ff"), checks="report"
    )
    assert manifest.num_records == 264
    (check,) = [c for c in manifest.checks if c["name"] == "repeated_structures"]
    assert check["verdict"] == "suspicious"
    assert check["evidence"]["repeated"] == 25

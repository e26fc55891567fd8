"""The data card: true numbers, nothing loaded from elsewhere, no harm from hostile text."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.manifest import FILE_NAME, Manifest
from epitaxy.data.recipe import Recipe, load_recipe
from epitaxy.data.statistics import describe
from epitaxy.data.symmetry import with_symmetry
from epitaxy.errors import ConfigError, ShardError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.report.card import write_card

VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert('1')</script>&\"$x^2$"


class Page(HTMLParser):
    """Collects tags, references, alt texts and text; checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.alternatives: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag == "img":
            self.alternatives.append(dict(attrs).get("alt") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def card_of(folder: Path, **options: Any) -> Page:
    """The card, after the checks that every card has to pass."""
    path = write_card(folder, folder.parent / "deep" / "card.html", **options)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import", text)
    assert page.handlers == []
    assert len(page.alternatives) == page.tags.count("img") > 0
    assert all(page.alternatives)
    assert "nan" not in page.text.split()
    return page


def made(records: list[CrystalRecord], folder: Path, **options: Any) -> Path:
    prepare(records, folder, progress=False, **{"checks": "off", **options})
    return folder


def judge(folder: Path, checks: list[dict[str, Any]]) -> None:
    """Writes ``checks`` into the manifest."""
    manifest = dataclasses.replace(Manifest.load(folder), checks=tuple(checks))
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")


def test_frames_with_forces_and_stress(crystals: Any, tmp_path: Path) -> None:
    """Stress −0.02 eV/Å³ on the diagonal is a pressure of 3.20 GPa."""
    records = crystals.many(30, seed=1)
    squeezed = crystals.rocksalt().replace(
        labels={"stress": Label(np.eye(3) * -0.02, "eV/Å^3"), "energy": Label(-20.0, "eV")}
    )
    page = card_of(made([*records, squeezed], tmp_path / "frames"))
    assert "frames" in page.text
    assert "31records" in page.text
    for heading in ("Worth knowing", "Labels", "Composition", "Structures", "Examples"):
        assert heading in page.text
    assert "What physics says" not in page.text
    assert "Stored splits" not in page.text
    titles = [alternative.split(":")[0] for alternative in page.alternatives]
    for name in ("energy", "energy per atom", "forces", "stress", "pressure", "atoms per cell",
                 "volume per atom", "shortest distance"):  # fmt: skip
        assert f"Histogram of {name}" in titles
    assert any(text.startswith("Periodic table") for text in titles)
    assert any("within 5 Å" in text and "within 8 Å" in text for text in page.alternatives)
    assert "forces is missing in 1 records (3.2 %)" in page.text
    assert "rocksalt: 3.20" in page.text  # among the ends of the pressures
    # Groups of two frames each differ in formula, so nothing is said of formulas they share.
    assert "20.0" in page.text


def test_zeros_polymorphs_and_outliers_are_pointed_out(crystals: Any, tmp_path: Path) -> None:
    """40 NaCl of which 10 have a gap of 0, and one gap is 500 eV."""
    records = []
    for index in range(40):
        gap = 0.0 if index < 10 else 500.0 if index == 39 else 1 + index / 50
        record = crystals.rocksalt().replace(id=f"salt-{index}", group="")
        records.append(record.replace(labels={"band_gap": Label(gap, "eV", "PBE")}))
    text = card_of(made(records, tmp_path / "gaps")).text
    assert "1 formula occurs more than once, most often ClNa (40 records)" in text
    assert "every record is a group of its own" in text
    assert "band gap is exactly 0 in 10 records (25 %)" in text
    assert "1 of 40 values of band gap is far out" in text
    assert "up to 500 eV in salt-39" in text
    assert "outside the axis: 1 above, to 500 eV" in text


def test_hostile_text_is_text(crystals: Any, tmp_path: Path) -> None:
    label = Label(np.array(1.0), HOSTILE, HOSTILE)
    record = crystals.rocksalt().replace(id=HOSTILE, group=HOSTILE, labels={"a": label})
    plain = crystals.fcc().replace(labels={"a": Label(np.array(2.0), HOSTILE, HOSTILE)})
    recipe = Recipe(
        name=HOSTILE, source={"_target_": HOSTILE}, description=HOSTILE, licence=HOSTILE,
        citation=HOSTILE, notes=HOSTILE, url=HOSTILE,
    )  # fmt: skip
    folder = made([record, plain], tmp_path / "hostile", recipe=recipe)
    hostile = {"name": HOSTILE, "verdict": HOSTILE, "statement": HOSTILE, "evidence": {HOSTILE: 1}}
    judge(folder, [hostile])
    page = card_of(folder)
    assert page.text.count("<script>alert('1')</script>") >= 12


def test_checks_are_a_table_with_words(crystals: Any, tmp_path: Path) -> None:
    folder = made(crystals.many(4), tmp_path / "data")
    checks = [
        {"name": "sign", "verdict": "contradicted", "statement": "Wrong way round.",
         "evidence": {"compressed_cells": 12, "slope": -0.25, "first": "c0001"}},
        {"name": "unit", "verdict": "confirmed", "statement": "Right.", "evidence": None},
        {"name": "other", "verdict": "unheard of", "statement": "", "evidence": ["x", 3]},
    ]  # fmt: skip
    judge(folder, checks)
    text = write_card(folder, tmp_path / "card.html").read_text(encoding="utf-8")
    assert '<span class="verdict bad">✗ contradicted</span>' in text
    assert '<span class="verdict good">✓ confirmed</span>' in text
    assert '<span class="verdict open">· unheard of</span>' in text
    assert "compressed cells 12; slope −0.2500; first c0001" in text


def test_without_labels_and_with_one_record(crystals: Any, tmp_path: Path) -> None:
    page = card_of(made([crystals.rocksalt()], tmp_path / "one"))
    assert "This data set has no labels." in page.text
    assert "1records" in page.text
    assert "8atoms" in page.text


def test_clusters_have_sizes_and_distances_but_no_cell(tmp_path: Path) -> None:
    """A dimer 1.1 Å long."""
    points = np.array([[0, 0, 0], [1.1, 0, 0]])
    dimers = [
        CrystalRecord(f"d{index}", np.array([7, 7]), points, np.zeros((3, 3)), np.zeros(3, bool),
                      {"energy": Label(np.array(-16.5 - index), "eV")})
        for index in range(3)
    ]  # fmt: skip
    page = card_of(made(dimers, tmp_path / "clusters"))
    assert "not periodic 3" in page.text
    assert "Histogram of volume per atom" not in " ".join(page.alternatives)
    assert "Histogram of shortest distance: median 1.10 Å" in " ".join(page.alternatives)


def test_compositions_have_no_geometry(tmp_path: Path) -> None:
    steels = [
        CrystalRecord(
            f"s{index}", np.array([26, 28]), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3, bool),
            {AMOUNT: Label(np.array([0.9, 0.1]), "", per_atom=True),
             "strength": Label(np.array(900.0 + index), "MPa")},
        )
        for index in range(4)
    ]  # fmt: skip
    page = card_of(made(steels, tmp_path / "steels"))
    assert "Structures" not in page.text
    assert "4compositions" in page.text
    assert "Histogram of strength" in " ".join(page.alternatives)
    assert "Fe9Ni" in page.text
    assert "number per element" in page.text
    assert "α, β, γ" not in page.text  # a column of dashes says nothing


def test_crystal_systems_are_drawn_and_named(crystals: Any, tmp_path: Path) -> None:
    chosen = [crystals.fcc(), crystals.perovskite(), crystals.triclinic(1, 3)]
    page = card_of(made([with_symmetry(r)[0] for r in chosen], tmp_path / "systems"))
    systems = next(t for t in page.alternatives if t.startswith("Records by crystal system"))
    assert "triclinic 1" in systems
    assert "cubic 2" in systems
    assert "unknown" not in systems
    assert "3 different" in page.text  # space groups 1, 221 and 225


def test_a_fingerprint_is_named_and_not_averaged(crystals: Any, tmp_path: Path) -> None:
    label = Label(np.arange(145.0), "", "Magpie, element data of matminer")
    record = crystals.labelled(crystals.fcc())
    folder = made([record.replace(labels={**record.labels, "magpie": label})], tmp_path / "data")
    page = card_of(folder)
    assert "Magpie, element data of matminer" in page.text
    assert "largest |magpie|" not in page.text
    assert not any("magpie" in alternative for alternative in page.alternatives)


def test_stored_splits_and_their_leaks(crystals: Any, tmp_path: Path) -> None:
    """Records go in pairs to groups, so dealing them singly tears groups apart."""
    from epitaxy.data.splits import store_split

    folder = made(crystals.many(40), tmp_path / "data")
    dataset = Dataset.open(folder)
    store_split(dataset, "clean", {})
    store_split(dataset, "torn", {"by": "record"})
    (folder / "splits" / "broken.json").write_text("{", encoding="utf-8")
    text = write_card(folder, tmp_path / "card.html").read_text(encoding="utf-8")
    rows = {cells[0]: cells[1:] for row in re.findall(r"<tr>(.*?)</tr>", text)
            if (cells := re.findall(r"<td[^>]*>(.*?)</td>", row))}  # fmt: skip
    assert rows["clean"][:5] == ["32", "4", "4", "0", "0"]
    assert rows["torn"][:4] == ["32", "4", "4", "0"]
    assert int(rows["torn"][4]) > 0
    assert "cannot be used" in rows["broken"][5]


def test_statistics_at_hand_are_used_and_others_refused(crystals: Any, tmp_path: Path) -> None:
    folder = made(crystals.many(20), tmp_path / "data")
    sampled = describe(Dataset.open(folder), sample=5, progress=False)
    text = card_of(folder, statistics=sampled).text
    assert "5 of 20 records: those whose ids have the smallest BLAKE2b hashes" in text
    other = made(crystals.many(5), tmp_path / "other")
    with pytest.raises(ConfigError, match="describe this data set"):
        write_card(other, tmp_path / "card.html", statistics=sampled)
    with pytest.raises(ShardError, match="not a prepared data set"):
        write_card(tmp_path, tmp_path / "card.html")


def test_real_frames_with_their_provenance(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "small" / "forces_300.xyz.gz"
    prepare(str(source), tmp_path / "real", recipe=load_recipe("mattersim"), progress=False)
    page = card_of(tmp_path / "real")
    manifest = Dataset.open(tmp_path / "real").manifest
    assert manifest.data_digest in page.text
    assert manifest.source["files"][0]["sha256"] in page.text
    assert "arXiv:2405.04967" in page.text
    assert "tension_positive" in page.text
    assert "300records" in page.text


def test_skipped_and_filtered_records_are_told(crystals: Any, tmp_path: Path) -> None:
    twin = crystals.rocksalt().replace(id="c0000")
    folder = made([*crystals.many(3), twin], tmp_path / "data", on_error="skip")
    text = card_of(folder).text
    assert "1 records of the source could not be used." in text
    assert "occurs twice" in text

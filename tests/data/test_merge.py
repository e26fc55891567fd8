"""Merging data sets: by structure, by id and end to end, with provenance."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from planted import KINDS, disguised

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.merge import PROVENANCE, Merge, merge
from epitaxy.data.recipe import load_recipe
from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.record import Label


def dataset(path, records):
    prepare(records, path, progress=False, checks="off")
    return Dataset.open(path)


def gap(value, scheme="PBE", unit="eV"):
    return {"gap": Label(value, unit, scheme)}


def modulus(value):
    return {"modulus": Label(value, "GPa", "PBE")}


def values(record):
    return {name: float(label.value) for name, label in record.labels.items()}


def provenance(folder):
    return [json.loads(line) for line in (folder / PROVENANCE).read_text("utf-8").splitlines()]


@pytest.fixture
def sets(crystals, tmp_path):
    """Gaps of salt, copper and a perovskite; moduli of the same salt and copper and of lead."""
    rng = np.random.default_rng(0)
    salt, copper = crystals.rocksalt(), crystals.fcc()
    gaps = [
        salt.replace(id="1", labels=gap(5.0)),
        copper.replace(id="2", labels=gap(0.0)),
        crystals.perovskite().replace(id="3", labels=gap(1.7)),
    ]
    moduli = [
        crystals.fcc(82, 4.95).replace(id="1", labels=modulus(46.0)),
        disguised(copper, KINDS["all"], rng).replace(id="9", labels=modulus(140.0)),
        disguised(salt, KINDS["all"], rng).replace(id="3", labels=modulus(24.0)),
    ]
    return dataset(tmp_path / "gaps", gaps), dataset(tmp_path / "moduli", moduli)


def test_matching_structures_become_one_record_with_all_labels(sets, tmp_path):
    report = merge(sets, tmp_path / "merged", progress=False)
    merged = Dataset.open(tmp_path / "merged")
    merged.verify()
    found = {merged.ids[row]: values(merged.record(row)) for row in range(len(merged))}
    assert found == {
        "1": {"gap": 5.0, "modulus": 24.0},
        "2": {"gap": 0.0, "modulus": 140.0},
        "3": {"gap": 1.7},
        "moduli-1": {"modulus": 46.0},  # its id is that of the salt
    }
    assert merged.ids.tolist() == ["1", "2", "3", "moduli-1"], "in the order of the first sources"
    assert (report.records, report.united, report.renamed, report.kept_apart) == (4, 2, 1, 0)
    assert report.sources == {"gaps": 3, "moduli": 3}
    assert report.conflicts == {}
    assert list(merged.fields) == ["gap", "modulus"]


def test_the_origin_of_every_record_is_written_down(sets, tmp_path):
    merge(sets, tmp_path / "merged", progress=False)
    assert provenance(tmp_path / "merged") == [
        {
            "id": "1",
            "from": [
                {"dataset": "gaps", "id": "1", "labels": ["gap"]},
                {"dataset": "moduli", "id": "3", "labels": ["modulus"]},
            ],
        },
        {
            "id": "2",
            "from": [
                {"dataset": "gaps", "id": "2", "labels": ["gap"]},
                {"dataset": "moduli", "id": "9", "labels": ["modulus"]},
            ],
        },
        {"id": "3", "from": [{"dataset": "gaps", "id": "3", "labels": ["gap"]}]},
        {"id": "moduli-1", "from": [{"dataset": "moduli", "id": "1", "labels": ["modulus"]}]},
    ]
    source = Dataset.open(tmp_path / "merged").manifest.source
    assert [line["name"] for line in source["merged"]] == ["gaps", "moduli"]
    assert [line["data_digest"] for line in source["merged"]] == [s.data_digest for s in sets]
    assert source["settings"]["by"] == "structure"
    assert source["settings"]["fingerprint_version"] >= 1


def test_duplicates_within_a_set_are_united_too(crystals, tmp_path):
    rng = np.random.default_rng(1)
    salt = crystals.rocksalt()
    copy = disguised(salt, KINDS["all"], rng)
    one = dataset(
        tmp_path / "one", [salt.replace(labels=gap(5.0)), copy.replace(id="b", labels=gap(6.0))]
    )
    (record,) = merged = Merge([one], conflicts="mean")
    assert values(record) == {"gap": 5.5}
    assert merged.report.conflicts == {"gap": 1}
    assert [values(record) for record in Merge([one])] == [{"gap": 5.0}]
    with pytest.raises(RecordError, match="the values of 'gap' disagree"):
        list(Merge([one], conflicts="error"))
    assert len(list(Merge([one], conflicts="error", tolerance=0.2))) == 1


def test_a_second_pass_gives_the_same(sets):
    merged = Merge(sets)
    first = list(merged)
    report = merged.report.to_dict()
    assert list(merged) == first
    assert merged.report.to_dict() == report
    assert len(merged.provenance) == 4


def test_frames_keep_their_own_forces(crystals, tmp_path):
    rng = np.random.default_rng(2)
    salt = crystals.rocksalt()
    turned = disguised(salt, KINDS["rotation"], rng).replace(id="turned")
    other = crystals.labelled(turned, 1)
    data = dataset(tmp_path / "frames", [crystals.labelled(salt, 0), other])
    merged = Merge([data])
    found = list(merged)
    assert found == [data.record(0), data.record(1).replace(group=data.record(0).group)]
    assert merged.report.kept_apart == 1
    assert merged.report.united == 0


def test_groups_that_a_record_connects_become_one(crystals, tmp_path):
    rng = np.random.default_rng(3)
    salt, lead = crystals.rocksalt(), crystals.fcc(82, 4.95)
    first = [salt.replace(group="x"), lead.replace(id="lead", group="z")]
    second = [
        disguised(salt, KINDS["all"], rng).replace(id="halite", group="y"),
        crystals.perovskite().replace(group="y"),
        crystals.fcc(47, 4.09).replace(id="silver", group="w"),
    ]
    sets = dataset(tmp_path / "a", first), dataset(tmp_path / "b", second)
    groups = {record.id: record.group for record in Merge(sets)}
    # Salt is x in one set and y in the other, so all of y is x now.
    assert groups == {"rocksalt": "x", "lead": "z", "perovskite": "x", "silver": "w"}


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (gap(5.0, scheme="HSE"), "scheme 'PBE' in one, unit 'eV', scheme 'HSE' in two"),
        (gap(5.0, unit="meV"), "unit 'eV', scheme 'PBE' in one, unit 'meV'"),
    ],
)
def test_labels_of_another_scheme_or_unit_are_refused(crystals, tmp_path, label, told):
    copper = crystals.fcc()
    one = dataset(tmp_path / "one", [copper.replace(labels=gap(0.0))])
    two = dataset(tmp_path / "two", [copper.replace(id="b", labels=label | modulus(140.0))])
    for by in ("structure", "none"):
        with pytest.raises(ConfigError, match=f"'gap' is not one label: .*{told}"):
            Merge([one, two], by=by)
    (record,) = merged = Merge([one, two], schemes="keep_first")
    assert values(record) == {"gap": 0.0, "modulus": 140.0}
    assert merged.report.dropped == {"gap": 1}
    _, second = merged = Merge([one, two], by="none", schemes="keep_first")
    assert values(second) == {"modulus": 140.0}, "no two gaps in one data set"
    assert merged.report.dropped == {"gap": 1}


def test_by_id_unites_names(crystals, tmp_path):
    copper, salt = crystals.fcc(), crystals.rocksalt()
    one = dataset(tmp_path / "one", [copper.replace(id="a", labels=gap(0.0))])
    two = dataset(
        tmp_path / "two",
        [
            crystals.fcc(lattice=3.7).replace(id="a", labels=modulus(140.0)),
            salt.replace(id="b", labels=modulus(24.0)),
            copper.replace(id="c", labels=modulus(141.0)),
        ],
    )
    found = {record.id: values(record) for record in Merge([one, two], by="id")}
    assert found == {
        "a": {"gap": 0.0, "modulus": 140.0},
        "b": {"modulus": 24.0},
        "c": {"modulus": 141.0},
    }


def test_one_name_for_two_formulas_is_refused(sets):
    with pytest.raises(RecordError, match=r"id '1' is ClNa in gaps, Pb in moduli"):
        Merge(sets, by="id")


def test_by_none_keeps_every_record(sets):
    merged = Merge(sets, by="none")
    assert [record.id for record in merged] == [
        "1", "2", "3", "moduli-1", "9", "moduli-3",
    ]  # fmt: skip
    assert merged.report.united == 0
    assert merged.report.renamed == 2


def test_sets_of_one_name_are_told_apart(sets, crystals, tmp_path):
    (tmp_path / "again").mkdir()
    twin = dataset(tmp_path / "again" / "gaps", [crystals.fcc(47, 4.09).replace(id="1")])
    merged = Merge([sets[0], twin], by="none")
    assert [record.id for record in merged][-1] == "gaps-2-1"
    assert merged.report.sources == {"gaps": 3, "gaps-2": 1}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"by": "structures"}, "did you mean 'structure'"),
        ({"conflicts": "last"}, "Known: error, first, mean"),
        ({"schemes": "first"}, "did you mean 'keep_first'"),
        ({"tolerance": -1.0}, "a tolerance of at least 0"),
    ],
)
def test_arguments_are_checked(sets, arguments, told):
    with pytest.raises(ConfigError, match=told):
        Merge(sets, **arguments)


def test_nothing_cannot_be_merged():
    with pytest.raises(ConfigError, match="at least one data set"):
        Merge([])


def test_a_failed_merge_leaves_nothing(sets, crystals, tmp_path):
    salt = crystals.rocksalt()
    more = dataset(tmp_path / "more", [salt.replace(id="x", labels=gap(5.5))])
    with pytest.raises(RecordError, match="disagree"):
        merge([sets[0], more], tmp_path / "merged", conflicts="error", progress=False)
    assert not (tmp_path / "merged").exists()


def test_real_property_sets_become_one(data_dir, tmp_path):
    # Dielectric and piezoelectric sets of transfer learning, both of the Materials Project.
    sets = []
    for recipe, file in (("dielectric", "dc_train"), ("piezoelectric", "pz_train")):
        path = data_dir / "transfer7" / f"{file}.json.gz"
        records = islice(load_recipe(recipe).open_source().read(str(path)), 250)
        sets.append(dataset(tmp_path / recipe, records))
    report = merge(
        sets, tmp_path / "merged", cache=tmp_path / "cache", conflicts="mean", progress=False
    )
    merged = Dataset.open(tmp_path / "merged")
    assert report.united > 5
    sources = provenance(tmp_path / "merged")
    assert sum(len(line["from"]) for line in sources) == 500, "every record went somewhere"
    assert len(merged) == len(sources) == report.records
    for row, line in enumerate(sources):
        assert merged.ids[row] == line["id"]
        labels = {name for source in line["from"] for name in source["labels"]}
        assert set(merged.record(row).labels) == labels
    both = [
        line
        for line in sources
        if {s["dataset"] for s in line["from"]} == {s.path.name for s in sets}
    ]
    assert len(both) > 5

"""Labels made from the record itself: what they are, who cannot have them, and who counts that."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from epitaxy.data import derived, symmetry
from epitaxy.data.derived import FIT_RECORDS, LabelMaker, derivable
from epitaxy.data.magpie import MAGPIE
from epitaxy.data.symmetry import CRYSTAL_SYSTEM, CRYSTAL_SYSTEMS, SPACE_GROUP
from epitaxy.errors import ConfigError
from epitaxy.graph.composition import as_composition
from epitaxy.graph.record import Label

ALL = (MAGPIE, SPACE_GROUP, CRYSTAL_SYSTEM)

pytest.importorskip("matminer", reason="matminer is in the dev extra")


def test_labels_look_as_they_are_declared(crystals: Any) -> None:
    record = LabelMaker()(crystals.rocksalt(), ALL)
    assert {name: record.labels[name].field(name) for name in ALL} == dict(derivable())
    assert set(FIT_RECORDS) == set(derivable())
    assert record.labels[SPACE_GROUP].value == 225
    assert CRYSTAL_SYSTEMS[int(record.labels[CRYSTAL_SYSTEM].value)] == "cubic"


def test_they_are_those_that_an_import_stores(crystals: Any) -> None:
    record = crystals.labelled(crystals.perovskite())
    stored, _ = symmetry.with_symmetry(record)
    assert LabelMaker()(record, (SPACE_GROUP, CRYSTAL_SYSTEM)) == stored


def test_what_is_there_already_stays(crystals: Any) -> None:
    told = crystals.rocksalt().replace(labels={SPACE_GROUP: Label(np.array(1.0), "", "by hand")})
    made = LabelMaker()(told, (SPACE_GROUP, CRYSTAL_SYSTEM))
    assert made.labels[SPACE_GROUP] == told.labels[SPACE_GROUP]
    assert made.labels[CRYSTAL_SYSTEM].value == CRYSTAL_SYSTEMS.index("cubic")
    assert LabelMaker()(told, (SPACE_GROUP,)) is told


def test_records_that_cannot_have_a_label_are_counted_once(
    crystals: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A slab and a composition have no space group; two atoms in one place confuse spglib."""
    slab = crystals.fcc().replace(id="slab", pbc=np.array([True, True, False]))
    twins = crystals.record("twins", [8, 8], np.array([[0, 0, 0], [0.001, 0, 0]]), np.eye(3) * 5)
    formula = as_composition(crystals.rocksalt()).replace(id="formula")
    helium = crystals.fcc(2).replace(id="helium")
    maker = LabelMaker()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            made = [maker(record, ALL) for record in (slab, twins, formula, helium)]
    assert [sorted(record.labels) for record in made] == [
        [MAGPIE], [MAGPIE], ["amount", MAGPIE], [CRYSTAL_SYSTEM, SPACE_GROUP]
    ]  # fmt: skip
    assert maker.absent == {SPACE_GROUP: 3, CRYSTAL_SYSTEM: 3, MAGPIE: 1}
    assert len(caplog.records) == 3  # the first of each
    assert "'slab' is not periodic along three axes" in caplog.text
    assert "'helium': no Magpie vector: unknown properties of He" in caplog.text


def test_the_log_tells_how_many_there_are(crystals: Any, caplog: pytest.LogCaptureFixture) -> None:
    maker = LabelMaker()
    formula = as_composition(crystals.rocksalt())
    with caplog.at_level(logging.WARNING):
        for number in range(25):
            maker(formula.replace(id=f"f{number}"), (SPACE_GROUP,))
    assert [message.split()[0] for message in caplog.messages] == ["1", "10"]


def test_structures_are_searched_once_and_the_oldest_are_forgotten(
    crystals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    search = symmetry.space_group

    def counted(record: Any) -> int:
        searched.append(record.id)
        return search(record)

    monkeypatch.setattr(derived.symmetry, "space_group", counted)
    maker = LabelMaker(remembered=2)
    salt, copper, oxide = crystals.rocksalt(), crystals.fcc(), crystals.perovskite()
    for record in (salt, salt.replace(id="again"), copper, salt, oxide, salt, copper):
        maker(record, (SPACE_GROUP, CRYSTAL_SYSTEM))
    assert searched == ["rocksalt", "fcc", "perovskite", "fcc"]


@pytest.mark.filterwarnings("error")
def test_threads_share_what_was_found(crystals: Any) -> None:
    records = [crystals.triclinic(seed, 3) for seed in range(20)]
    chosen = [records[place % 20] for place in range(200)]
    maker = LabelMaker()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda record: maker(record, ALL), chosen))
    assert {int(record.labels[SPACE_GROUP].value) for record in made} == {1}
    assert [record.id for record in made] == [record.id for record in chosen]
    assert maker.absent == {}


def test_unknown_names_and_missing_packages_are_refused(
    crystals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="'space_grup' can be derived; did you mean 'space_gr"):
        LabelMaker()(crystals.fcc(), ("space_grup",))
    monkeypatch.setattr(derived.magpie, "find_spec", lambda name: None)
    derived.require_packages((SPACE_GROUP,))
    with pytest.raises(ConfigError, match="matminer"):
        derived.require_packages(ALL)

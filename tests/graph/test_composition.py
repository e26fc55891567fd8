from __future__ import annotations

from typing import Any

from epitaxy.graph.collate import collate
from epitaxy.graph.composition import as_composition
from epitaxy.graph.record import AMOUNT
from epitaxy.graph.spec import GraphSpec


def test_a_structure_becomes_its_elements_and_their_numbers(crystals: Any) -> None:
    record = crystals.labelled(crystals.perovskite()).replace(id="BTO", group="titanates")
    composition = as_composition(record)
    assert composition.is_composition
    assert (composition.id, composition.group) == ("BTO", "titanates")
    assert composition.numbers.tolist() == [8, 22, 56]
    assert composition.labels[AMOUNT].value.tolist() == [3, 1, 1]
    assert composition.labels["energy"] == record.labels["energy"]
    assert "forces" not in composition.labels
    assert as_composition(composition) is composition


def test_a_structure_keeps_its_size(crystals: Any) -> None:
    spec = GraphSpec("composition")
    records = [crystals.rocksalt(), crystals.perovskite(), crystals.fcc()]
    batch = collate(records, [spec])
    assert batch.num_atoms.tolist() == [2, 3, 1]  # elements
    assert batch.sizes.tolist() == [8, 5, 1]
    assert collate(records, []).sizes.tolist() == [8, 5, 1]

from __future__ import annotations

import json

import numpy as np
import pytest

from epitaxy.errors import ConfigError
from epitaxy.graph.elements import _learned, atom_features, feature_names, known_elements
from epitaxy.graph.symbols import SYMBOLS


def test_every_known_element_has_six_to_nine_ones():
    features = atom_features("cgcnn92")
    assert features.shape == (119, 92)
    assert features.dtype == np.float32
    assert set(np.unique(features)) == {0.0, 1.0}
    sums = features[1:101].sum(axis=1)
    assert sums.min() == 6
    assert sums.max() == 9
    assert not features[0].any()
    assert not features[101:].any()
    assert known_elements("cgcnn92") == frozenset(range(1, 101))


@pytest.mark.parametrize(
    ("number", "group", "period", "valence", "block"),
    [
        (1, 1, 1, 1, 0),  # H
        (8, 16, 2, 6, 1),  # O
        (26, 8, 4, 8, 2),  # Fe
        (58, 0, 6, 2, 3),  # Ce: no group
        (79, 11, 6, 11, 2),  # Au
    ],
)
def test_elements_stand_where_the_periodic_table_has_them(number, group, period, valence, block):
    row = atom_features("cgcnn92")[number]
    assert np.flatnonzero(row[:19]).tolist() == [group]
    assert np.flatnonzero(row[19:26]).tolist() == [period - 1]
    assert np.flatnonzero(row[46:58]).tolist() == [valence - 1]
    assert np.flatnonzero(row[78:82]).tolist() == [block]


def test_electronegativity_of_fluorine_is_in_the_last_bin_and_helium_has_none():
    features = atom_features("cgcnn92")
    assert np.flatnonzero(features[9, 26:36]).tolist() == [9]  # 3.98 of [0.5, 4.0]
    assert not features[2, 26:36].any()


def test_the_table_equals_the_published_one(reference_dir):
    """``atom_init.json`` of txie-93/cgcnn, element by element."""
    published = json.loads((reference_dir / "cgcnn" / "atom_init.json").read_text())
    features = atom_features("cgcnn92")
    assert {int(number) for number in published} == known_elements("cgcnn92")
    for number, row in published.items():
        np.testing.assert_array_equal(features[int(number)], row, err_msg=f"element {number}")


def test_callers_cannot_spoil_the_table():
    atom_features("cgcnn92")[:] = 5
    assert atom_features("cgcnn92").max() == 1


def test_an_unknown_table_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'cgcnn92'"):
        atom_features("cgcnn")


def test_names_say_what_each_column_stands_for():
    names = feature_names("cgcnn92")
    assert len(names) == len(set(names)) == 92
    fluorine = {names[column] for column in np.flatnonzero(atom_features("cgcnn92")[9])}
    # Group 17, period 2, electronegativity 3.98, seven valence electrons, block p.
    assert {"group 17", "period 2", "valence electrons 7", "block p"} <= fluorine
    assert "electronegativity 3.65 to 4 Pauling" in fluorine
    lanthanum = {names[column] for column in np.flatnonzero(atom_features("cgcnn92")[57])}
    assert "group none (f block)" in lanthanum
    assert feature_names("onehot100")[25] == "Z = 26"
    assert len(feature_names("matscholar200")) == 200


def test_one_hot_columns_are_atomic_numbers():
    table = atom_features("onehot100")
    assert table[26].tolist() == [float(column == 25) for column in range(100)]
    assert known_elements("onehot100") == frozenset(range(1, 101))


def test_the_learned_table_is_the_one_of_the_library():
    matminer = pytest.importorskip("matminer.utils.data", reason="matminer is in the dev extra")
    library = matminer.MatscholarElementData().all_element_data
    ours = atom_features("matscholar200")
    for number in known_elements("matscholar200"):
        theirs = library[SYMBOLS[number]]
        values = theirs.values() if isinstance(theirs, dict) else theirs
        np.testing.assert_array_equal(ours[number], np.float32(list(values)))


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("epitaxy.graph.elements.find_spec", lambda name: None)
    monkeypatch.setattr("epitaxy.graph.elements._read", _learned)
    with pytest.raises(ConfigError, match=r"matminer.*pip install 'epitaxy\[composition\]'"):
        atom_features("matscholar200")

from __future__ import annotations

import json

import pytest

from epitaxy.data import element_tables
from epitaxy.data.element_tables import CGCNN92, CGCNN92_CORRECTIONS, TABLES


@pytest.fixture(scope="module")
def rebuilt():
    pytest.importorskip("mendeleev", reason="mendeleev is in the dev extra")
    return element_tables.build_cgcnn92()


def test_the_committed_table_is_what_this_code_builds(rebuilt):
    committed = json.loads((TABLES / "cgcnn92.json").read_text(encoding="utf-8"))
    del committed["values_from"], rebuilt["values_from"]  # another mendeleev with equal values
    assert committed == rebuilt


def test_writing_gives_what_reading_gave(rebuilt, tmp_path):
    path = element_tables.write(rebuilt, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == rebuilt
    assert '"26": [8, ' in path.read_text(encoding="utf-8")  # one element per line


def test_the_groups_fill_92_columns():
    assert sum(group.bins for group in CGCNN92) == 92


def test_corrections_name_groups_and_stay_few():
    assert set(CGCNN92_CORRECTIONS) <= {group.name for group in CGCNN92}
    assert sum(len(values) for values in CGCNN92_CORRECTIONS.values()) == 23


@pytest.mark.parametrize(
    ("name", "value", "column"),
    [
        ("electronegativity", 0.5, 0),
        ("electronegativity", 3.98, 9),
        ("electronegativity", 4.0, None),  # the upper edge is outside
        ("electronegativity", None, None),
        ("covalent radius", 25.0, 0),
        ("covalent radius", 24.9, None),
        ("ionisation energy", 13.6, 6),  # ln 13.6 = 2.61 of [1.3, 3.3]
        ("atomic volume", 10.0, 2),  # ln 10 = 2.30 of [1.5, 4.3]
        ("period", 7, 6),
    ],
)
def test_bins(name, value, column):
    (group,) = [group for group in CGCNN92 if group.name == name]
    assert group.column(value) == column

import hashlib

import numpy as np
import pytest

from epitaxy.data.names import JoinedNames, StoredNames, find_rows
from epitaxy.data.sidecars import key_bytes, keys_of

TEXTS = ["mp-1", "", "Å", "mp-1-0", "x" * 300, "mp-2"]


def test_names_are_decoded_where_asked():
    names = StoredNames.of(TEXTS)
    assert len(names) == 6
    assert names.at(np.array([4, 2, 2, 1])).tolist() == [TEXTS[4], "Å", "Å", ""]
    assert names.at(np.arange(0)).tolist() == []


def test_keys_are_the_documented_hash():
    """Splits and orders of runs depend on it."""
    expected = int.from_bytes(hashlib.blake2b(b"mp-1", key=b"0", digest_size=8).digest(), "big")
    assert StoredNames.of(TEXTS).keys()[0] == expected
    assert int.from_bytes(key_bytes("mp-1"), "big") == expected
    assert StoredNames.of(TEXTS).keys(7)[0] != expected


def test_stored_keys_are_taken_and_other_seeds_computed():
    stored = np.arange(6, dtype=np.uint64)
    plain = StoredNames.of(TEXTS)
    names = StoredNames(plain._content, plain._offsets, stored)
    assert names.keys().tolist() == stored.tolist()
    assert names.keys(3).tolist() == keys_of(TEXTS, 3).tolist()


@pytest.mark.parametrize("joined", [False, True])
def test_finding_compares_names_not_only_keys(joined):
    names = StoredNames.of(TEXTS)
    if joined:
        names = JoinedNames([StoredNames.of(TEXTS[:2]), StoredNames.of(TEXTS[2:])])
    rows, unknown = find_rows(names, ["mp-2", "nope", "mp-1", ""])
    assert (rows.tolist(), unknown) == ([5, 0, 1], ["nope"])
    assert find_rows(names, [])[0].tolist() == []


def test_a_collision_of_keys_is_no_match():
    plain = StoredNames.of(["a", "b"])
    collided = StoredNames(plain._content, plain._offsets, keys_of(["b", "b"]))
    rows, unknown = find_rows(collided, ["b"])
    assert (rows.tolist(), unknown) == ([1], [])

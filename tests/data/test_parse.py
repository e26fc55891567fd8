"""Pieces to outcomes: what is accepted, left out by a rule, or refused with its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from epitaxy.data.codec import decode
from epitaxy.data.parse import Accepted, LeftOut, Parser, Refused, Sieve
from epitaxy.data.sources.contract import BadRecord, Piece, PieceSource
from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.record import CrystalRecord, Label


class Given(PieceSource):
    """Parses pieces that are records already, or errors to raise."""

    def pieces(self, uri: str) -> Iterator[Piece]:
        raise NotImplementedError

    def record(self, piece: Piece) -> CrystalRecord:
        if isinstance(piece.content, Exception):
            raise piece.content
        return piece.content


def test_outcomes_in_order(crystals: Any) -> None:
    broken = Piece("f, frame 1", RecordError("no atoms"))
    surprising = Piece("f, frame 2", KeyError("sites"))
    items = [
        ("a", Piece("f, frame 0", crystals.fcc())),
        ("b", broken),
        ("c", surprising),
        ("d", BadRecord("f, frame 3", RecordError("cut off"))),
        ("e", crystals.rocksalt()),
        ("f", "no record at all"),
    ]
    outcomes = Parser(Given(), Sieve(max_atoms=4))(items)
    accepted, *refused, left, stranger = outcomes
    assert isinstance(accepted, Accepted)
    assert decode(accepted.blob) == crystals.fcc()
    assert accepted.neighbors[0] == 12  # fcc copper within 3 Å
    assert [(r.where, str(r.error)) for r in refused] == [
        ("f, frame 1", "no atoms"),
        ("f, frame 2", "KeyError: 'sites'"),
        ("f, frame 3", "cut off"),
    ]
    assert left == LeftOut("num_atoms > 4")
    assert isinstance(stranger, Refused)
    assert "expected a CrystalRecord" in str(stranger.error)


def test_a_cell_too_small_to_search_spoils_no_neighbour(crystals: Any) -> None:
    tiny = CrystalRecord("tiny", np.array([1]), np.zeros((1, 3)), np.eye(3) * 0.02)
    items = [("a", crystals.fcc()), ("b", tiny), ("c", crystals.rocksalt())]
    first, second, third = Parser()(items)
    assert isinstance(first, Accepted)
    assert isinstance(third, Accepted)
    assert isinstance(second, Refused)
    assert "too many" in str(second.error) or "more than" in str(second.error)
    assert second.where == "b"


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ({}, ""),
        ({"max_atoms": 8}, ""),
        ({"max_atoms": 7}, "num_atoms > 7"),
        ({"max_atomic_number": 17}, ""),
        ({"max_atomic_number": 16}, "atomic number > 16"),
        ({"exclude_elements": ["He", "Cl"]}, "element Cl"),
        ({"require": ["gap"]}, ""),
        ({"require": ["modulus"]}, "no modulus"),
        ({"range": {"gap": [5.0, None]}}, ""),
        ({"range": {"gap": [5.1, None]}}, "gap < 5.1"),
        ({"range": {"gap": [0.0, 4.9]}}, "gap > 4.9"),
        ({"range": {"modulus": [0.0, 1.0]}}, ""),
    ],
)
def test_rules_of_a_sieve(crystals: Any, rules: dict[str, Any], broken: str) -> None:
    salt = crystals.rocksalt().replace(labels={"gap": Label(np.array(5.0), "eV")})
    assert Sieve.from_dict(rules).broken(salt) == broken


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_atom": 3}, "did you mean 'max_atoms'"),
        ({"exclude_elements": ["Xx"]}, "exclude_elements"),
        ({"range": {"gap": 3}}, r"must be \[low, high\]"),
    ],
)
def test_wrong_rules_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sieve.from_dict(rules)

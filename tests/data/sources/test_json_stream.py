"""JSON in pieces: any chunk size, any nesting, and every way it can be broken."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.data.sources import json_stream
from epitaxy.data.sources.json_stream import walk, walk_lines
from epitaxy.errors import RecordError, SourceError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def items(text: str, **options: Any) -> list[Any]:
    return list(walk("x.json", io.StringIO(text), **options))


def in_chunks(chunk: int, text: str, **options: Any) -> list[Any]:
    original = json_stream._CHUNK
    try:
        json_stream._CHUNK = chunk
        return items(text, **options)
    finally:
        json_stream._CHUNK = original


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=4), max_size=8),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_list_is_read_in_pieces(
    entries: list[Any], chunk: int, indent: int | None, plain: bool
) -> None:
    text = "\n " + json.dumps(entries, indent=indent, ensure_ascii=plain) + "\n"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    found = in_chunks(chunk, text)
    assert [entry for _, entry in found] == entries
    assert [path for path, _ in found] == [(place,) for place in range(len(entries))]


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.text(max_size=4),
        st.dictionaries(st.text(max_size=4), json_values, max_size=3),
        max_size=4,
    ),
    st.integers(1, 40),
)
def test_objects_of_objects(content: dict[str, dict[str, Any]], chunk: int) -> None:
    expected = [((a, b), entry) for a, inner in content.items() for b, entry in inner.items()]
    assert in_chunks(chunk, json.dumps(content), levels=2) == expected
    assert in_chunks(chunk, json.dumps(content)) == [((a,), inner) for a, inner in content.items()]


def test_levels() -> None:
    text = '{"a": [{"x": 1}, 2], "b": 3}'
    assert items(text, levels=0) == [((), {"a": [{"x": 1}, 2], "b": 3})]
    assert items(text) == [(("a",), [{"x": 1}, 2]), (("b",), 3)]
    assert items(text, levels=2) == [(("a", 0), {"x": 1}), (("a", 1), 2), (("b",), 3)]
    assert items(text, levels=3) == [(("a", 0, "x"), 1), (("a", 1), 2), (("b",), 3)]


def test_a_container_beside_other_things() -> None:
    text = '{"meta": {"data": [9]}, "data": {"frames": [1, 2], "n": 2}, "after": [3]}'
    assert items(text, under=("data", "frames")) == [((0,), 1), ((1,), 2)]
    assert items(text, under=("meta",)) == [(("data",), [9])]
    assert items("[[7], [8, 9]]", under=("1",)) == [((0,), 8), ((1,), 9)]
    with pytest.raises(SourceError, match="has no 'entries' to look under; there is meta, data"):
        items(text, under=("entries",))
    with pytest.raises(SourceError, match="has no 'x' to look under; there are no keys"):
        items('{"after": 3}', under=("after", "x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a JSON list or object of entries; after 0 entries it ends"),
        ("3", "must hold a JSON list or object"),
        ('"text"', "must hold a JSON list or object"),
        ('[{"a": 1}, {"a"', "malformed or cut off: .*; after 1 entries"),
        ('[{"a": 1}, {"a": 2}', "malformed or cut off: expected ',' .*; after 2 entries it ends"),
        ('[{"a": 1}, {a: 2}]', "malformed or cut off: .*; after 1 entries it goes on '{a: 2}]'"),
        ('[{"a": 1} {"a": 2}]', "expected ',' or the end of a list"),
        ('{"a": 1, b: 2}', "expected a key in double quotes"),
        ('{"a" 1}', "expected ':' after 'a'"),
        ('{"a": 1}\n{"a": 2}', r"more text after its end \(one entry per line\? say lines: true\)"),
        ("[1, 2]]", "has more text after its end"),
        ("[1,]", "malformed or cut off"),
        ("[" + "9" * 5000 + "]", "holds a number that is too long"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=f"^x.json .*{message}"):
        items(text)


def test_a_mistake_is_found_before_the_rest_is_read() -> None:
    """A slip at the start of a file of gigabytes must not fill the memory."""

    class Endless(io.StringIO):
        taken = 0

        def read(self, size: int | None = -1) -> str:
            self.taken += 1
            return "[{a: 1}, " if self.taken == 1 else '{"a": 1}, ' * 1000

    stream = Endless()
    with pytest.raises(SourceError, match="malformed or cut off"):
        list(walk("x.json", stream))
    assert stream.taken <= 3


def test_lines() -> None:
    found = list(walk_lines("x.jsonl", io.StringIO('{"a": 1}\n\n  [2]\r\n{"a"\n3')))
    assert [path for path, _ in found] == [(0,), (1,), (2,), (3,)]
    assert [entry for _, entry in found[:2]] == [{"a": 1}, [2]]
    assert isinstance(found[2][1], RecordError)
    assert found[3][1] == 3
    for text in ("9" * 5000 + "\n", "[" * 100_000 + "\n"):
        ((_, error),) = walk_lines("x.jsonl", io.StringIO(text))
        assert isinstance(error, RecordError)
    with pytest.raises(SourceError, match="malformed or cut off after 1 entries"):
        list(walk_lines("x.jsonl", io.StringIO('{"a": 1}\n{"a":')))

"""Messages of the reader of foreign files: what is sent arrives, anything else is refused."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from epitaxy.foreign.child.encoding import TreeWriter
from epitaxy.foreign.wire import (
    MAX_DEPTH,
    PREFIX_BYTES,
    WireError,
    decode,
    parse_header,
    parse_prefix,
    send,
)


def message(item: Any) -> bytes:
    stream = io.BytesIO()
    writer = TreeWriter()
    send(stream, {"tree": writer.node(item)}, writer.parts)
    return stream.getvalue()


def received(raw: bytes) -> Any:
    header, blob = parse_prefix(raw[:PREFIX_BYTES], 1 << 30)
    assert len(raw) == PREFIX_BYTES + header + blob
    text = raw[PREFIX_BYTES : PREFIX_BYTES + header]
    return decode(parse_header(text)["tree"], bytearray(raw[PREFIX_BYTES + header :]))


def test_a_tree_arrives_as_it_was_sent() -> None:
    shared = [0.1, -0.0, 1e300]
    item = {
        "none": None,
        "numbers": [True, 1, 10**30, 0.1, float("-inf")],
        "text": 'Å"\n\0',
        "shared": [shared, {"deeper": shared}],
        "bytes": [b"", b"\x00\xff" * 9],
        "empty": [[], {}, ()],
    }
    found = received(message(item))
    assert found == {**item, "empty": [[], {}, []]}
    assert found["shared"][0] is found["shared"][1]["deeper"]
    assert np.signbit(found["shared"][0][1])


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i1", "u8", "b1", "c16", "U3", "S2", "M8[ns]"])
def test_arrays_arrive_bit_by_bit(dtype: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (5, 3, 4), dtype="i1")
    for array in (bits.astype(dtype), bits.astype(dtype)[::2, :, 1], bits.astype(dtype)[0, 0, 0:0]):
        (found,) = received(message([array]))
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable


def test_arrays_keep_their_value_where_they_cannot_keep_their_type() -> None:
    swapped, long, text, zero = received(
        message(
            [np.arange(3, dtype=">f8"), np.longdouble([1, 2]), np.zeros(2, "U0"), np.array(1.5)]
        )
    )
    assert swapped.tolist() == [0, 1, 2]
    assert (long.dtype, long.tolist()) == (np.float64, [1, 2])
    assert text.tolist() == ["", ""]
    assert (zero.shape, zero.item()) == ((), 1.5)


@pytest.mark.parametrize(
    "node",
    [
        [],
        ["x", 1],
        [["l"], 1],
        ["l", ["r", 0]],
        ["l", ["l"], ["r", 2]],
        ["l", ["r", -1]],
        ["r", True],
        ["r"],
        ["b", 0, 17],
        ["b", -1, 1],
        ["b", 1 << 70, 1],
        ["a", "<f8", [3], 0],
        ["a", "<f8", [1], 9],
        ["a", "<f8", [-1], 0],
        ["a", "<f8", 1, 0],
        ["a", "<f8", [1 << 62, 1 << 62], 0],
        ["a", "<f8", [0, 1 << 70], 0],
        ["a", "<f3", [1], 0],
        ["a", "|O", [1], 0],
        ["a", "<U0", [1 << 60], 0],
        ["a", "<f8,<f8", [1], 0],
        ["a", "<f8", [1] * 100, 0],
        ["a", ["<f8"], [1], 0],
    ],
)
def test_nonsense_is_refused(node: Any) -> None:
    with pytest.raises(WireError):
        decode(node, bytearray(16))


def test_messages_of_another_form_are_refused() -> None:
    raw = message([1])
    with pytest.raises(WireError, match="begins with"):
        parse_prefix(b"XXXX" + raw[4:PREFIX_BYTES], 1 << 30)
    with pytest.raises(WireError, match="at most 2 are possible"):
        parse_prefix(raw[:PREFIX_BYTES], 2)
    for text in (b"{", b"[1]", b"\xff", b"[" * 100_000):
        with pytest.raises(WireError, match="header"):
            parse_header(text)


def test_depth_is_bounded_on_both_sides() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    found = received(message(deep))
    for _ in range(MAX_DEPTH):
        (found,) = found
    assert found == 1
    node: Any = json.loads("[" + '"l",[' * 450 + '"l"' + "]" * 450 + "]")
    with pytest.raises(WireError, match="levels deep"):
        decode(node, bytearray())

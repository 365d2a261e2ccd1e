import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import PeerError, UsageError
from mcr.wire.codec import MAX_DEPTH, MAX_ITEMS, pack, unpack

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def nested(levels: int) -> dict[str, object]:
    """Give that many maps within each other."""
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_what_is_packed_is_unpacked_the_same(value: dict[str, object]) -> None:
    assert unpack(pack(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_or_refused(data: bytes) -> None:
    try:
        value = unpack(data)
    except PeerError:
        return
    assert all(isinstance(key, str) for key in value)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_no_beginning_of_a_map_passes_for_one(value: dict[str, object]) -> None:
    data = pack(value)

    for end in range(len(data)):
        with pytest.raises(PeerError):
            unpack(data[:end])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "got 0 bytes, expected one msgpack map"),
        (b"\xc1", "expected one msgpack map: FormatError"),
        (b"\x80\x80", "extra data"),
        (b"\x90", "got a msgpack list, expected a map"),
        (b"\xc0", "got a msgpack NoneType, expected a map"),
        (b"\x81\x01\x02", "int is not allowed for map key"),
        (b"\x81\xc4\x01a\x02", "got a map key of type bytes, expected text"),
        (b"\x82\xa1a\x01\xa1a\x02", "repeated key"),
        (b"\x81\xa1a\xa1\xff", "can't decode byte 0xff"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "max_ext_len"),  # a timestamp
        (b"\x81\xa1a\xd4\x05\x00", "max_ext_len"),
        (b"\x81\xa1a\xc7\x00\x05", "got msgpack extension type 5, expected none"),
        (b"\x81\xa1a" + b"\xdd" + (MAX_ITEMS + 1).to_bytes(4) + b"\xc0" * (MAX_ITEMS + 1), "max_array_len"),
        (b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "incomplete input"),
        (b"\x91" * 5000 + b"\x80", "expected one msgpack map"),
        (pack(nested(MAX_DEPTH + 1)), f"more than {MAX_DEPTH} levels"),
        (b"\x81\xa1a" + b"\x91" * MAX_DEPTH + b"\xc0", f"more than {MAX_DEPTH} levels"),
    ],
)
def test_what_is_not_exactly_one_decent_map_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PeerError, match=reason):
        unpack(data)


def test_the_deepest_map_passes() -> None:
    assert unpack(pack(nested(MAX_DEPTH))) == nested(MAX_DEPTH)


@pytest.mark.parametrize("value", [1 << 64, "\ud800", object(), {1, 2}])
def test_what_has_no_encoding_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="got a value without an encoding"):
        pack({"a": value})


def test_the_encoding_is_plain_msgpack() -> None:
    assert msgpack.unpackb(pack({"a": [1, b"x"]})) == {"a": [1, b"x"]}

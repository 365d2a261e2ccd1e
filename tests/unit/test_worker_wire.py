from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import PeerError
from mcr.wire import codec
from mcr.wire import worker as wire

NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1)
SLOTS = st.lists(st.integers(0, 32767), max_size=wire.MAX_DESCRIPTORS)
ADDRESSES = st.binary(min_size=16, max_size=16)
MESSAGES: dict[str, st.SearchStrategy[wire.ToWorker | wire.FromWorker]] = {
    "hello": st.builds(
        wire.Hello,
        st.integers(0, 255),
        st.integers(1, 256),
        st.integers(-1, 4095),
        st.integers(-1, 10_000),
        st.booleans(),
        st.integers(1, 512),
    ),
    "ring": st.builds(wire.Ring, st.integers(0, 63), st.integers(0, 1 << 16), st.integers(0, 1 << 20)),
    "watch": st.builds(wire.Watch, st.integers(0, 63)),
    "outputs": SLOTS.flatmap(
        lambda slots: st.builds(
            wire.Outputs,
            st.just(slots),
            st.binary(min_size=16 * len(slots), max_size=16 * len(slots)),
            st.lists(st.integers(0, 65535), min_size=len(slots), max_size=len(slots)),
        )
    ),
    "share": st.builds(wire.ShareFile, st.integers(1, 1 << 63), st.integers(0, 1 << 31)),
    "ready": st.builds(wire.Ready, st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=12)),
    "installed": st.builds(wire.Installed, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1)),
    "loop": st.builds(wire.Loop, st.integers(0, 8191), ADDRESSES, ADDRESSES),
    "failed": st.builds(wire.Failed, st.text(max_size=200).filter(str.isprintable)),
}
ANY_MESSAGE = st.one_of(*MESSAGES.values())
EXAMPLES: list[dict[str, Any]] = [
    {
        "kind": "hello",
        "worker": 0,
        "workers": 2,
        "cpu": 1,
        "coalesce_us": 100,
        "busy_poll": False,
        "batch": 512,
    },
    {"kind": "ring", "slot": 0, "frame_bytes": 2048, "frames": 16},
    {"kind": "watch", "slot": 0},
    {"kind": "outputs", "slots": [0, 1], "sources": bytes(32), "ports": [0, 65535]},
    {"kind": "share", "generation": 1, "bytes": 24},
    {"kind": "ready", "proof": {"Uid": "65534"}},
    {"kind": "installed", "generation": 1, "digest": 1 << 63},
    {"kind": "loop", "rule": 1, "group": bytes(16), "source": bytes(16)},
    {"kind": "failed", "reason": "install share of 0 bytes: Invalid argument"},
]


def test_every_kind_of_message_is_tested() -> None:
    assert MESSAGES.keys() == wire._KINDS.keys() == {example["kind"] for example in EXAMPLES}


@given(ANY_MESSAGE)
def test_a_message_comes_back_as_it_went(message: wire.ToWorker | wire.FromWorker) -> None:
    assert wire.decode(wire.encode(message)) == message


def test_the_longest_message_fits_one_packet() -> None:
    slots = [(1 << 32) - 1] * wire.MAX_DESCRIPTORS
    sources = b"\xff" * 16 * wire.MAX_DESCRIPTORS
    ports = [65535] * wire.MAX_DESCRIPTORS

    assert len(wire.encode(wire.Outputs(slots, sources, ports))) <= wire.MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sources": bytes(16)}, "got 2 outputs with 1 sources and 2 ports, expected as many"),
        ({"sources": bytes(40)}, "got 2 outputs with 2.5 sources and 2 ports, expected as many"),
        ({"ports": [1]}, "got 2 outputs with 2 sources and 1 ports, expected as many"),
        ({"ports": [1, 65536]}, r"got ports \[1, 65536\], expected 0 to 65535"),
        ({"ports": [-1, 1]}, r"got ports \[-1, 1\], expected 0 to 65535"),
    ],
)
def test_outputs_without_a_source_and_port_each_are_refused(change: dict[str, Any], complaint: str) -> None:
    whole = next(example for example in EXAMPLES if example["kind"] == "outputs")

    with pytest.raises(PeerError, match=complaint):
        wire.decode(codec.pack({**whole, **change}))


@given(ANY_MESSAGE, st.data())
def test_half_a_message_is_refused(message: wire.ToWorker | wire.FromWorker, data: st.DataObject) -> None:
    whole = wire.encode(message)
    half = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(PeerError):
        wire.decode(half)


@given(ANY_MESSAGE, st.binary(min_size=1, max_size=8))
def test_a_message_with_something_behind_it_is_refused(
    message: wire.ToWorker | wire.FromWorker, rest: bytes
) -> None:
    with pytest.raises(PeerError):
        wire.decode(wire.encode(message) + rest)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = wire.decode(data)
    except PeerError:
        return

    assert type(message) in wire._KINDS.values()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["kind"]))
def test_a_message_with_other_fields_is_refused(example: dict[str, Any]) -> None:
    without = [{key: value for key, value in example.items() if key != missing} for missing in example]

    for document in [
        *without,
        {**example, "novelty": 1},
        {**example, "kind": "novelty"},
        {**example, "kind": 1},
    ]:
        with pytest.raises(PeerError):
            wire.decode(codec.pack(document))


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[31mred", "nul\0"])
def test_a_reason_that_would_spoil_the_log_is_refused(reason: str) -> None:
    with pytest.raises(PeerError, match="expected printable text"):
        wire.decode(codec.pack({"kind": "failed", "reason": reason}))


WRONG: list[object] = [None, True, 1.5, "x", b"x", [], ["x"], [[1]], {}, {"x": 1}, -2, 1 << 63]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["kind"]))
def test_a_field_of_another_type_is_refused_or_has_the_type_that_was_promised(
    example: dict[str, Any],
) -> None:
    """The supervisor distrusts its workers: what gets past here is used as it is."""
    good = wire.decode(codec.pack(example))
    for name in example.keys() - {"kind"}:
        for value in WRONG:
            try:
                message = wire.decode(codec.pack({**example, name: value}))
            except PeerError:
                continue
            assert is_alike(getattr(message, name), getattr(good, name)), (name, value)


def is_alike(value: object, good: object) -> bool:
    """Say whether a value has the same type, all the way down."""
    if type(value) is not type(good):
        return False
    if isinstance(value, list) and isinstance(good, list):
        return all(type(item) is type(good[0]) for item in value)
    if isinstance(value, bytes) and isinstance(good, bytes):
        return len(value) == len(good)
    if isinstance(value, dict) and isinstance(good, dict):
        return all(type(item) is str for item in value.values())
    return True

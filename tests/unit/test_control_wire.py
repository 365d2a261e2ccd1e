from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import EndpointError, PeerError, UsageError
from mcr.model.endpoint import parse_endpoint
from mcr.model.policy import TtlPolicy
from mcr.model.rule import Origin, Output, Rule
from mcr.wire.codec import pack
from mcr.wire.control import (
    MAX_REQUEST_BYTES,
    METHODS,
    PROTOCOL,
    Answer,
    AnswerDecoder,
    Failure,
    Hello,
    Request,
    Success,
    check_params,
    decode_hello,
    decode_request,
    encode_answer,
    encode_hello,
    encode_request,
)
from mcr.wire.documents import StatsDocument, rule_from_params, rule_to_params
from mcr.wire.framing import MAX_PAYLOAD_BYTES, FrameDecoder

ADD: dict[str, object] = {"from": "239.1.1.1%eth0:5001", "to": [{"to": "239.2.2.2%eth1:6000"}]}


def payload(frame: bytes) -> bytes:
    """Take a frame apart."""
    (result,) = FrameDecoder().feed(frame)
    return result


def decode_answer(frames: list[bytes]) -> Answer | None:
    decoder = AnswerDecoder()
    *parts, last = [decoder.feed(payload(frame)) for frame in frames]
    assert not any(parts)
    return last


def test_hello_round_trips() -> None:
    assert decode_hello(payload(encode_hello(Hello(PROTOCOL, "0.1")))) == Hello(PROTOCOL, "0.1")


def test_hello_may_say_more_than_we_know() -> None:
    assert decode_hello(pack({"hello": {"protocol": PROTOCOL, "version": "9", "new": 1}})) == Hello(
        PROTOCOL, "9"
    )


def test_another_protocol_is_refused_with_both_numbers() -> None:
    with pytest.raises(PeerError, match=r"got control protocol 7 \(version 3\.1\), expected 1"):
        decode_hello(pack({"hello": {"protocol": 7, "version": "3.1"}}))


def test_an_error_may_stand_for_hello() -> None:
    failure = Failure(None, "too_many_clients", "got 64", {})

    assert decode_hello(payload(*encode_answer(failure))) == failure


def test_a_request_round_trips() -> None:
    request = Request(3, "rule.add", ADD)

    assert decode_request(payload(encode_request(request))) == request


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"id": 1, "method": "ping"},
        {"id": "1", "method": "ping", "params": {}},
        {"id": 1, "method": None, "params": {}},
        {"id": 1, "method": "ping", "params": []},
        {"id": 1, "method": "ping", "params": {}, "more": 1},
    ],
)
def test_what_is_no_request_is_refused(frame: dict[str, object]) -> None:
    with pytest.raises(PeerError, match=r"expected id \(number\), method \(text\) and params \(map\)"):
        decode_request(pack(frame))


def test_too_long_a_request_is_not_sent() -> None:
    with pytest.raises(UsageError, match="got a request of"):
        encode_request(Request(1, "rule.del", {"rule": "x" * MAX_REQUEST_BYTES}))


@pytest.mark.parametrize(
    "answer",
    [Success(1, None), Success(2, {"a": [1]}), Failure(3, "x", "y", {"z": 1}), Failure(None, "x", "y", {})],
)
def test_an_answer_round_trips(answer: Answer) -> None:
    assert decode_answer(list(encode_answer(answer))) == answer


@pytest.mark.parametrize("size", [MAX_PAYLOAD_BYTES - 100, MAX_PAYLOAD_BYTES, 3 * MAX_PAYLOAD_BYTES])
def test_an_answer_of_any_length_round_trips(size: int) -> None:
    answer = Success(2**63, ["x" * size])

    frames = list(encode_answer(answer))

    assert all(len(frame) <= MAX_PAYLOAD_BYTES + 4 for frame in frames)
    assert decode_answer(frames) == answer


def test_an_answer_without_end_is_refused() -> None:
    decoder = AnswerDecoder()
    part = pack({"id": 1, "part": bytes(MAX_PAYLOAD_BYTES), "left": 1})

    for _ in range(64):
        assert decoder.feed(part) is None

    with pytest.raises(PeerError, match="in one answer"):
        decoder.feed(part)


@pytest.mark.parametrize(
    "frame", [{}, {"id": 1}, {"ok": 1}, {"id": 1, "error": "x"}, {"id": 1, "error": {"code": "x"}}]
)
def test_what_is_no_answer_is_refused(frame: dict[str, object]) -> None:
    with pytest.raises(PeerError, match="expected id with ok or error"):
        AnswerDecoder().feed(pack(frame))


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ping", {}),
        ("stats", {}),
        ("stats", {"latency": True}),
        ("trace.on", {"rule": "x", "sample": 1000, "seconds": 3600}),
        ("trace.show", {"after": {"0": 0, "1": 77}}),
        ("rule.add", {**ADD, "to": [{"to": "x", "dscp": "ef", "source": "keep", "rate": "1pps"}]}),
        ("stats", {"rule": "x"}),
        ("rule.show", {"rule": "x"}),
        ("rule.add", ADD),
        ("rule.add", {**ADD, "to": []}),  # how many there must be is the model's business
        ("rule.add", {**ADD, "name": "x", "sources": ["10.0.0.1"], "allow_link_local": True}),
        ("rule.add", {**ADD, "to": [{"to": "x", "ttl": 255}, {"to": "y", "ttl": "keep"}]}),
    ],
)
def test_good_parameters_pass(method: str, params: dict[str, object]) -> None:
    check_params(method, params)


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("ping", {"a": 1}, "ping.a: got an unknown key, expected none"),
        ("rule.del", {}, "rule.del.rule: got nothing, expected it to be given"),
        ("rule.del", {"rule": 5}, "rule.del.rule: got 5, expected the name or id of a rule"),
        ("rule.del", {"rule": ""}, "rule.del.rule: got '', expected the name or id of a rule"),
        ("rule.add", {**ADD, "to": "x"}, "rule.add.to: got 'x', expected a list of at most 256"),
        (
            "rule.add",
            {**ADD, "to": ["x"]},
            "rule.add.to[0]: got 'x', expected a map with to, ttl, dscp, source, rate",
        ),
        (
            "rule.add",
            {**ADD, "to": [{"to": "x", "ttl": 0}]},
            "rule.add.to[0].ttl: got ttl '0', expected auto, keep, decrement or 1 to 255",
        ),
        (
            "rule.add",
            {**ADD, "to": [{"to": "x", "ttl": True}]},
            "rule.add.to[0].ttl: got true, expected a word or a number",
        ),
        (
            "rule.add",
            {**ADD, "to": [{"to": "x", "rate": "fast"}]},
            (
                "rule.add.to[0].rate: got rate 'fast', expected a number with pps or bit behind it, "
                "such as 5000pps, 10kpps, 20Mbit, up to 1 T"
            ),
        ),
        ("stats", {"latency": 1}, "stats.latency: got 1, expected true or false"),
        ("trace.on", {}, "trace.on.rule: got nothing, expected it to be given"),
        (
            "trace.on",
            {"rule": "x", "sample": 0},
            "trace.on.sample: got 0, expected 1 to 1000000000",
        ),
        (
            "trace.on",
            {"rule": "x", "seconds": 3601},
            "trace.on.seconds: got 3601, expected 1 to 3600",
        ),
        (
            "trace.show",
            {"after": {"0": -1}},
            "trace.show.after: got a map, expected a map from workers to numbers",
        ),
        ("unmatched.list", {"x": 1}, "unmatched.list.x: got an unknown key, expected none"),
        ("rule.add", {**ADD, "sources": [None]}, "rule.add.sources[0]: got null, expected an address"),
        (
            "rule.add",
            {**ADD, "allow_link_local": 1},
            "rule.add.allow_link_local: got 1, expected true or false",
        ),
        (
            "rule.add",
            {"to": [{}], "x": {}},
            (
                "rule.add.to[0].to: got nothing, expected it to be given; "
                "rule.add.x: got an unknown key, expected from, to, name, sources, allow_link_local; "
                "rule.add.from: got nothing, expected it to be given"
            ),
        ),
    ],
)
def test_bad_parameters_are_all_named(method: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        check_params(method, params)

    assert str(error.value) == message


def test_every_method_is_in_the_protocols_document() -> None:
    document = (Path(__file__).parents[2] / "developer_docs" / "protocols.md").read_text()

    assert [method for method in METHODS if f"| `{method}` |" not in document] == []


def test_only_methods_that_change_something_say_so() -> None:
    assert {name for name, method in METHODS.items() if method.changes} == {
        "rule.add",
        "rule.del",
        "trace.on",
        "trace.off",
    }


@given(
    st.lists(st.sampled_from([*TtlPolicy, 1, 255]), min_size=1, max_size=5),
    st.sampled_from(["", "camera-1"]),
    st.sampled_from(["239.1.1.1%eth0:5001", "10.0.0.9@232.1.1.1%a,b:1", "[ff02::1%eth0]:1"]),
)
def test_a_rule_survives_its_parameters(ttls: list[TtlPolicy | int], name: str, place: str) -> None:
    outputs = tuple(Output(parse_endpoint(f"192.0.2.1:{port}"), ttl) for port, ttl in enumerate(ttls, 1))
    rule = Rule(parse_endpoint(place), outputs, name, Origin.CONTROL, allow_link_local=True)
    params = rule_to_params(rule)

    check_params("rule.add", params)
    assert rule_from_params(params) == rule


def test_sources_may_stand_on_their_own() -> None:
    rule = rule_from_params({**ADD, "from": "232.1.1.1%eth0:1", "sources": ["10.0.0.2", "10.0.0.1"]})

    assert str(rule.input) == "10.0.0.1,10.0.0.2@232.1.1.1%eth0:1"


def test_a_malformed_endpoint_in_parameters_is_the_models_error() -> None:
    with pytest.raises(EndpointError, match="'nonsense': got no port"):
        rule_from_params({**ADD, "from": "nonsense"})


def test_the_statistics_have_the_keys_that_users_were_promised() -> None:
    assert set(get_type_hints(StatsDocument)) >= {"interfaces", "rules"}

"""
The control protocol: what mcrctl and the daemon say to each other in `framing` frames of `codec` maps.

Each side begins with ``{hello: {protocol, version}}``. Then the client sends ``{id, method, params}`` and
gets, in any order, ``{id, ok}`` or ``{id, error: {code, message, details}}``. An error with ``id: null``
concerns the whole connection, which ends with it. An answer too long for a frame arrives as frames
``{id, part, left}``, whose parts together are that answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mcr.errors import PeerError, UsageError
from mcr.model.endpoint import MAX_SOURCES
from mcr.model.policy import POLICIES
from mcr.model.rule import MAX_OUTPUTS_PER_RULE
from mcr.wire.codec import pack, unpack
from mcr.wire.forms import Flag, Form, ListOf, Number, Numbers, Policy, Record, Text
from mcr.wire.framing import MAX_PAYLOAD_BYTES, encode_frame

PROTOCOL = 1
MAX_REQUEST_BYTES = (
    128 << 10
)  # a rule with all outputs and sources has 25 KB; to decode this takes 30 ms at worst
MAX_ANSWER_BYTES = 64 << 20  # all rules and outputs that can exist, several times

_PART_BYTES = MAX_PAYLOAD_BYTES - 64  # leaves room for the keys around a part


@dataclass(frozen=True, slots=True)
class Method:
    """
    One thing that a client can ask for.

    Attributes:
        summary: what it does and answers, for the documents.
        params: the form of its parameters.
        changes: it changes what the daemon does, so not everybody may ask for it.
    """

    summary: str
    params: Record
    changes: bool = False


_RULE_KEY: Mapping[str, Form] = {"rule": Text("the name or id of a rule")}
_OUTPUT = Record({"to": Text("an endpoint")}, {name: Policy(name) for name in POLICIES})
_RULE = Record(
    {"from": Text("an endpoint"), "to": ListOf(_OUTPUT, MAX_OUTPUTS_PER_RULE)},
    {
        "name": Text("a name"),
        "sources": ListOf(Text("an address"), MAX_SOURCES),
        "allow_link_local": Flag(),
    },
)
_NOTHING = Record({}, {})

METHODS: Mapping[str, Method] = {
    "ping": Method("answers an empty map", _NOTHING),
    "version": Method("answers the daemon's version and protocol", _NOTHING),
    "rule.add": Method("adds a rule and answers its document", _RULE, changes=True),
    "rule.del": Method("removes a rule and answers its id and name", Record(_RULE_KEY, {}), changes=True),
    "rule.list": Method("answers the documents of all rules", _NOTHING),
    "rule.show": Method("answers the document of one rule", Record(_RULE_KEY, {})),
    "stats": Method(
        "answers the counters of all rules or one, and of all interfaces; on request with latencies",
        Record({}, {**_RULE_KEY, "latency": Flag()}),
    ),
    "trace.on": Method(
        "traces every nth datagram of a rule for some seconds",
        Record(_RULE_KEY, {"sample": Number(1, 10**9), "seconds": Number(1, 3600)}),
        changes=True,
    ),
    "trace.off": Method("ends tracing", _NOTHING, changes=True),
    "trace.show": Method(
        "answers what was traced, behind the given number of each worker", Record({}, {"after": Numbers()})
    ),
    "unmatched.list": Method("answers what arrives as UDP multicast and matches no rule", _NOTHING),
    "worker.list": Method("answers the documents of all workers", _NOTHING),
    "interface.list": Method("answers the documents of all input interfaces", _NOTHING),
}


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of each side."""

    protocol: int
    version: str


@dataclass(frozen=True, slots=True)
class Request:
    """A client wants something; *id* is its choice and comes back with the answer."""

    id: int
    method: str
    params: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Success:
    """The daemon did it."""

    id: int
    value: object


@dataclass(frozen=True, slots=True)
class Failure:
    """The daemon did not do it; without *id* it ends the connection."""

    id: int | None
    code: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict)


Answer = Success | Failure


def check_params(method: str, params: Mapping[str, object]) -> None:
    """
    Refuse parameters that are not of the form of *method*, a key of `METHODS`.

    Raises:
        UsageError: naming everything that is wrong.
    """
    problems = list(METHODS[method].params.problems(dict(params), method))
    if problems:
        raise UsageError("; ".join(problems))


def encode_hello(hello: Hello) -> bytes:
    """Give the frame."""
    return encode_frame(pack({"hello": {"protocol": hello.protocol, "version": hello.version}}))


def decode_hello(payload: bytes) -> Hello | Failure:
    """
    Read the first frame of a peer, which may be an error instead.

    Raises:
        PeerError: it is neither, or speaks another protocol; then both numbers are named.
    """
    frame = unpack(payload)
    if "error" in frame:
        return _read_failure(frame)
    match frame:
        case {"hello": {"protocol": int(protocol), "version": str(version)}}:
            if protocol != PROTOCOL:
                raise PeerError(f"got control protocol {protocol} (version {version}), expected {PROTOCOL}")
            return Hello(protocol, version)
    raise PeerError(f"got a first frame with {_keys(frame)}, expected hello with protocol and version")


def encode_request(request: Request) -> bytes:
    """
    Give the frame.

    Raises:
        UsageError: the parameters have no encoding, or are more than `MAX_REQUEST_BYTES`.
    """
    payload = pack({"id": request.id, "method": request.method, "params": dict(request.params)})
    if len(payload) > MAX_REQUEST_BYTES:
        raise UsageError(f"got a request of {len(payload)} bytes, expected at most {MAX_REQUEST_BYTES}")
    return encode_frame(payload)


def decode_request(payload: bytes) -> Request:
    """
    Read a request; whether its method exists and its parameters fit is not looked at.

    Raises:
        PeerError: it is none.
    """
    frame = unpack(payload)
    match frame:
        case {"id": int(number), "method": str(method), "params": dict(params)} if len(frame) == 3:
            return Request(number, method, params)
    raise PeerError(f"got a frame with {_keys(frame)}, expected id (number), method (text) and params (map)")


def encode_answer(answer: Answer) -> Iterator[bytes]:
    """
    Give the frames, in the order in which they must be sent.

    Raises:
        UsageError: the value has no encoding.
    """
    if isinstance(answer, Success):
        payload = pack({"id": answer.id, "ok": answer.value})
    else:
        error = {"code": answer.code, "message": answer.message, "details": dict(answer.details)}
        payload = pack({"id": answer.id, "error": error})
    if len(payload) <= MAX_PAYLOAD_BYTES:
        yield encode_frame(payload)
        return
    begins = range(0, len(payload), _PART_BYTES)
    for left, begin in zip(reversed(range(len(begins))), begins, strict=True):
        part = payload[begin : begin + _PART_BYTES]
        yield encode_frame(pack({"id": answer.id, "part": part, "left": left}))


class AnswerDecoder:
    """Put the frames of one connection together to answers; only one answer at a time may come in parts."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def feed(self, payload: bytes) -> Answer | None:
        """
        Take the payload of the next frame and give the answer that it completes.

        Raises:
            PeerError: it is none, or exceeds `MAX_ANSWER_BYTES`.
        """
        frame = unpack(payload)
        match frame:
            case {"part": bytes(part), "left": int(left)}:
                self._parts += part
                if len(self._parts) > MAX_ANSWER_BYTES:
                    raise PeerError(
                        f"got more than {MAX_ANSWER_BYTES} bytes in one answer, expected at most that"
                    )
                if left > 0:
                    return None
                frame = unpack(bytes(self._parts))
                self._parts.clear()
        match frame:
            case {"id": int(number), "ok": value}:
                return Success(number, value)
        return _read_failure(frame)


def _read_failure(frame: Mapping[str, object]) -> Failure:
    match frame:
        case {
            "id": int() | None as number,
            "error": {"code": str(code), "message": str(message), "details": dict(details)},
        }:
            return Failure(number, code, message, details)
    raise PeerError(f"got a frame with {_keys(frame)}, expected id with ok or error")


def _keys(frame: Mapping[str, object]) -> str:
    return ", ".join(repr(key[:20]) for key in list(frame)[:8]) or "no key"

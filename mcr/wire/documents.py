"""
The forms in which the daemon describes things, and a rule as a request describes it.

They are what ``mcrctl --json`` prints. A reader ignores keys that it does not know.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NotRequired, TypedDict, cast

from mcr.model.endpoint import parse_address, parse_endpoint
from mcr.model.mapping import parse_target
from mcr.model.policy import POLICIES, policy_text
from mcr.model.rule import Origin, Output, Rule


class OutputDocument(TypedDict):
    """One output of a rule; *path* says whether the IP stack sends it, or the link gets whole packets."""

    to: str
    ttl: str | int
    dscp: str | int
    source: str
    rate: str | None
    path: Literal["link", "stack"]
    state: Literal["active", "pending", "failing"]
    reason: str | None


RuleDocument = TypedDict(
    "RuleDocument",
    {
        "id": str,
        "name": str,
        "from": str,
        "origin": str,
        "state": Literal["active", "pending"],
        "reason": str | None,
        "workers": list[int],
        "allow_link_local": bool,
        "outputs": list[OutputDocument],
    },
)


class RemovedDocument(TypedDict):
    """What ``rule.del`` answers."""

    id: str
    name: str


class InterfaceStats(TypedDict):
    """Counts of frames on one input interface since the daemon started."""

    name: str
    received: int
    matched: int
    ignored: dict[str, int]
    kernel_dropped: int


class OutputStats(TypedDict):
    """Counts of one output's datagrams, and of their payload bytes, since the rule was added."""

    to: str
    sent: int
    bytes: int
    not_sent: dict[str, int]


RuleStats = TypedDict(
    "RuleStats",
    {
        "id": str,
        "name": str,
        "from": str,
        "state": Literal["active", "pending"],
        "reason": str | None,
        "matched": int,
        "bytes": int,
        "loops": int,
        "outputs": list[OutputStats],
        "latency_us": NotRequired["LatencyDocument"],
    },
)


class LatencyDocument(TypedDict):
    """Times from the kernel's receipt of datagrams to their send call, in microseconds, within 25 %."""

    count: int
    p50: float | None
    p99: float | None
    p999: float | None
    max: float | None


class TracedDocument(TypedDict):
    """
    One output of one traced datagram.

    *time* is seconds since 1970, *number* counts each worker's entries from 1, *verdict* is ``sent`` or the
    reason why not, *to* is None if the rule has gone.
    """

    worker: int
    number: int
    time: float
    source: str
    ttl: int
    bytes: int
    to: str | None
    verdict: str
    delay_us: float


class TraceDocument(TypedDict):
    """What was traced of which rule, and whether tracing goes on."""

    rule: str | None
    active: bool
    entries: list[TracedDocument]


class UnmatchedDocument(TypedDict):
    """
    UDP multicast that arrives and matches no rule.

    *packets* are those that were looked at, at most 2,560 a second and interface; *last_seen* is seconds
    since 1970.
    """

    interface: str
    group: str
    port: int
    source: str
    packets: int
    last_seen: float


class TracingDocument(TypedDict):
    """What ``trace.on`` started: every nth datagram of a rule, for some seconds."""

    rule: str
    sample: int
    seconds: int


class StatsDocument(TypedDict):
    """
    All counters; *consistent* says that the conservation laws hold in this reading.

    *reassembly_failed* counts the kernel's attempts to put fragments together that failed on this host since
    the daemon started: two for most datagrams of which a fragment is lost.
    """

    consistent: bool
    reassembly_failed: int
    interfaces: list[InterfaceStats]
    rules: list[RuleStats]


class WorkerDocument(TypedDict):
    """One worker; digests are 16 hexadecimal digits, or None as long as there is none."""

    worker: int
    pid: int | None
    cpu: int
    realtime: bool | None
    state: str
    since_s: float
    restarts: int
    rules: int
    expected_digest: str | None
    installed_digest: str | None
    generation: int
    resident_bytes: int | None
    ring_bytes: int
    coalesce_us: int | None
    cpu_seconds: float | None


class RingDocument(TypedDict):
    """One worker's receive ring on an interface."""

    frames: int
    frame_bytes: int
    bytes: int


class BypassDocument(TypedDict):
    """Whether the host's IP stack is spared what only mcr wants from an interface, and if not, why."""

    on: bool
    reason: str


class InterfaceDocument(TypedDict):
    """One interface that a rule names; *index* and *mtu* are None while it does not exist."""

    name: str
    index: int | None
    mtu: int | None
    state: str
    workers: list[int]
    steering: Literal["cpu", "hash"]
    reason: str
    receive_queues: int
    rules: int
    memberships: list[str]
    ring: RingDocument
    bypass: BypassDocument


class VersionDocument(TypedDict):
    """What the daemon is, and which protocol it speaks."""

    version: str
    protocol: int


def rule_to_params(rule: Rule) -> dict[str, object]:
    """Give the parameters of the ``rule.add`` that makes *rule*; its origin is not among them."""
    params: dict[str, object] = {
        "from": str(rule.input),
        "to": [output_to_params(output) for output in rule.outputs],
    }
    if rule.name != rule.id:
        params["name"] = rule.name
    if rule.allow_link_local:
        params["allow_link_local"] = True
    return params


def rule_from_params(params: Mapping[str, object], origin: Origin = Origin.CONTROL) -> Rule:
    """
    Make the rule that *params* of ``rule.add`` ask for; their form has been checked.

    Raises:
        UsageError: an endpoint is malformed, or the parts do not make a rule.
    """
    given = parse_endpoint(cast("str", params["from"]))
    more = [parse_address(text) for text in cast("list[str]", params.get("sources", []))]
    outputs = cast("list[dict[str, object]]", params["to"])
    return Rule(
        input=replace(given, sources=(*given.sources, *more)),
        outputs=tuple(map(output_from_params, outputs)),
        name=cast("str", params.get("name", "")),
        origin=origin,
        allow_link_local=cast("bool", params.get("allow_link_local", False)),
    )


def output_to_params(output: Output) -> dict[str, object]:
    """Give an output's endpoint and policies."""
    policies = {name: policy_text(value) for name, value in output.policies().items()}
    return {"to": str(output.to), **policies}


def output_from_params(params: Mapping[str, object]) -> Output:
    """
    Read an output whose form has been checked.

    Raises:
        UsageError: a part is malformed, or the parts do not fit.
    """
    policies = {name: read(str(params[name])) for name, read in POLICIES.items() if name in params}
    return Output(parse_target(str(params["to"])), **policies)  # type: ignore[arg-type]  # each by its own word

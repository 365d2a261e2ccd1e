"""The scenarios: what is measured, who takes part, and what is demanded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.bench.job import FULL_SPEED, Job, Stream, as_many_as_fit
from tests.bench.relays import Settings
from tests.bench.targets import Target, no_loss

ETHERNET_MTU = 1500
JUMBO_MTU = 9216
IN_SMALL_BURSTS = 8
CROWD = Stream("500k", 1000, flows=100, together=60)


@dataclass(frozen=True, slots=True)
class Contender:
    """
    Who takes part: a relay with its settings, and the traffic that it is given.

    Attributes:
        settings: of mcr only, keys of its configuration file; with ``to.`` in front, of each output.
    """

    name: str
    relay: str
    job: Job
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One comparison.

    Attributes:
        columns: the figures that its table shows, keys of `METRICS`.
        charts: the figures that are drawn.
        is_quiet: nothing is sent; the daemon alone is looked at.
        repeats: how many times the rounds of the others; what differs little needs more.
    """

    name: str
    question: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...]
    columns: tuple[str, ...]
    charts: tuple[str, ...]
    hops: int = 1
    mtu: int = ETHERNET_MTU
    is_quiet: bool = False
    repeats: int = 1


SPEED = ("offered_pps", "relayed_pps", "lost", "relay_ns", "busy_ns", "p50_us")
LATENCY = ("relayed_pps", "lost", "p50_us", "p99_us", "relay_ns", "busy_ns")
PEERS = ("mcr", "smcroute", "socat", "tc mirred", "nftables")


def _all(job: Job, *relays: str) -> tuple[Contender, ...]:
    return tuple(Contender(relay, relay, job) for relay in relays)


def _reaches(rate_pps: int, subject: str = "mcr") -> Target:
    """Demand that the sender reaches its rate, but for the edges of the measurement."""
    return Target(subject, "offered_pps", least=0.98 * rate_pps)


def _ratios(metric: str, **least: float) -> tuple[Target, ...]:
    return tuple(
        Target("mcr", metric, least=ratio, against=peer.replace("_", " ")) for peer, ratio in least.items()
    )


def _at_full_speed(payload_bytes: int) -> Job:
    return Job(FULL_SPEED, payload_bytes, together=as_many_as_fit(payload_bytes))


ONE_BY_ONE = "mcr, one by one"  # with finished checksums, which nobody has checked before


def _one_flow(payload_bytes: int, mtu: int = ETHERNET_MTU, most_ns: float | None = None) -> Scenario:
    return Scenario(
        f"one-flow-{payload_bytes}",
        f"How fast is one flow of {payload_bytes:,}-byte datagrams relayed, the sender at full speed?",
        (
            *_all(_at_full_speed(payload_bytes), *PEERS),
            Contender(ONE_BY_ONE, "mcr", Job(FULL_SPEED, payload_bytes)),
        ),
        (
            *no_loss("mcr"),
            *_ratios("relayed_pps", smcroute=1.8, socat=4.0, tc_mirred=1.0),
            *no_loss(ONE_BY_ONE),
            *(Target(name, "relay_ns", most=most_ns) for name in ("mcr", ONE_BY_ONE) if most_ns),
        ),
        SPEED,
        ("relayed_pps", "busy_ns"),
        mtu=mtu,
    )


def _fan_out(copies: int, rate_kpps: int, payload_bytes: int) -> Scenario:
    return Scenario(
        f"fan-out-{copies}",
        f"Are {rate_kpps} kpps of {payload_bytes:,}-byte datagrams copied to {copies} groups without loss?",
        _all(Job(f"{rate_kpps}k", payload_bytes, together=IN_SMALL_BURSTS, copies=copies), "mcr", "nftables"),
        (*no_loss("mcr"), _reaches(1000 * rate_kpps)),
        SPEED,
        ("relayed_pps", "busy_ns"),
    )


def _latency(rate_kpps: int) -> Scenario:
    return Scenario(
        f"latency-{rate_kpps}k",
        f"How long is a 1,000-byte datagram under way at {rate_kpps} kpps?",
        _all(Job(f"{rate_kpps}k", 1000), "mcr", "socat", "smcroute"),
        (
            *no_loss("mcr"),
            _reaches(1000 * rate_kpps),
            Target("mcr", "p50_us", most=1.0, against="socat"),
            Target("mcr", "p99_us", most=1.0, against="socat"),
        ),
        LATENCY,
        ("p50_us", "p99_us"),
        repeats=3,
    )


_ALL_SCENARIOS = (
    _one_flow(1400, most_ns=500),
    _one_flow(64),
    _one_flow(9000, JUMBO_MTU),
    Scenario(
        "three-relays",
        "Do 250 kpps of 1,400-byte datagrams pass three relays in a row without loss?",
        _all(Job("250k", 1400, together=IN_SMALL_BURSTS), "mcr"),
        (*no_loss("mcr"), _reaches(250_000)),
        SPEED,
        ("p50_us", "p99_us"),
        hops=3,
    ),
    _fan_out(50, 20, 1000),
    _fan_out(3, 300, 1000),
    Scenario(
        "thousand-rules",
        "What do 1,000 rules cost, against one, at 200 kpps of 1,000-byte datagrams over all of them?",
        (
            Contender("1,000 rules", "mcr", Job("200k", 1000, flows=1000)),
            Contender("one rule", "mcr", Job("200k", 1000)),
            # As with 1,000 rules, each call sends one datagram: what is left is the cost of the rules.
            Contender("same batch", "mcr", Job("200k", 1000), {"batch": 1}),
        ),
        (
            *no_loss("1,000 rules"),
            _reaches(200_000, "1,000 rules"),
            Target("1,000 rules", "least_share", least=0.35),
            Target("1,000 rules", "relay_ns", most=1.5, against="same batch"),
        ),
        (*SPEED, "batch", "least_share"),
        ("relay_ns", "busy_ns"),
    ),
    Scenario(
        "source-keep",
        "How fast is one flow relayed with its original source address, the sender at full speed?",
        (
            Contender("mcr", "mcr", _at_full_speed(1400), {"to.source": "keep"}),
            *_all(_at_full_speed(1400), "smcroute"),
        ),
        (*no_loss("mcr"), *_ratios("relayed_pps", smcroute=1.3)),
        SPEED,
        ("relayed_pps", "busy_ns"),
    ),
    _latency(1),
    _latency(10),
    Scenario(
        "latency-200k",
        "How long is a 1,000-byte datagram under way at 200 kpps?",
        _all(Job("200k", 1000), "mcr", "smcroute"),
        (*no_loss("mcr"), _reaches(200_000), Target("mcr", "p50_us", most=300)),
        LATENCY,
        ("p50_us", "p99_us"),
    ),
    Scenario(
        "needle",
        "What do 500 kpps without a rule cost a worker that relays 5 kpps of 1,000-byte datagrams?",
        (
            Contender("among 500 kpps", "mcr", Job("5k", 1000, crowd=CROWD)),
            Contender("alone", "mcr", Job("5k", 1000)),
        ),
        (
            *no_loss("among 500 kpps"),
            _reaches(5_000, "among 500 kpps"),
            Target("among 500 kpps", "crowd_pps", least=0.98 * 500_000),
            Target("among 500 kpps", "relay_percent", most=1.1, against="alone"),
        ),
        ("crowd_pps", "offered_pps", "relayed_pps", "lost", "relay_percent", "relay_ns", "p50_us", "p99_us"),
        ("relay_percent", "p99_us"),
    ),
    Scenario(
        "insight",
        "What does the table of what matches no rule cost one flow, the sender at full speed, and what does"
        " the bypass of the IP stack bring?",
        (
            Contender("as it comes", "mcr", _at_full_speed(1400)),
            Contender("not watched", "mcr", _at_full_speed(1400), {"watch_unmatched": False}),
            Contender("not bypassed", "mcr", _at_full_speed(1400), {"bypass_stack": False}),
        ),
        (
            *no_loss("as it comes"),
            Target("as it comes", "relayed_pps", least=0.95, against="not watched"),
            Target("as it comes", "relay_ns", most=1.05, against="not watched"),
        ),
        SPEED,
        ("relayed_pps", "relay_ns"),
        repeats=3,
    ),
    Scenario(
        "idle",
        "What does a daemon without traffic take?",
        (
            Contender("1 rule", "mcr", Job("0", 1000)),
            Contender("1,000 rules", "mcr", Job("0", 1000, flows=1000)),
        ),
        (
            Target("1 rule", "daemon_percent", most=0.3),
            Target("1,000 rules", "daemon_percent", most=0.3),
            Target("1 rule", "resident_mib", most=60),
            Target("1,000 rules", "resident_mib", most=60),
        ),
        ("daemon_percent", "resident_mib", "shown_resident_mib", "ring_mib", "shown_ring_mib"),
        ("daemon_percent", "resident_mib"),
        is_quiet=True,
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL_SCENARIOS}

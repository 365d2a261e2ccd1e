"""
A plain model of what mcrd must do: passing rules, the datagrams sent to them, and what must arrive.

It is written from user_docs/configuration.md alone, and shares no code with what it judges.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b
from ipaddress import ip_address

BLOCKS = 8
VERSIONS = (4, 6)
SOURCES = 4
SINKS = 2
FIRST_INPUT_PORT = 5001
PORT_OFFSET = 1000
SERIAL_BYTES = 8
_NOISE = bytes(blake2b(number.to_bytes(4)).digest()[0] for number in range(9300))

# By version: the first group of a block, of the fixed ones, of the prefix that others are mapped to.
_BLOCK = {4: "239.20.{}.0", 6: "ff35:20:{}::"}
_FIXED = {4: "239.30.0.0", 6: "ff35:30::"}
_PREFIX = {4: ("239.31.0.0", 24), 6: ("ff35:31::", 120)}
# The senders' addresses, and those of the relay in front of each sink (tests/support/lab.py numbers cables).
_SENDER = {4: "10.4.0.11", 6: "fd00:4::11"}
_RELAY = {4: ("10.2.0.1", "10.3.0.1"), 6: ("fd00:2::1", "fd00:3::1")}


@dataclass(frozen=True, slots=True)
class Level:
    """How much of a block a rule is for: so many groups and ports from the first on, powers of two."""

    groups: int
    ports: int


# The number is the rank: of two that fit, the higher one is more specific.
LEVELS: Mapping[int, Level] = {0: Level(16, 8), 1: Level(4, 4), 2: Level(1, 1)}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule listens; no two rules have the same."""

    version: int
    block: int
    level: int


@dataclass(frozen=True, slots=True)
class Datagram:
    """What one sender sends: *group* and *port* count from the first of the block."""

    version: int
    block: int
    group: int
    port: int
    source: int
    ttl: int
    dscp: int
    size: int

    @property
    def to(self) -> tuple[str, int]:
        """Give the address that it is sent to."""
        return group_of(self.version, self.block, self.group), FIRST_INPUT_PORT + self.port


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram as a sink sees it."""

    sink: int
    group: str
    port: int
    source: str
    ttl: int
    dscp: int
    payload: bytes


class Form(Enum):
    """How an output says where to."""

    FIXED = auto()
    TRANSLATED = auto()
    KEPT = auto()
    PREFIX = auto()


@dataclass(frozen=True, slots=True)
class PassingOutput:
    """One output; *number* and *port* are those of fixed destinations."""

    form: Form
    version: int
    sink: int
    number: int
    port: int
    ttl: str | int = "auto"
    dscp: str | int = "keep"
    keeps_source: bool = False
    rate: str | None = None

    def target(self) -> str:
        """Write where to, as mcr reads it."""
        interface = f"r{self.sink + 1}"
        if self.form is Form.KEPT:
            return f"keep%{interface}:+{PORT_OFFSET}"
        if self.form is Form.PREFIX:
            base, length = _PREFIX[self.version]
            return f"{_bracketed(f'{base}/{length}', interface)}:{self.port}"
        return f"{_bracketed(_shifted(_FIXED[self.version], self.number), interface)}:{self.port}"

    def params(self) -> dict[str, object]:
        """Write the output for ``rule.add``."""
        source = "keep" if self.keeps_source else "interface"
        params: dict[str, object] = {
            "to": self.target(),
            "ttl": self.ttl,
            "dscp": self.dscp,
            "source": source,
        }
        return params if self.rate is None else {**params, "rate": self.rate}

    def arrival(self, datagram: Datagram, payload: bytes) -> Arrival | None:
        """Say what of *datagram* must arrive, None if nothing."""
        ttl = _leaving_ttl(self.ttl, datagram.ttl)
        if ttl is None:
            return None
        group, port = self._destination(datagram)
        source = sender_address(datagram.version, datagram.source)
        if not self.keeps_source:
            source = _RELAY[self.version][self.sink]
        dscp = datagram.dscp if self.dscp == "keep" else int(self.dscp)
        return Arrival(self.sink, group, port, source, ttl, dscp, digest(payload))

    def _destination(self, datagram: Datagram) -> tuple[str, int]:
        if self.form is Form.KEPT:
            group, port = datagram.to
            return group, port + PORT_OFFSET
        if self.form is Form.PREFIX:
            return _shifted(_PREFIX[self.version][0], datagram.group), self.port
        return _shifted(_FIXED[self.version], self.number), self.port


@dataclass(frozen=True, slots=True)
class PassingRule:
    """A rule that comes and goes; *sources* are the ones meant, or excluded, or if there are none all."""

    name: str
    place: Place
    sources: frozenset[int]
    excludes: bool
    outputs: tuple[PassingOutput, ...]

    def fits(self, datagram: Datagram) -> bool:
        """Say whether it would relay *datagram* if there were no other rule."""
        level = LEVELS[self.place.level]
        return (
            (datagram.version, datagram.block) == (self.place.version, self.place.block)
            and datagram.group < level.groups
            and datagram.port < level.ports
            and (not self.sources or (datagram.source in self.sources) != self.excludes)
        )

    def params(self) -> dict[str, object]:
        """Write the rule for ``rule.add``."""
        return {"name": self.name, "from": self._input(), "to": [one.params() for one in self.outputs]}

    def _input(self) -> str:
        level, version = LEVELS[self.place.level], self.place.version
        group = group_of(version, self.place.block, 0)
        if level.groups > 1:
            group += f"/{(32 if version == 4 else 128) - (level.groups.bit_length() - 1)}"
        ports = str(FIRST_INPUT_PORT)
        if level.ports > 1:
            ports += f"-{FIRST_INPUT_PORT + level.ports - 1}"
        sources = ",".join(sender_address(version, one) for one in sorted(self.sources))
        sign = "!" if self.excludes else ""
        return (
            f"{sign}{sources}@{_bracketed(group, 'r3')}:{ports}"
            if sources
            else f"{_bracketed(group, 'r3')}:{ports}"
        )


def winner(rules: Iterable[PassingRule], datagram: Datagram) -> PassingRule | None:
    """Give the rule that relays *datagram*: of those that fit, the most specific one."""
    fitting = (rule for rule in rules if rule.fits(datagram))
    return max(fitting, key=lambda rule: rule.place.level, default=None)


def payload_of(serial: int, size: int) -> bytes:
    """Make a payload that no other serial number has, if there is room for the number."""
    start = serial % 251
    return (serial.to_bytes(SERIAL_BYTES) + _NOISE[start : start + max(0, size - SERIAL_BYTES)])[:size]


def digest(payload: bytes) -> bytes:
    """Shorten a payload to what it is compared by."""
    return len(payload).to_bytes(2) + blake2b(payload, digest_size=8).digest()


def group_of(version: int, block: int, group: int) -> str:
    """Give a group of a block."""
    return _shifted(_BLOCK[version].format(block), group)


def sender_address(version: int, source: int) -> str:
    """Give the address of a sender."""
    return _shifted(_SENDER[version], source)


def all_destinations(version: int, fixed: int) -> list[str]:
    """List every group that a passing rule may send to."""
    groups = LEVELS[0].groups
    kept = [group_of(version, block, group) for block in range(BLOCKS) for group in range(groups)]
    mapped = [_shifted(_PREFIX[version][0], group) for group in range(groups)]
    return [*kept, *mapped, *(_shifted(_FIXED[version], number) for number in range(fixed))]


def _leaving_ttl(policy: str | int, arrived: int) -> int | None:
    if isinstance(policy, int):
        return policy
    return {"keep": arrived, "auto": max(1, arrived - 1), "decrement": arrived - 1 or None}[policy]


def _shifted(address: str, offset: int) -> str:
    return str(ip_address(address) + offset)


def _bracketed(groups: str, interface: str) -> str:
    return f"[{groups}%{interface}]" if ":" in groups else f"{groups}%{interface}"

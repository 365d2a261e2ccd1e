"""
How datagrams leave by an output: time to live, DSCP, source address, rate.

Every policy is written and read as one word: ``ttl=decrement``, ``dscp=ef``, ``rate=20Mbit``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mcr.errors import EndpointError, RuleError
from mcr.model.endpoint import Address, parse_address


class TtlPolicy(StrEnum):
    """
    What the time to live (IPv4) or hop limit (IPv6) of a relayed datagram follows from.

    AUTO is one less than what arrived but never below 1: a source that sends with TTL 1, the default of
    every socket, still gets through the relay.  DECREMENT drops what arrives with 1, like a router.
    """

    AUTO = "auto"
    KEEP = "keep"
    DECREMENT = "decrement"


class DscpPolicy(StrEnum):
    """What the DSCP of a relayed datagram follows from: KEEP is what it arrived with."""

    KEEP = "keep"


class SourcePolicy(StrEnum):
    """
    What the source of a relayed datagram is.

    INTERFACE is the address that the kernel chooses on the output interface, with a port of its own; KEEP is
    the address and port that it arrived with.
    """

    INTERFACE = "interface"
    KEEP = "keep"


class RateUnit(StrEnum):
    """What a rate limit counts: datagrams, or bits of IP packets."""

    DATAGRAMS = "pps"
    BITS = "bit"


Ttl = TtlPolicy | int
Dscp = DscpPolicy | int
Source = SourcePolicy | Address

# RFC 2474 (CS), RFC 2597 (AF), RFC 3246 (EF), RFC 5865 (VA), RFC 8622 (LE)
DSCP_NAMES: Mapping[str, int] = {
    **{f"cs{number}": number * 8 for number in range(8)},
    **{f"af{group}{drop}": group * 8 + drop * 2 for group in range(1, 5) for drop in range(1, 4)},
    "ef": 46,
    "va": 44,
    "le": 1,
}

TTL_SYNTAX = "auto, keep, decrement or 1 to 255"
DSCP_SYNTAX = "keep, 0 to 63, or a name such as ef, af41, cs5"
SOURCE_SYNTAX = "interface, keep or an address of this host"
RATE_SYNTAX = "a number with pps or bit behind it, such as 5000pps, 10kpps, 20Mbit, up to 1 T"

MAX_RATE = 10**12
_PREFIXES: Mapping[str, int] = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_RATE = re.compile(r"(\d{1,13}(?:\.\d{1,9})?)([kMG]?)(pps|bit)\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many datagrams, or bits of IP packets, per second; the surplus is dropped and counted."""

    value: int
    unit: RateUnit

    def __str__(self) -> str:
        prefix = next(prefix for prefix in ("G", "M", "k", "") if self.value % _PREFIXES[prefix] == 0)
        return f"{self.value // _PREFIXES[prefix]}{prefix}{self.unit}"


def parse_ttl(text: str) -> Ttl:
    """
    Read a policy or a number.

    Raises:
        RuleError: it is neither.
    """
    if text in set(TtlPolicy):
        return TtlPolicy(text)
    return _number(text, "ttl", 1, 255, TTL_SYNTAX)


def parse_dscp(text: str) -> Dscp:
    """
    Read a policy, a name or a number.

    Raises:
        RuleError: it is none.
    """
    if text in set(DscpPolicy):
        return DscpPolicy(text)
    if text in DSCP_NAMES:
        return DSCP_NAMES[text]
    return _number(text, "dscp", 0, 63, DSCP_SYNTAX)


def parse_source(text: str) -> Source:
    """
    Read a policy or an address.

    Raises:
        RuleError: it is neither.
    """
    if text in set(SourcePolicy):
        return SourcePolicy(text)
    try:
        return parse_address(text)
    except EndpointError:
        raise RuleError("bad_output", f"got source {text!r}, expected {SOURCE_SYNTAX}") from None


def parse_rate(text: str) -> Rate:
    """
    Read a rate limit.

    Raises:
        RuleError: it is none, zero, or beyond `MAX_RATE`.
    """
    match = _RATE.match(text)
    value = round(float(match[1]) * _PREFIXES[match[2]]) if match else 0
    if match is None or not 1 <= value <= MAX_RATE:
        raise RuleError("bad_output", f"got rate {text!r}, expected {RATE_SYNTAX}")
    return Rate(value, RateUnit(match[3]))


# Everything that may stand behind an output's endpoint, by the word in front of the '='.
POLICIES: Mapping[str, Callable[[str], Ttl | Dscp | Source | Rate]] = {
    "ttl": parse_ttl,
    "dscp": parse_dscp,
    "source": parse_source,
    "rate": parse_rate,
}


def policy_text(value: Ttl | Dscp | Source | Rate) -> str | int:
    """Write a policy as it is read: numbers as numbers, everything else as a word."""
    return value if type(value) is int else str(value)


def _number(text: str, name: str, least: int, most: int, syntax: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise RuleError("bad_output", f"got {name} {text!r}, expected {syntax}")

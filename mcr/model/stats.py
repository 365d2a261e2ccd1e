"""What was counted, and the laws that the counts obey."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# In the order of `enum mcr_ignored` and `enum mcr_not_sent` in native/mcr.h, which say what each one means.
IGNORED_REASONS = (
    "no_rule",
    "source",
    "vlan",
    "not_udp",
    "malformed",
    "truncated",
    "fragment",
    "checksum",
    "own",
    "interrupted",
    "extension",
)
NOT_SENT_REASONS = (
    "no_socket",
    "backing_off",
    "no_buffer",
    "unreachable",
    "down",
    "denied",
    "too_long",
    "refused",
    "rate",
    "ttl",
    "interrupted",
    "other",
)


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Datagrams that arrived: ``received == matched + sum(ignored.values())``."""

    received: int = 0
    matched: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputCounters:
    """Datagrams of one output: the rule's ``matched == sent + sum(not_sent.values())``."""

    sent: int = 0
    bytes: int = 0
    not_sent: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleCounters:
    """Datagrams of one rule, and their UDP payload in bytes."""

    matched: int = 0
    bytes: int = 0


def total_interface(parts: Iterable[InterfaceCounters]) -> InterfaceCounters:
    """Add up what several workers counted."""
    ordered = list(parts)
    return InterfaceCounters(
        sum(part.received for part in ordered),
        sum(part.matched for part in ordered),
        _total(part.ignored for part in ordered),
    )


def total_output(parts: Iterable[OutputCounters]) -> OutputCounters:
    """Add up what several workers counted."""
    ordered = list(parts)
    return OutputCounters(
        sum(part.sent for part in ordered),
        sum(part.bytes for part in ordered),
        _total(part.not_sent for part in ordered),
    )


def total_rule(parts: Iterable[RuleCounters]) -> RuleCounters:
    """Add up what several workers counted."""
    ordered = list(parts)
    return RuleCounters(sum(part.matched for part in ordered), sum(part.bytes for part in ordered))


def _total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Leave out the reasons that never occurred."""
    total: dict[str, int] = {}
    for part in parts:
        for reason, count in part.items():
            if count:
                total[reason] = total.get(reason, 0) + count
    return total

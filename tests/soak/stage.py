"""
Where a soak plays.

::

    source (a0) ---- (r0) relay (r1) ---- (b0) sink         steady flows come in at r0,
    second (c0) ---- (r3)       (r2) ---- (b1) sink1        passing rules listen at r3
"""

from dataclasses import dataclass

from tests.soak.model import SOURCES
from tests.support.lab import Host, Lab, Line

STEADY_SENDERS = range(11, 14)  # last parts of addresses


@dataclass(frozen=True, slots=True)
class Stage:
    """The hosts."""

    line: Line
    second: Host

    @property
    def relay(self) -> Host:
        """Give the host of mcrd."""
        return self.line.relay


def build(lab: Lab) -> Stage:
    """Make the hosts, with an address for each sender; sinks take datagrams from whatever source."""
    line, second = lab.line(sinks=2), lab.host("second")
    lab.cable(second, "c0", line.relay, "r3")
    _number(line.source, "a0", 1, STEADY_SENDERS)
    _number(second, "c0", 4, range(11, 11 + SOURCES))
    for number, sink in enumerate(line.sinks):
        sink.set("ipv4/igmp_max_memberships", "1000")
        for device in ("all", f"b{number}"):
            sink.set(f"ipv4/conf/{device}/rp_filter", "0")
    return Stage(line, second)


def _number(host: Host, device: str, cable: int, numbers: range) -> None:
    host.ip(*(f"addr add 10.{cable}.0.{number}/24 dev {device}" for number in numbers))
    host.ip(*(f"addr add fd00:{cable}::{number}/64 dev {device} nodad" for number in numbers))

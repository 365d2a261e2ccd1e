"""
Datagrams that the kernel gave up putting together because a fragment of them did not come.

Nobody learns which they were: the kernel counts them for the whole network namespace.  It puts fragments
together once for the relay's sockets and once for the host itself, which has joined the same groups, and
gives up each on its own; so one lost fragment usually counts two.

Source: ip_expire() and ip_check_defrag() in net/ipv4/ip_fragment.c; proc(5) on /proc/net/snmp.
"""

from collections.abc import Callable
from pathlib import Path


def read_snmp() -> str:
    """Read the counters of this process's network namespace."""
    return Path("/proc/self/net/snmp").read_text(encoding="ascii")


class ReassemblyFailures:
    """Counts what failed since it was made."""

    def __init__(self, read: Callable[[], str] = read_snmp) -> None:
        self._read = read
        self._before = parse_failures(read())

    def count(self) -> int:
        """Give the number so far."""
        return parse_failures(self._read()) - self._before


def parse_failures(snmp: str) -> int:
    """Find Ip ReasmFails in a text with a line of names and one of numbers for each protocol."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Ip: "))
    return int(values[names.index("ReasmFails")])

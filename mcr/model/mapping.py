"""
An output whose address and port follow from each datagram, for rules that take in several groups or ports.

::

    keep%eth1                   the same group and port
    keep%eth1:+1000             the same group, a port 1,000 higher
    keep%eth1:6000              the same group, always port 6000
    239.9.0.0/24%eth1           the same low bits within another prefix, the same port
    [ff35:0:9::/64%eth1]:-10    IPv6
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

from mcr.errors import EndpointError
from mcr.model.endpoint import Address, Endpoint, check_interface, check_port, parse_endpoint

SYNTAX = "keep%INTERFACE or PREFIX/LENGTH%INTERFACE, then nothing, :PORT, :+N or :-N"

Network = IPv4Network | IPv6Network
PREFIX_SYNTAX = "one such as 239.9.0.0/24, without bits set behind it"
MAX_PORT_OFFSET = 32767

_TEXT = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+/\d{1,3})%(?P<six_interface>[^]:/]+)\]"
    r"|(?P<four>keep|[0-9.]+/\d{1,2})%(?P<four_interface>[^:/]+))"
    r"(?::(?P<sign>[+-]?)(?P<number>\d{1,5}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Mapped:
    """
    How a datagram's own group and port become those that it leaves with.

    Attributes:
        prefix: whose bits replace the first ones of the group; None keeps the group.
        port: instead of the datagram's; 0 for its own plus *port_offset*.

    Raises:
        EndpointError: a part is out of range.
    """

    interface: str
    prefix: Network | None = None
    port: int = 0
    port_offset: int = 0

    def __post_init__(self) -> None:
        check_interface(self.interface)
        if self.port:
            check_port(self.port)
        if self.prefix is not None and not self.prefix.is_multicast:
            raise EndpointError(f"got prefix {self.prefix}, expected a prefix of multicast addresses")
        if abs(self.port_offset) > MAX_PORT_OFFSET or (self.port and self.port_offset):
            raise EndpointError(f"got port offset {self.port_offset}, expected -32767 to 32767")

    def __str__(self) -> str:
        place = f"{self.prefix or 'keep'}%{self.interface}"
        host = f"[{place}]" if isinstance(self.prefix, IPv6Network) else place
        if self.port:
            return f"{host}:{self.port}"
        return f"{host}:{self.port_offset:+d}" if self.port_offset else host

    @property
    def base(self) -> Address:
        """Give the address whose first `prefix_length` bits are used."""
        return self.prefix.network_address if self.prefix is not None else IPv4Address(0)

    @property
    def version(self) -> int | None:
        """Give the IP version that it fits, None for both."""
        return self.prefix.version if self.prefix is not None else None

    def image(self, groups: Network) -> Network:
        """Give the groups that *groups* become, which are of a fitting IP version."""
        if self.prefix is None:
            return groups
        if self.prefix.prefixlen >= groups.prefixlen:
            return self.prefix
        kept = int(groups.network_address) & int(self.prefix.hostmask)
        base = type(self.prefix.network_address)(int(self.prefix.network_address) | kept)
        return ip_network(f"{base}/{groups.prefixlen}")

    def ports(self, first: int, last: int) -> tuple[int, int]:
        """Give the ports that *first* to *last* become."""
        return (self.port, self.port) if self.port else (first + self.port_offset, last + self.port_offset)


def parse_target(text: str) -> Endpoint | Mapped:
    """
    Read where an output goes: an endpoint, or a mapping.

    Raises:
        EndpointError: *text* is neither.
    """
    place = text.partition("%")[0]
    return parse_mapping(text) if place == "keep" or "/" in place else parse_endpoint(text)


def parse_mapping(text: str) -> Mapped:
    """
    Read a mapping; ``str()`` of the result gives *text* back if it was canonical.

    Raises:
        EndpointError: naming *text* and what is allowed.
    """
    match = _TEXT.fullmatch(text)
    if match is None or (match["six"] and ":" not in match["six"]):
        raise EndpointError(f"{text!r}: got no mapping, expected {SYNTAX}")
    place = match["six"] or match["four"]
    number = int(match["number"] or 0)
    try:
        prefix = None if place == "keep" else read_prefix(place)
        if match["number"] and not match["sign"]:
            check_port(number)
        offset = -number if match["sign"] == "-" else number if match["sign"] else 0
        port = 0 if match["sign"] else number
        return Mapped(match["six_interface"] or match["four_interface"], prefix, port, offset)
    except EndpointError as error:
        raise EndpointError(f"{text!r}: {error}") from None


def read_prefix(text: str) -> Network:
    """
    Read ``ADDRESS/LENGTH``.

    Raises:
        EndpointError: it is none.
    """
    try:
        return ip_network(text)
    except ValueError:
        raise EndpointError(f"got prefix {text!r}, expected {PREFIX_SYNTAX}") from None

"""
An endpoint is an address on an interface: ``[SOURCE[,SOURCE...]@]ADDRESS%INTERFACE:PORT``.

::

    239.1.1.1%eth0:5001                         a group
    10.0.0.9@232.1.1.1%eth0:5001                a group, only from that source
    [ff35::8000:1%eth0]:5001                    IPv6
    2001:db8::9@[ff35::8000:1%eth0]:5001        IPv6, only from that source
    192.0.2.7:6000                              a unicast output: the routing table decides
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from mcr.errors import EndpointError

Address = IPv4Address | IPv6Address

SYNTAX = "[SOURCE@]ADDRESS%INTERFACE:PORT, IPv6 as [ADDRESS%INTERFACE]:PORT"
MAX_INTERFACE_BYTES = 15  # IFNAMSIZ - 1, linux/if.h
MAX_SOURCES = 64
MAX_PORT_DIGITS = 9  # int() itself refuses thousands
LINK_LOCAL_GROUPS_V4 = IPv4Network("224.0.0.0/24")  # RFC 5771 section 4
LINK_LOCAL_GROUPS_V6 = IPv6Network("ff02::/16")  # RFC 4291 section 2.7, scope 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    An address, a UDP port, and where they are valid.

    Attributes:
        address: group or unicast address.
        port: 1 to 65535.
        interface: the link's name; None only where the routing table may decide.
        sources: the only senders that are meant, sorted, without repeats; empty means any.

    Raises:
        EndpointError: a part is out of range, or the parts do not fit each other.
    """

    address: Address
    port: int
    interface: str | None
    sources: tuple[Address, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(sorted(set(self.sources), key=int)))
        check_address(self.address)
        check_port(self.port)
        if self.interface is not None:
            check_interface(self.interface)
        elif self.address.is_multicast:
            msg = f"got multicast address {self.address} without an interface, expected {SYNTAX}"
            raise EndpointError(msg)
        if len(self.sources) > MAX_SOURCES:
            msg = f"got {len(self.sources)} sources, expected at most {MAX_SOURCES}"
            raise EndpointError(msg)
        for source in self.sources:
            check_source(source, self.address)

    @property
    def is_multicast(self) -> bool:
        """Say whether the address is a group."""
        return self.address.is_multicast

    @property
    def is_link_local_group(self) -> bool:
        """Say whether routers never forward this group (224.0.0.0/24, ff02::/16)."""
        if isinstance(self.address, IPv4Address):
            return self.address in LINK_LOCAL_GROUPS_V4
        return self.address in LINK_LOCAL_GROUPS_V6

    def __str__(self) -> str:
        sources = ",".join(map(str, self.sources)) + "@" if self.sources else ""
        place = str(self.address) if self.interface is None else f"{self.address}%{self.interface}"
        host = place if isinstance(self.address, IPv4Address) else f"[{place}]"
        return f"{sources}{host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """
    Read an endpoint; ``str()`` of the result gives *text* back if it was canonical.

    Raises:
        EndpointError: naming *text*, the part that is wrong, and what is allowed.
    """
    try:
        return _parse(text)
    except EndpointError as error:
        msg = f"{text!r}: {error}"
        raise EndpointError(msg) from None


def parse_address(text: str) -> Address:
    """
    Read an IPv4 or IPv6 address without a scope.

    Raises:
        EndpointError: *text* is not one.
    """
    try:
        address = ip_address(text)
    except ValueError:
        msg = f"got address {text!r}, expected an IPv4 or IPv6 address"
        raise EndpointError(msg) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        msg = f"got address {text!r} with a scope, expected the interface to be given on its own"
        raise EndpointError(msg)
    return address


def check_address(address: Address) -> None:
    """
    Refuse an address that no datagram can have as its destination.

    Raises:
        EndpointError: unspecified, or IPv4 in IPv6 clothes.
    """
    if address.is_unspecified:
        msg = f"got address {address}, expected a group or a host address"
        raise EndpointError(msg)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        msg = f"got IPv4-mapped address {address}, expected {address.ipv4_mapped}"
        raise EndpointError(msg)


def check_port(port: int) -> None:
    """
    Refuse a port outside 1 to 65535.

    Raises:
        EndpointError: naming the range.
    """
    if not 1 <= port <= 65535:
        msg = f"got port {port}, expected 1 to 65535"
        raise EndpointError(msg)


def check_interface(name: str) -> None:
    """
    Refuse a name that no link can have.

    Raises:
        EndpointError: naming the rule that is broken.

    Source: dev_valid_name() in net/core/dev.c.
    """
    encoded = name.encode(errors="surrogatepass")
    # A surrogate stands for a byte that is not UTF-8; such a name could not be sent, printed or configured.
    forbidden = any(one in "/:\0" or one.isspace() or "\ud800" <= one <= "\udfff" for one in name)
    if not 1 <= len(encoded) <= MAX_INTERFACE_BYTES or name in {".", ".."} or forbidden:
        msg = f"got interface {name!r}, expected 1 to {MAX_INTERFACE_BYTES} bytes without '/', ':' or spaces"
        raise EndpointError(msg)


def check_source(source: Address, address: Address) -> None:
    """
    Refuse a source that cannot send to *address*.

    Raises:
        EndpointError: another IP version, or not a host's address.
    """
    if source.version != address.version:
        msg = f"got source {source} for {address}, expected both to be IPv{address.version}"
        raise EndpointError(msg)
    if source.is_multicast or source.is_unspecified:
        msg = f"got source {source}, expected the address of a host"
        raise EndpointError(msg)


def consecutive(endpoint: Endpoint, count: int) -> tuple[Endpoint, ...]:
    """
    Give *count* endpoints with consecutive addresses, the first being *endpoint*.

    Raises:
        EndpointError: they would leave the address range.
    """
    last = int(endpoint.address) + count - 1
    if count < 1 or last >= 1 << endpoint.address.max_prefixlen:
        msg = f"got {count} addresses from {endpoint.address} on, expected at least 1 within its family"
        raise EndpointError(msg)
    return tuple(
        Endpoint(
            type(endpoint.address)(int(endpoint.address) + offset),
            endpoint.port,
            endpoint.interface,
            endpoint.sources,
        )
        for offset in range(count)
    )


def _parse(text: str) -> Endpoint:
    """Split off sources before '@', the port after the last ':', the interface after the first '%'."""
    place, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= MAX_PORT_DIGITS):
        msg = f"got no port, expected {SYNTAX}"
        raise EndpointError(msg)
    sources, place = _split_sources(place)
    bracketed = place.startswith("[") and place.endswith("]")
    host, percent, interface = place[1:-1].partition("%") if bracketed else place.partition("%")
    address = parse_address(host)
    if bracketed != (address.version == 6):
        msg = f"got {place!r}, expected brackets around an IPv6 place and none around an IPv4 one"
        raise EndpointError(msg)
    return Endpoint(address, int(port), interface if percent else None, tuple(sources))


def _split_sources(place: str) -> tuple[Iterable[Address], str]:
    """Cut ``SOURCE,SOURCE@`` off; an '@' behind the '%' belongs to the interface's name."""
    before, at, after = place.partition("@")
    if not at or "%" in before:
        return (), place
    return [parse_address(source.removeprefix("[").removesuffix("]")) for source in before.split(",")], after

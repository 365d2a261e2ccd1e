"""
An endpoint is an address on an interface: ``[SOURCE[,SOURCE...]@]ADDRESS%INTERFACE:PORT``.

::

    239.1.1.1%eth0:5001                         a group
    10.0.0.9@232.1.1.1%eth0:5001                a group, only from that source
    !10.0.0.9@239.1.1.1%eth0:5001               a group, but not from that source
    239.1.0.0/24%eth0:5000-5010                 several groups and ports
    [ff35::8000:1%eth0]:5001                    IPv6
    2001:db8::9@[ff35::8000:1%eth0]:5001        IPv6, only from that source
    192.0.2.7:6000                              a unicast output: the routing table decides
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from mcr.errors import EndpointError

Address = IPv4Address | IPv6Address

SYNTAX = "[SOURCE@]ADDRESS%INTERFACE:PORT, IPv6 as [ADDRESS%INTERFACE]:PORT"
MAX_INTERFACE_BYTES = 15  # IFNAMSIZ - 1, linux/if.h
MAX_SOURCES = 64
MAX_GROUPS = 1024  # each one must be joined
MAX_HELD_PORTS = 1024  # of a unicast input: each is a socket
MAX_LENGTH_DIGITS = 3
MAX_PORT_DIGITS = 9  # int() itself refuses thousands
LINK_LOCAL_GROUPS_V4 = IPv4Network("224.0.0.0/24")  # RFC 5771 section 4
LINK_LOCAL_GROUPS_V6 = IPv6Network("ff02::/16")  # RFC 4291 section 2.7, scope 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    An address, a UDP port, and where they are valid.

    Attributes:
        address: group or unicast address; the first of several groups.
        port: 1 to 65535; the first of several.
        interface: the link's name; None only where the routing table may decide.
        sources: the only senders that are meant, sorted, without repeats; empty means any.
        excluded: the senders that are not meant, instead of *sources*.
        prefix_length: bits that the groups have in common; all of them mean one group.
        last_port: the last of several.

    Raises:
        EndpointError: a part is out of range, or the parts do not fit each other.
    """

    address: Address
    port: int
    interface: str | None
    sources: tuple[Address, ...] = ()
    excluded: tuple[Address, ...] = ()
    prefix_length: int = -1
    last_port: int = -1

    def __post_init__(self) -> None:
        for name in ("sources", "excluded"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)), key=int)))
        if self.prefix_length == -1:
            object.__setattr__(self, "prefix_length", self.address.max_prefixlen)
        if self.last_port == -1:
            object.__setattr__(self, "last_port", self.port)
        self._check_place()
        self._check_sources()

    def _check_place(self) -> None:
        check_address(self.address)
        check_port(self.port)
        check_port(self.last_port)
        if self.last_port < self.port:
            raise EndpointError(f"got ports {self.port}-{self.last_port}, expected the lower one first")
        if not self.address.is_multicast and self.last_port - self.port >= MAX_HELD_PORTS:
            count = self.last_port - self.port + 1
            raise EndpointError(
                f"got {count} ports of a host, expected at most {MAX_HELD_PORTS}: each is held"
            )
        if self.interface is not None:
            check_interface(self.interface)
        elif self.address.is_multicast:
            raise EndpointError(
                f"got multicast address {self.address} without an interface, expected {SYNTAX}"
            )
        if self.prefix_length != self.address.max_prefixlen:
            check_prefix(self.address, self.prefix_length)

    def _check_sources(self) -> None:
        if self.sources and self.excluded:
            raise EndpointError("got sources and excluded sources, expected one or the other")
        if len(self.sources) + len(self.excluded) > MAX_SOURCES:
            count = len(self.sources) + len(self.excluded)
            raise EndpointError(f"got {count} sources, expected at most {MAX_SOURCES}")
        for source in (*self.sources, *self.excluded):
            check_source(source, self.address)

    @property
    def is_range(self) -> bool:
        """Say whether it means several groups or ports."""
        return self.last_port != self.port or self.prefix_length != self.address.max_prefixlen

    @property
    def groups(self) -> Iterator[Address]:
        """Give every address that is meant."""
        count = 1 << (self.address.max_prefixlen - self.prefix_length)
        return (type(self.address)(int(self.address) + offset) for offset in range(count))

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
        named = ",".join(map(str, self.sources or self.excluded))
        sources = f"{'!' if self.excluded else ''}{named}@" if named else ""
        several = self.prefix_length != self.address.max_prefixlen
        groups = f"{self.address}/{self.prefix_length}" if several else str(self.address)
        place = groups if self.interface is None else f"{groups}%{self.interface}"
        host = place if isinstance(self.address, IPv4Address) else f"[{place}]"
        ports = f"-{self.last_port}" if self.last_port != self.port else ""
        return f"{sources}{host}:{self.port}{ports}"


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


def check_prefix(address: Address, length: int) -> None:
    """
    Refuse a prefix that is no set of groups that can all be joined.

    Raises:
        EndpointError: not multicast, too many, or bits set behind the prefix.
    """
    free_bits = address.max_prefixlen - length
    if not address.is_multicast:
        raise EndpointError(f"got prefix {address}/{length}, expected a prefix of multicast addresses")
    if not 0 <= free_bits <= MAX_GROUPS.bit_length() - 1:
        shortest = address.max_prefixlen - MAX_GROUPS.bit_length() + 1
        raise EndpointError(
            f"got prefix length {length}, expected {shortest} to {address.max_prefixlen}: "
            f"every one of at most {MAX_GROUPS} groups is joined"
        )
    if int(address) & ((1 << free_bits) - 1):
        raise EndpointError(f"got {address}/{length}, expected no bits set behind the prefix")


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
    """Split off sources before '@', ports after the last ':', the interface after the first '%'."""
    place, _, ports = text.rpartition(":")
    port, last_port = read_ports(ports)
    sources, place = _split_sources(place)
    bracketed = place.startswith("[") and place.endswith("]")
    host, percent, interface = place[1:-1].partition("%") if bracketed else place.partition("%")
    address, prefix_length = read_groups(host)
    if bracketed != (address.version == 6):
        raise EndpointError(
            f"got {place!r}, expected brackets around an IPv6 place and none around an IPv4 one"
        )
    listed = tuple(
        parse_address(one.removeprefix("[").removesuffix("]"))
        for one in (sources.split(",") if sources is not None else ())
    )
    meant, excluded = ((), listed) if text.startswith("!") else (listed, ())
    return Endpoint(address, port, interface if percent else None, meant, excluded, prefix_length, last_port)


def read_ports(text: str) -> tuple[int, int]:
    """
    Read ``PORT`` or ``PORT-PORT``: the first and the last one.

    Raises:
        EndpointError: *text* is neither.
    """
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(one.isascii() and one.isdigit() and len(one) <= MAX_PORT_DIGITS for one in numbers):
        raise EndpointError(f"got no port, expected {SYNTAX}")
    return int(numbers[0]), int(numbers[1])


def read_groups(text: str) -> tuple[Address, int]:
    """
    Read ``ADDRESS`` or ``ADDRESS/LENGTH``: the address, and how many of its bits are meant.

    Raises:
        EndpointError: *text* is neither.
    """
    host, slash, length = text.partition("/")
    address = parse_address(host)
    if not slash:
        return address, address.max_prefixlen
    if not (length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS):
        raise EndpointError(f"got prefix length {length!r}, expected a number")
    return address, int(length)


def _split_sources(place: str) -> tuple[str | None, str]:
    """Cut ``SOURCE,SOURCE@`` off; an '@' behind the '%' belongs to the interface's name."""
    before, at, after = place.partition("@")
    if not at or "%" in before:
        return None, place
    return before.removeprefix("!"), after

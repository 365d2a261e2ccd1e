"""
Group memberships, spread over as many sockets as the kernel's limits per socket ask for.

Source: RFC 3678 section 5 (protocol-independent API); net.ipv4.igmp_max_memberships, net.ipv4.igmp_max_msf.
"""

import errno
import socket
import struct
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from mcr.errors import KernelError
from mcr.model.endpoint import Address

MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP = 42, 45, 46, 47
_SYSCTL = Path("/proc/sys/net/ipv4")
_GONE = {errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO}


@dataclass(frozen=True, slots=True)
class Membership:
    """A group on an interface, from one source or (None) from any."""

    interface: str
    ifindex: int
    group: Address
    source: Address | None = None

    def __str__(self) -> str:
        source = f"{self.source}@" if self.source else ""
        return f"{source}{self.group}%{self.interface}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket may hold: groups, and sources of one group."""

    groups: int
    sources: int


def read_limits() -> Limits:
    """Read the kernel's limits; IPv6 has higher ones of its own."""
    return Limits(*(int((_SYSCTL / name).read_text()) for name in ("igmp_max_memberships", "igmp_max_msf")))


def has_room(held: AbstractSet[Membership], wanted: Membership, limits: Limits) -> bool:
    """
    Say whether a socket that holds *held* may also hold *wanted*.

    One socket cannot hold a group both from any source and from some.
    """
    same_group = {one for one in held if (one.ifindex, one.group) == (wanted.ifindex, wanted.group)}
    if same_group:
        any_source = wanted.source is None or any(one.source is None for one in same_group)
        return not any_source and len(same_group) < limits.sources
    return len({(one.ifindex, one.group) for one in held}) < limits.groups


@dataclass(slots=True)
class _Holder:
    socket: socket.socket
    version: int
    held: set[Membership] = field(default_factory=set)


class Memberships:
    """Owns the sockets that hold memberships."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._holders: list[_Holder] = []
        self._holder_of: dict[Membership, _Holder] = {}

    def held(self) -> AbstractSet[Membership]:
        """Give all that are held now."""
        return self._holder_of.keys()

    def join(self, wanted: Membership) -> None:
        """
        Join.

        Raises:
            KernelError: the kernel refuses, for example because the interface has no multicast.
        """
        holder = self._place(wanted)
        option = MCAST_JOIN_SOURCE_GROUP if wanted.source else MCAST_JOIN_GROUP
        try:
            holder.socket.setsockopt(_level(wanted), option, _request(wanted))
        except OSError as error:
            self._close_if_empty(holder)
            raise KernelError("join", str(wanted), error.errno or errno.EIO) from error
        holder.held.add(wanted)
        self._holder_of[wanted] = holder

    def leave(self, unwanted: Membership) -> None:
        """
        Leave; that the interface has gone already is as good.

        Raises:
            KernelError: the kernel refuses.
        """
        holder = self._holder_of.pop(unwanted)
        holder.held.discard(unwanted)
        option = MCAST_LEAVE_SOURCE_GROUP if unwanted.source else MCAST_LEAVE_GROUP
        try:
            if holder.held:
                holder.socket.setsockopt(_level(unwanted), option, _request(unwanted))
        except OSError as error:
            if error.errno not in _GONE:
                raise KernelError("leave", str(unwanted), error.errno or errno.EIO) from error
        finally:
            self._close_if_empty(holder)

    def close(self) -> None:
        """Leave everything."""
        for holder in self._holders:
            holder.socket.close()
        self._holders.clear()
        self._holder_of.clear()

    def _place(self, wanted: Membership) -> _Holder:
        version = wanted.group.version
        for holder in self._holders:
            if holder.version == version and has_room(holder.held, wanted, self._limits):
                return holder
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        holder = _Holder(socket.socket(family, socket.SOCK_DGRAM), version)
        self._holders.append(holder)
        return holder

    def _close_if_empty(self, holder: _Holder) -> None:
        if not holder.held:
            holder.socket.close()
            self._holders.remove(holder)


def memberships_of(
    interface: str, ifindex: int, group: Address, sources: Iterable[Address]
) -> set[Membership]:
    """Say what must be joined for one input."""
    wanted: list[Address | None] = [*sources]
    return {Membership(interface, ifindex, group, source) for source in wanted or [None]}


def _level(membership: Membership) -> int:
    return socket.IPPROTO_IP if membership.group.version == 4 else socket.IPPROTO_IPV6


def _request(membership: Membership) -> bytes:
    """Lay out struct group_req or struct group_source_req."""
    addresses = [membership.group, *([membership.source] if membership.source else [])]
    return struct.pack("=I4x", membership.ifindex) + b"".join(map(_sockaddr_storage, addresses))


def _sockaddr_storage(address: Address) -> bytes:
    if address.version == 4:
        return struct.pack("=HH4s120x", socket.AF_INET, 0, address.packed)
    return struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, address.packed, 0)

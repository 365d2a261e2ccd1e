"""Receivers that see everything of a datagram that a program can see: who sent it, where to, TTL and DSCP."""

import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from mcr.model.endpoint import Endpoint, parse_endpoint
from tests.support.lab import Host
from tests.support.traffic import (
    BUFFER_BYTES,
    IP_RECVTTL,
    IPV6_RECVHOPLIMIT,
    MAX_DATAGRAM_BYTES,
    MCAST_JOIN_GROUP,
    SO_BINDTOIFINDEX,
    SO_RCVBUFFORCE,
)
from tests.support.wait import DEADLINE_S

IP_PKTINFO, IP_RECVTOS = 8, 13
IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS = 49, 50, 52, 66, 67


@dataclass(frozen=True)
class Seen:
    """A datagram as its receiver saw it; *port* is the one that it was sent to."""

    payload: bytes
    source: str
    source_port: int
    group: str
    port: int
    ttl: int
    dscp: int


class Listener:
    """A socket for one port, joined to the groups of endpoints that differ in nothing else."""

    def __init__(self, host: Host, *endpoints: str) -> None:
        parsed = [parse_endpoint(text) for text in endpoints]
        self._port = parsed[0].port
        self._ipv6 = parsed[0].address.version == 6
        family = socket.AF_INET6 if self._ipv6 else socket.AF_INET
        self.socket = host.socket(family, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        level = socket.IPPROTO_IPV6 if self._ipv6 else socket.IPPROTO_IP
        options = (
            (IPV6_RECVPKTINFO, IPV6_RECVTCLASS, IPV6_RECVHOPLIMIT)
            if self._ipv6
            else (IP_PKTINFO, IP_RECVTOS, IP_RECVTTL)
        )
        for option in options:
            self.socket.setsockopt(level, option, 1)
        index = host.index_of(str(parsed[0].interface))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, index)
        self.socket.bind(("", self._port))
        with host.entered():
            for one in parsed:
                self.socket.setsockopt(level, MCAST_JOIN_GROUP, _group_request(one, index))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def take(self) -> Seen:
        """Wait for the next datagram."""
        payload, control, _, name = self.socket.recvmsg(MAX_DATAGRAM_BYTES, 256)
        facts = {kind: data for _, kind, data in control}
        if self._ipv6:
            group = str(IPv6Address(facts[IPV6_PKTINFO][:16]))
            ttl, traffic_class = (_number(facts[kind]) for kind in (IPV6_HOPLIMIT, IPV6_TCLASS))
        else:
            group = str(IPv4Address(facts[IP_PKTINFO][8:12]))
            ttl, traffic_class = _number(facts[socket.IP_TTL]), facts[socket.IP_TOS][0]
        return Seen(payload, name[0], name[1], group, self._port, ttl, traffic_class >> 2)

    def has_one(self) -> bool:
        """Say whether a datagram waits."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def take_until(self, last: bytes) -> list[Seen]:
        """Wait for the datagram *last*; give all up to it, and it."""
        taken = [self.take()]
        while taken[-1].payload != last:
            taken.append(self.take())
        return taken


def send_with_dscp(sender: socket.socket, dscp: int) -> None:
    """Let a socket send with a DSCP."""
    if sender.family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_TCLASS, dscp << 2)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)


def payloads_of(taken: Sequence[Seen]) -> list[bytes]:
    """Give what was in the datagrams."""
    return [one.payload for one in taken]


def _group_request(endpoint: Endpoint, index: int) -> bytes:
    """Write a struct group_req of linux/in.h."""
    packed = endpoint.address.packed
    if len(packed) == 4:
        address = struct.pack("=HH4s", socket.AF_INET, 0, packed)
    else:
        address = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packed, 0)
    return struct.pack("=I4x", index) + address.ljust(128, b"\0")


def _number(data: bytes) -> int:
    return int(struct.unpack("=i", data)[0])

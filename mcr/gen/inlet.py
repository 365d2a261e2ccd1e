"""Where datagrams arrive: one socket for the data, and others that hold the memberships."""

import socket
import struct
import sys
from contextlib import ExitStack
from ipaddress import IPv4Address

from mcr.gen import sockets
from mcr.gen.options import ReceiveOptions
from mcr.model.endpoint import Endpoint

RECEIVE_BUFFER_BYTES = 64 << 20
RECEIVE_TIMEOUT_US = 100_000
MEMBERSHIPS_PER_SOCKET = 20  # net.ipv4.igmp_max_memberships
SOCKADDR_STORAGE = "128s"


def open_socket(options: ReceiveOptions, stack: ExitStack) -> socket.socket:
    """Open the socket that gets the datagrams; with one destination it is bound to that address alone."""
    source, ifindex = options.source, sockets.interface_index(options.source)
    sock = stack.enter_context(socket.socket(sockets.family_of(source.address), socket.SOCK_DGRAM))
    granted = sockets.ask_for_buffer(sock, sockets.SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if granted < RECEIVE_BUFFER_BYTES:
        print(
            f"mcrgen: got a receive buffer of {granted:,} bytes, expected {RECEIVE_BUFFER_BYTES:,}: "
            f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}",
            file=sys.stderr,
        )
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, RECEIVE_TIMEOUT_US))
    sock.setsockopt(socket.SOL_SOCKET, sockets.SO_TIMESTAMPNS, 1)
    sock.setsockopt(sockets.SOL_UDP, sockets.UDP_GRO, 1)
    sockets.bind_to_interface(sock, ifindex)
    if source.is_multicast:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if len(options.destinations) == 1:
        sock.bind(sockets.socket_name(source.address, source.port, ifindex))
    else:
        _bind_to_all(sock, source)
    return sock


def _bind_to_all(sock: socket.socket, source: Endpoint) -> None:
    """Bind to the port alone, and ask to be told the address that each datagram was sent to."""
    if isinstance(source.address, IPv4Address):
        sock.setsockopt(socket.IPPROTO_IP, sockets.IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", source.port))  # noqa: S104 - the interface limits it
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::", source.port))


def join(options: ReceiveOptions, stack: ExitStack) -> tuple[socket.socket, ...]:
    """Join all groups, on sockets of their own since each may hold only so many memberships."""
    source, ifindex = options.source, sockets.interface_index(options.source)
    if not source.is_multicast:
        return ()
    requests = [
        request
        for destination in options.destinations
        for request in _membership_requests(destination, ifindex)
    ]
    members = []
    for start in range(0, len(requests), MEMBERSHIPS_PER_SOCKET):
        sock = stack.enter_context(socket.socket(sockets.family_of(source.address), socket.SOCK_DGRAM))
        for option, request in requests[start : start + MEMBERSHIPS_PER_SOCKET]:
            sock.setsockopt(sockets.ip_level(source.address), option, request)
        members.append(sock)
    return tuple(members)


def _membership_requests(destination: Endpoint, ifindex: int) -> list[tuple[int, bytes]]:
    """
    Give socket options and their values that join one group, for each source on its own.

    Source: RFC 3678 section 5, struct group_req and group_source_req.
    """
    group = sockets.sockaddr(destination.address, 0, 0)
    if not destination.sources:
        return [(sockets.MCAST_JOIN_GROUP, struct.pack(f"@I4x{SOCKADDR_STORAGE}", ifindex, group))]
    layout = f"@I4x{SOCKADDR_STORAGE}{SOCKADDR_STORAGE}"
    return [
        (sockets.MCAST_JOIN_SOURCE_GROUP, struct.pack(layout, ifindex, group, sockets.sockaddr(source, 0, 0)))
        for source in destination.sources
    ]

"""What sending and receiving both need of the socket interface, where the standard library lacks it."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from mcr.errors import KernelError, UsageError
from mcr.model.endpoint import Address, Endpoint

# Source: asm-generic/socket.h, linux/in.h, linux/in6.h, linux/udp.h, linux/sock_diag.h
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_MEMINFO = 55
SO_BINDTOIFINDEX = 62
IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
PMTUDISC_DONT = 0
MCAST_JOIN_GROUP = 42
MCAST_JOIN_SOURCE_GROUP = 46
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
MEMINFO_DROPS = 8
MEMINFO_WORDS = 9


def family_of(address: Address) -> socket.AddressFamily:
    """Give the address family of sockets for *address*."""
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def ip_level(address: Address) -> int:
    """Give the level of IP socket options for *address*."""
    return socket.IPPROTO_IP if isinstance(address, IPv4Address) else socket.IPPROTO_IPV6


def mapped(address: Address) -> bytes:
    """Give 16 bytes in network order, IPv4 as ``::ffff:a.b.c.d``, as native/generate.h wants them."""
    prefix = b"\0" * 10 + b"\xff\xff" if isinstance(address, IPv4Address) else b""
    return prefix + address.packed


def sockaddr(address: Address, port: int, ifindex: int) -> bytes:
    """Give ``struct sockaddr_in`` or ``sockaddr_in6``: family in host order, port in network order."""
    if isinstance(address, IPv4Address):
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address.packed)
    head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s", port, 0, address.packed)
    return head + struct.pack("=I", ifindex)


def socket_name(address: Address, port: int, ifindex: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Give the same in the form that Python's ``bind`` and ``connect`` take."""
    return (str(address), port) if isinstance(address, IPv4Address) else (str(address), port, 0, ifindex)


def interface_index(endpoint: Endpoint) -> int:
    """
    Give the index of the endpoint's interface, 0 if it names none.

    Raises:
        UsageError: there is no such interface here.
    """
    if endpoint.interface is None:
        return 0
    try:
        return socket.if_nametoindex(endpoint.interface)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise UsageError(f"got interface {endpoint.interface!r}, expected one of {names}") from None


def bind_to_interface(sock: socket.socket, ifindex: int) -> None:
    """
    Let the socket use only this interface; 0 is all of them.

    Raises:
        OSError: the kernel refused.
    """
    if ifindex:
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, ifindex)


def ask_for_buffer(sock: socket.socket, force: int, plain: int, wanted_bytes: int) -> int:
    """Set a buffer size, beyond the administrator's limit if permitted; give what the socket then has."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, wanted_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, wanted_bytes)
    # The kernel doubles what was asked for, to account for its own overhead (socket(7)).
    return sock.getsockopt(socket.SOL_SOCKET, plain) // 2


def socket_drops(sock: socket.socket) -> int:
    """Give how often the kernel dropped something at this socket: a datagram, or several in one piece."""
    words = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * MEMINFO_WORDS)
    return int(struct.unpack(f"={MEMINFO_WORDS}I", words)[MEMINFO_DROPS])


def kernel_error(operation: str, subject: str, error: OSError) -> KernelError:
    """Turn a failed system call into the exception that says what it was for."""
    return KernelError(operation, subject, error.errno or errno.EIO)


def pin_to_cpu(cpu: int) -> None:
    """
    Run this process on one CPU only.

    Raises:
        UsageError: there is no such CPU, or it is not ours to use.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if cpu not in allowed:
        raise UsageError(f"got CPU {cpu}, expected one of {', '.join(map(str, allowed))}")
    os.sched_setaffinity(0, {cpu})


@contextmanager
def reporting(operation: str, subject: str) -> Iterator[None]:
    """Turn a failed system call into a KernelError that says what it was for."""
    try:
        yield
    except OSError as error:
        raise kernel_error(operation, subject, error) from error

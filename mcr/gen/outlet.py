"""Where datagrams leave: a UDP socket, or a packet socket below the IP stack."""

import fcntl
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from mcr.errors import McrError, UsageError
from mcr.gen import frame, sockets
from mcr.gen.options import Engine, SendOptions
from mcr.model.endpoint import Endpoint, consecutive

SEND_BUFFER_BYTES = 4 << 20
SIOCGIFMTU = 0x8921  # linux/sockios.h
PACKET_VNET_HDR, PACKET_QDISC_BYPASS = 15, 20  # linux/if_packet.h
SOL_PACKET = 263
ARPHRD_ETHER = 1


@dataclass(frozen=True, slots=True)
class Outlet:
    """A descriptor ready for the C loop: which engine, and what each flow needs in front of its payload."""

    engine: Engine
    fd: int
    names: tuple[bytes, ...]
    heads: tuple[bytes, ...]


class EngineUnusableError(McrError):
    """The ethernet engine cannot do this; the message says why."""


def open_outlet(options: SendOptions, stack: ExitStack) -> Outlet:
    """
    Open what sends, by the engine asked for, or by the fastest that can do it.

    Raises:
        UsageError: no such interface, or the engine that was asked for cannot do it.
        KernelError: the kernel refused.
    """
    if options.engine is Engine.UDP:
        return _open_udp(options, stack)
    try:
        return _open_ethernet(options, stack)
    except EngineUnusableError as error:
        if options.engine is Engine.ETHERNET:
            raise UsageError(f"got engine ethernet, expected udp here: {error}") from None
        return _open_udp(options, stack)


def _open_udp(options: SendOptions, stack: ExitStack) -> Outlet:
    """Open one socket; it is connected if there is one group, which spares route look-ups."""
    sock = _open_udp_socket(options, stack)
    to, ifindex = options.to, sockets.interface_index(options.to)
    names = [sockets.sockaddr(flow.address, flow.port, ifindex) for flow in consecutive(to, options.flows)]
    # A unicast destination may answer with ICMP errors, which a connected socket takes for its own.
    if options.flows == 1 and to.is_multicast:
        with sockets.reporting("connect to", str(to)):
            sock.connect(sockets.socket_name(to.address, to.port, ifindex))
        names = [b""]
    if options.segments > 1:
        with sockets.reporting("set UDP_SEGMENT for", str(to)):
            sock.setsockopt(sockets.SOL_UDP, sockets.UDP_SEGMENT, options.payload_bytes)
    return Outlet(Engine.UDP, sock.fileno(), tuple(names), (b"",) * options.flows)


def _open_udp_socket(options: SendOptions, stack: ExitStack) -> socket.socket:
    to, ifindex = options.to, sockets.interface_index(options.to)
    level, is_v4 = sockets.ip_level(to.address), isinstance(to.address, IPv4Address)
    with sockets.reporting("open a UDP socket for", str(to)):
        sock = stack.enter_context(socket.socket(sockets.family_of(to.address), socket.SOCK_DGRAM))
        sockets.ask_for_buffer(sock, sockets.SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # Datagrams above the MTU leave in fragments instead of failing.
        discover = sockets.IP_MTU_DISCOVER if is_v4 else sockets.IPV6_MTU_DISCOVER
        sock.setsockopt(level, discover, sockets.PMTUDISC_DONT)
        if to.is_multicast:
            which, off = (
                (struct.pack("=4s4si", b"", b"", ifindex), socket.IP_MULTICAST_LOOP)
                if is_v4
                else (struct.pack("=i", ifindex), socket.IPV6_MULTICAST_LOOP)
            )
            sock.setsockopt(level, socket.IP_MULTICAST_IF if is_v4 else socket.IPV6_MULTICAST_IF, which)
            sock.setsockopt(level, off, 0)
            # Without it a datagram that the queue discipline drops counts as sent (ip(7)).
            sock.setsockopt(level, sockets.IP_RECVERR if is_v4 else sockets.IPV6_RECVERR, 1)
        else:
            sockets.bind_to_interface(sock, ifindex)
        if options.ttl is not None:
            sock.setsockopt(level, _ttl_option(options.to), options.ttl)
        if to.sources:
            sock.bind(sockets.socket_name(to.sources[0], 0, ifindex))
    return sock


def _ttl_option(to: Endpoint) -> int:
    if isinstance(to.address, IPv4Address):
        return socket.IP_MULTICAST_TTL if to.is_multicast else socket.IP_TTL
    return socket.IPV6_MULTICAST_HOPS if to.is_multicast else socket.IPV6_UNICAST_HOPS


def _open_ethernet(options: SendOptions, stack: ExitStack) -> Outlet:
    """
    Open a packet socket that sends whole frames past the IP stack and the queue discipline.

    Raises:
        EngineUnusableError: not permitted, not Ethernet, not multicast, too long, or several in one frame.
    """
    to = options.to
    if not to.is_multicast or to.interface is None:
        raise EngineUnusableError("the destination is not a multicast group")
    if options.segments > 1:
        raise EngineUnusableError("--segment is the UDP stack's work")
    ifindex = sockets.interface_index(to)
    udp = _open_udp_socket(options, stack)
    try:
        sock = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        sock.bind((to.interface, 0))
        sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sockets.ask_for_buffer(sock, sockets.SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        mtu = _interface_mtu(sock, to.interface)
        # The kernel picks the source address, and the port stays ours while this socket is open.
        udp.connect(sockets.socket_name(to.address, to.port, ifindex))
        source, port = udp.getsockname()[:2]
    except OSError as error:
        raise EngineUnusableError(error.strerror or str(error)) from error
    hardware, mac = sock.getsockname()[3:5]
    if hardware != ARPHRD_ETHER:
        raise EngineUnusableError(f"{to.interface} is not an Ethernet interface")
    if frame.ip_header_bytes(to.address) + frame.UDP_BYTES + options.payload_bytes > mtu:
        raise EngineUnusableError(f"datagrams are longer than the MTU of {mtu} allows")
    sender = frame.Sender(mac, ip_address(source.partition("%")[0]), port)
    ttl = 1 if options.ttl is None else options.ttl
    heads = (
        frame.build_head(sender, flow.address, flow.port, ttl, options.payload_bytes)
        for flow in consecutive(to, options.flows)
    )
    return Outlet(Engine.ETHERNET, sock.fileno(), (b"",) * options.flows, tuple(heads))


def _interface_mtu(sock: socket.socket, interface: str) -> int:
    answer = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16s24x", interface.encode()))
    return int(struct.unpack_from("=i", answer, 16)[0])

"""
The sockets that workers are given.

Source: packet(7), ip(7), ipv6(7), udp(7), linux/if_packet.h; the order of steps is forced by
net/packet/af_packet.c, as said at each.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from ipaddress import ip_address
from typing import ParamSpec, TypeVar

from mcr.errors import KernelError
from mcr.model import bpf, bpf_code
from mcr.model.endpoint import Address, Endpoint
from mcr.model.link import Link
from mcr.model.policy import SourcePolicy
from mcr.model.rule import Output

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_COPY_THRESH, PACKET_VERSION = 5, 6, 7, 10
PACKET_VNET_HDR, PACKET_FANOUT, PACKET_FANOUT_DATA, PACKET_IGNORE_OUTGOING = 15, 18, 22, 23
TPACKET_V2 = 1
FANOUT_CBPF = 6
# A frame has lost its link header when it comes to the fanout, and for a cooked socket stays so.
FANOUT_HEADER_AT = SINK_HEADER_AT = 0
FANOUT_FLAG_UNIQUEID, FANOUT_FLAG_IGNORE_OUTGOING, FANOUT_FLAG_DEFRAG = 0x2000, 0x4000, 0x8000
ETH_P_ALL = 0x0003
# In the order of MCR_PRIORITIES in native/mcr.h. Source: linux/pkt_sched.h
TC_PRIORITIES = 0, 2, 6, 4
DISCARD_PORT = 9  # RFC 863

SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE, SO_SNDBUFFORCE, SO_BINDTOIFINDEX = 33, 32, 62
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_RECVERR = 10, 0, 11
IPV6_MTU_DISCOVER, IPV6_RECVERR = 23, 25

# TPACKET2_HDRLEN, struct virtio_net_hdr, alignment and the longest link header with two VLAN tags.
FRAME_OVERHEAD_BYTES = 128
SMALLEST_FRAME_BYTES = 2048
PAGE_BYTES = 4096
LARGEST_MTU = 9216
BLOCK_BYTES = 1 << 16
RING_BYTES = 64 << 20
INTERFACE_BYTES = 128 << 20
# Frames longer than a ring frame wait here whole.
COPY_QUEUE_BYTES = 16 << 20
SINK_QUEUE_BYTES = 1 << 17
SEND_QUEUE_BYTES = 8 << 20
PACKET_SEND_QUEUE_BYTES = 256 << 20

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RingShape:
    """A receive ring: *frames* of *frame_bytes* each, without gaps."""

    frame_bytes: int
    frames: int

    @property
    def bytes(self) -> int:
        """Give the memory it takes."""
        return self.frame_bytes * self.frames


def default_ring_bytes(workers: int) -> int:
    """Hold 110 ms of 300,000 packets/s; with several workers an interface's rings share a budget."""
    return min(RING_BYTES, INTERFACE_BYTES // workers)


def ring_shape(mtu: int, budget_bytes: int) -> RingShape:
    """
    Fit frames to the MTU, and their number to the budget.

    Longer frames (super-frames, reassembled datagrams) are handed over beside the ring.
    """
    needed = min(mtu, LARGEST_MTU) + FRAME_OVERHEAD_BYTES
    pages = -(-needed // PAGE_BYTES) * PAGE_BYTES
    frame_bytes = SMALLEST_FRAME_BYTES if needed <= SMALLEST_FRAME_BYTES else pages
    per_block = max(1, BLOCK_BYTES // frame_bytes)
    return RingShape(frame_bytes, max(1, budget_bytes // (frame_bytes * per_block)) * per_block)


@dataclass(frozen=True, slots=True)
class Fanout:
    """
    The packet sockets of an interface, in the order in which steering programs number them.

    Attributes:
        sink: for what no rule wants; see `mcr.model.bpf`.
        rings: by worker number.
    """

    sink: socket.socket
    rings: list[socket.socket]

    def close(self) -> None:
        """Close them all; the last member takes the place of one that leaves, so the sink goes last."""
        for one in (*self.rings, self.sink):
            one.close()


def open_fanout(link: Link, workers: int, shape: RingShape, *, watches: bool) -> Fanout:
    """
    Open one ring per worker and a sink, to which everything goes until there is a steering program.

    Args:
        link: the interface.
        workers: their number.
        shape: of each ring.
        watches: the sink keeps some of what matches no rule, to be looked at.

    Raises:
        KernelError: a step was refused; nothing stays open.
    """
    fanout = Fanout(_naming("open sink on", link.name, _open_sink)(link, watches=watches), [])
    try:
        _naming("join fanout on", link.name, _join_fanout)(fanout.sink, fanout.sink)
        for _ in range(workers):
            ring = _naming("open ring on", link.name, _open_ring)(link, shape)
            fanout.rings.append(ring)
            _naming("join fanout on", link.name, _join_fanout)(ring, fanout.sink)
            _naming("open filter of", "ring", _attach)(
                ring, socket.SOL_SOCKET, SO_ATTACH_FILTER, bpf_code.everything()
            )
    except KernelError:
        fanout.close()
        raise
    return fanout


def set_steering(fanout: Fanout, program: bpf_code.Program) -> None:
    """
    Replace the steering program of an interface in one step.

    Raises:
        KernelError: the kernel refuses the program.
    """
    _naming("set steering of", "fanout", _attach)(
        fanout.sink, SOL_PACKET, PACKET_FANOUT_DATA, program, FANOUT_HEADER_AT
    )


def _open_sink(link: Link, *, watches: bool) -> socket.socket:
    """Open with protocol 0 so that nothing is queued before the filter stands, and bind last."""
    sink = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        program = bpf.unmatched_program() if watches else bpf_code.nothing()
        _attach(sink, socket.SOL_SOCKET, SO_ATTACH_FILTER, program, SINK_HEADER_AT)
        sink.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SINK_QUEUE_BYTES)
        sink.bind((link.name, ETH_P_ALL))
    except OSError:
        sink.close()
        raise
    return sink


def read_kernel_drops(ring: socket.socket) -> int:
    """Give the frames that found no room since the last call (struct tpacket_stats; reading resets it)."""
    _, drops = struct.unpack("=II", ring.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return int(drops)


@dataclass(frozen=True, slots=True)
class Sender:
    """
    What an output sends through.

    Attributes:
        source, port: that it sends from; unspecified where the kernel decides for each datagram.
    """

    socket: socket.socket
    source: Address
    port: int


def open_output(output: Output, ifindex: int, version: int, towards: Address | None) -> Sender:
    """
    Open a UDP socket, connected to an output's destination unless that follows from each datagram.

    *ifindex* 0 lets the routing table decide. With *towards* the source address is found also for a socket
    that is not connected: the one that a datagram to that group would have.

    Raises:
        KernelError: no route, no usable source address, or a refused option.
    """
    return _naming("open output", str(output.to), _open_output)(output, ifindex, version, towards)


def open_packet_senders() -> list[socket.socket]:
    """
    Open what whole packets leave through, on whatever interface they name: one for each priority.

    They are shared by all outputs of a worker: when a packet socket is closed the kernel waits for a grace
    period (packet_release in af_packet.c), and hundreds of those take seconds. So their queues hold what the
    queues of several devices do, and it is for those to be full first.

    Raises:
        KernelError: none are left.
    """
    with ExitStack() as opened:
        opener = _naming("open", "packet socket", _open_packet_sender)
        senders = [opened.enter_context(opener(priority)) for priority in TC_PRIORITIES]
        opened.pop_all()
    return senders


def hold_port(ifindex: int, address: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """
    Occupy a UDP port that a unicast rule takes its input from, so that the host does not answer its packets
    with ICMP port unreachable; the socket keeps nothing.

    A port that somebody else on this host has is occupied well enough.

    Raises:
        KernelError: the address is not this host's.
    """
    return _naming("hold port", f"{address}:{port}", _hold_port)(ifindex, address, port, family)


def _naming(operation: str, subject: str, step: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Turn what the kernel refuses within *step* into a `KernelError` that names the object."""

    @wraps(step)
    def named(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        try:
            return step(*arguments, **keywords)
        except OSError as error:
            raise KernelError(operation, subject, error.errno or errno.EIO) from error

    return named


def _open_ring(link: Link, shape: RingShape) -> socket.socket:
    """
    Open with a filter that keeps nothing.

    Fanout can only be joined after the bind (fanout_add wants po->num), and as a member the ring gets what
    the steering program gives it.
    """
    ring = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        _attach(ring, socket.SOL_SOCKET, SO_ATTACH_FILTER, bpf_code.nothing())
        for option, value in (
            (PACKET_VERSION, TPACKET_V2),
            (PACKET_VNET_HDR, 1),
            (PACKET_COPY_THRESH, 1),
            (PACKET_IGNORE_OUTGOING, 1),
        ):
            ring.setsockopt(SOL_PACKET, option, value)
        ring.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, COPY_QUEUE_BYTES)
        per_block = max(1, BLOCK_BYTES // shape.frame_bytes)
        request = (per_block * shape.frame_bytes, shape.frames // per_block, shape.frame_bytes, shape.frames)
        ring.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("=IIII", *request))
        ring.bind((link.name, ETH_P_ALL))
    except OSError:
        ring.close()
        raise
    return ring


def _join_fanout(member: socket.socket, first: socket.socket) -> None:
    """Let the first member find a free group number, and the others use it."""
    kind = FANOUT_CBPF | FANOUT_FLAG_DEFRAG | FANOUT_FLAG_IGNORE_OUTGOING
    if member is first:
        member.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=I", (kind | FANOUT_FLAG_UNIQUEID) << 16))
    else:
        group = first.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        member.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=I", kind << 16 | group))


def _attach(
    target: socket.socket, level: int, option: int, program: bpf_code.Program, header_at: int | None = None
) -> None:
    """Hand over a struct sock_fprog, which points to the instructions."""
    instructions = ctypes.create_string_buffer(bpf_code.packed(program, header_at))
    target.setsockopt(level, option, struct.pack("HP", len(program), ctypes.addressof(instructions)))


def _open_packet_sender(priority: int) -> socket.socket:
    """Open with protocol 0: it sends and never receives."""
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, PACKET_SEND_QUEUE_BYTES)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
    except OSError:
        sender.close()
        raise
    return sender


def _open_output(output: Output, ifindex: int, version: int, towards: Address | None) -> Sender:
    sender = _open_udp_output(output, ifindex, version)
    try:
        source, port = _name_of(sender)
        if towards is not None and not port:
            sender.bind(("", 0))
            port = _name_of(sender)[1]
        if towards is not None and source.is_unspecified:
            source = _source_towards(towards, ifindex, version)
    except OSError:
        sender.close()
        raise
    return Sender(sender, source, port)


def _name_of(sock: socket.socket) -> tuple[Address, int]:
    address, port, *_ = sock.getsockname()
    return ip_address(address.partition("%")[0]), port


def _source_towards(group: Address, ifindex: int, version: int) -> Address:
    """Ask the kernel, by a socket that sends nothing (RFC 6724 for IPv6)."""
    with _udp_socket(ifindex, version) as asker:
        place = (str(group), DISCARD_PORT)
        asker.connect((*place, 0, ifindex) if version == 6 else place)
        return _name_of(asker)[0]


def _open_udp_output(output: Output, ifindex: int, version: int) -> socket.socket:
    sender = _udp_socket(ifindex, version)
    try:
        if not isinstance(output.source, SourcePolicy):
            sender.bind((str(output.source), 0))
        if isinstance(output.to, Endpoint):
            place = (str(output.to.address), output.to.port)
            sender.connect((*place, 0, ifindex) if version == 6 else place)
    except OSError:
        sender.close()
        raise
    return sender


def _udp_socket(ifindex: int, version: int) -> socket.socket:
    ipv6 = version == 6
    sender = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        _attach(sender, socket.SOL_SOCKET, SO_ATTACH_FILTER, bpf_code.nothing())  # answers are not for us
        sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_QUEUE_BYTES)
        if ifindex:
            sender.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, ifindex)
        for level, option, value in _ipv6_options(ifindex) if ipv6 else _ipv4_options(ifindex):
            sender.setsockopt(level, option, value)
    except OSError:
        sender.close()
        raise
    return sender


def _ipv4_options(ifindex: int) -> list[tuple[int, int, int | bytes]]:
    """
    Leave by the interface and not back to ourselves, in fragments where the MTU demands it.

    A full device queue is reported: without IP_RECVERR the kernel drops there and says nothing
    (udp_send_skb in net/ipv4/udp.c).
    """
    return [
        (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), ifindex)),
        (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0),
        (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT),
        (socket.IPPROTO_IP, IP_RECVERR, 1),
    ]


def _ipv6_options(ifindex: int) -> list[tuple[int, int, int | bytes]]:
    """Do for IPv6 what `_ipv4_options` does for IPv4."""
    return [
        (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex),
        (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0),
        (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT),
        (socket.IPPROTO_IPV6, IPV6_RECVERR, 1),
    ]


def _hold_port(ifindex: int, address: str, port: int, family: socket.AddressFamily) -> socket.socket:
    holder = socket.socket(family, socket.SOCK_DGRAM)
    try:
        _attach(holder, socket.SOL_SOCKET, SO_ATTACH_FILTER, bpf_code.nothing())
        holder.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, ifindex)
        holder.bind((address, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            holder.close()
            raise
    return holder

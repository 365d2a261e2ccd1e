"""Headers for sending below the IP stack, ready for a checksum over the payload."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from mcr.model.endpoint import Address

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERNET_BYTES = 14
UDP_BYTES = 8
PROTOCOL_UDP = 17
DO_NOT_FRAGMENT = 0x4000
VIRTIO_NET_HDR = "=BBHHHH"  # linux/virtio_net.h: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset


@dataclass(frozen=True, slots=True)
class Sender:
    """Who the frames come from: 6-byte MAC address, IP address, UDP port."""

    mac: bytes
    address: Address
    port: int


def ip_header_bytes(address: Address) -> int:
    """Give the length of an IP header without options or extensions."""
    return 20 if isinstance(address, IPv4Address) else 40


def group_mac(group: Address) -> bytes:
    """
    Give the MAC address of a multicast group.

    Source: RFC 1112 section 6.4, RFC 2464 section 7.
    """
    if isinstance(group, IPv4Address):
        return b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big")
    return b"\x33\x33" + group.packed[12:]


def build_head(sender: Sender, group: Address, port: int, ttl: int, payload_bytes: int) -> bytes:
    """
    Build everything in front of the payload, for a packet socket with PACKET_VNET_HDR.

    Its ``struct virtio_net_hdr`` asks for no offload; it only says how long the headers are, so that the
    kernel lays them into the linear part of the buffer, as a network card does.  Without it a long frame
    has nothing but its Ethernet header there, and all who look at it pay for that.

    The UDP checksum field holds the folded sum of the pseudo header and the UDP header, not complemented,
    so that adding the payload's sum and complementing completes it.
    """
    udp_bytes = UDP_BYTES + payload_bytes
    udp = struct.pack("!HHH", sender.port, port, udp_bytes)
    pseudo = sender.address.packed + group.packed + struct.pack("!II", udp_bytes, PROTOCOL_UDP)
    partial = struct.pack("!H", fold(pseudo + udp))
    if isinstance(group, IPv4Address):
        ip, ethertype = _ipv4_header(sender.address, group, ttl, udp_bytes), ETHERTYPE_IPV4
    else:
        fixed = struct.pack("!IHBB", 6 << 28, udp_bytes, PROTOCOL_UDP, ttl)
        ip, ethertype = fixed + sender.address.packed + group.packed, ETHERTYPE_IPV6
    head = group_mac(group) + sender.mac + struct.pack("!H", ethertype) + ip + udp + partial
    return struct.pack(VIRTIO_NET_HDR, 0, 0, len(head), 0, 0, 0) + head


def fold(data: bytes) -> int:
    """
    Give the 16-bit ones' complement sum of *data*, whose length is even.

    Source: RFC 1071.
    """
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _ipv4_header(source: Address, group: Address, ttl: int, udp_bytes: int) -> bytes:
    """Build a header with identification 0, right for what is never fragmented (RFC 6864 section 4.1)."""
    length = ip_header_bytes(group) + udp_bytes
    before = struct.pack("!BBHHHBB", 0x45, 0, length, 0, DO_NOT_FRAGMENT, ttl, PROTOCOL_UDP)
    addresses = source.packed + group.packed
    return before + struct.pack("!H", 0xFFFF ^ fold(before + addresses)) + addresses

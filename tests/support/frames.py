"""
Frames written by hand: every field can be what no honest sender would write.

Source: RFC 791, RFC 8200, RFC 768, RFC 1071, IEEE 802.1Q.
"""

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

from tests.support.traffic import group_mac

UDP, TCP = 17, 6
SENDER_MAC = b"\x02\x00\x00\x00\x00\x01"
ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN = 0x0800, 0x86DD, 0x8100


@dataclass(frozen=True)
class Packet:
    """
    A datagram to be written as one frame.

    Attributes:
        checksum: of UDP; None for the right one.
        options: of the IPv4 header, a multiple of four bytes.
        protocol: what the IP header says that it carries.
        vlan: tag with this VLAN.
        inner_vlan: and with this one behind it.
        extensions: headers of IPv6 in front of UDP, by `tests.support.packets.extension`.
    """

    source: str
    destination: str
    port: int
    payload: bytes = b""
    ttl: int = 8
    source_port: int = 4000
    checksum: int | None = None
    options: bytes = b""
    protocol: int = UDP
    vlan: int | None = None
    inner_vlan: int | None = None
    extensions: tuple[tuple[int, bytes], ...] = ()

    def frame(self) -> bytes:
        """Give all bytes, from the destination's hardware address on."""
        is_v4 = ip_address(self.destination).version == 4
        body = self._ipv4() if is_v4 else self._ipv6()
        tags = b"".join(
            struct.pack("!HH", ETHERTYPE_VLAN, vlan)
            for vlan in (self.vlan, self.inner_vlan)
            if vlan is not None
        )
        kind = struct.pack("!H", ETHERTYPE_IPV4 if is_v4 else ETHERTYPE_IPV6)
        return group_mac(self.destination) + SENDER_MAC + tags + kind + body

    def udp(self) -> bytes:
        """Give the UDP datagram with its header."""
        length = 8 + len(self.payload)
        ports = struct.pack("!HHH", self.source_port, self.port, length)
        checksum = self.checksum
        if checksum is None:
            addresses = ip_address(self.source).packed + ip_address(self.destination).packed
            pseudo = addresses + struct.pack("!II", length, self.protocol)
            checksum = ones_complement(pseudo + ports + b"\0\0" + self.payload) or 0xFFFF
        return ports + struct.pack("!H", checksum) + self.payload

    def wrong_checksum(self) -> "Packet":
        """Give the same with one bit of the checksum flipped."""
        return replace(self, checksum=struct.unpack_from("!H", self.udp(), 6)[0] ^ 0x0100)

    def _ipv4(self) -> bytes:
        udp = self.udp()
        words = (20 + len(self.options)) // 4
        total = 4 * words + len(udp)
        before = struct.pack("!BBHHHBB", 0x40 | words, 0, total, 0, 0, self.ttl, self.protocol)
        after = ip_address(self.source).packed + ip_address(self.destination).packed + self.options
        return before + struct.pack("!H", ones_complement(before + b"\0\0" + after)) + after + udp

    def _ipv6(self) -> bytes:
        udp = self.udp()
        kinds = [*(kind for kind, _ in self.extensions), self.protocol]
        between = b"".join(bytes([kinds[at]]) + rest for at, (_, rest) in enumerate(self.extensions, 1))
        fixed = struct.pack("!IHBB", 6 << 28, len(between) + len(udp), kinds[0], self.ttl)
        return fixed + ip_address(self.source).packed + ip_address(self.destination).packed + between + udp


def fragments(packet: Packet, number: int, piece_bytes: int = 1480) -> list[bytes]:
    """
    Give an IPv4 packet as frames of at most so much of it, a multiple of 8.

    Source: RFC 791 section 3.2; *number* is the identification that they have in common.
    """
    whole = packet.frame()
    link, header, body = whole[:14], whole[14:34], whole[34:]
    frames = []
    for at in range(0, len(body), piece_bytes):
        piece = body[at : at + piece_bytes]
        more = 0x2000 if at + piece_bytes < len(body) else 0
        new = struct.pack("!BBHHH", header[0], header[1], 20 + len(piece), number, more | at // 8)
        before = new + header[8:10]
        checksum = struct.pack("!H", ones_complement(before + b"\0\0" + header[12:]))
        frames.append(link + before + checksum + header[12:] + piece)
    return frames


def ones_complement(data: bytes) -> int:
    """Give the Internet checksum."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ total

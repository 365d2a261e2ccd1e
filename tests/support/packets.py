"""UDP in IP, made by hand: whole, and wrong in one place at a time."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mcr.model.endpoint import Address

ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_8021AD, ETH_P_ARP = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x0806
TCP, UDP, FRAGMENT, HOP_BY_HOP, ROUTING, DESTINATION = 6, 17, 44, 0, 43, 60


@dataclass(frozen=True)
class Packet:
    """
    What a datagram says about itself; None means the truth.

    Attributes:
        options: of IPv4, whole words.
        fragment: flags and offset of IPv4.
        extensions: headers of IPv6 between its own and UDP's, by `extension`.
        padding: what a short Ethernet frame has behind the IP packet.
    """

    source: Address
    group: Address
    port: int = 5001
    payload: bytes = b"payload"
    ttl: int = 8
    version: int | None = None
    protocol: int = UDP
    options: bytes = b""
    header_words: int | None = None
    ip_bytes: int | None = None
    fragment: int = 0
    udp_bytes: int | None = None
    checksum: int | None = None
    padding: bytes = b""
    extensions: tuple[tuple[int, bytes], ...] = ()

    @property
    def ethertype(self) -> int:
        """Give the EtherType of the frame that would carry it."""
        return ETH_P_IP if self.group.version == 4 else ETH_P_IPV6

    def __bytes__(self) -> bytes:
        udp = self._udp()
        header = self._ipv4(len(udp)) if self.group.version == 4 else self._ipv6(len(udp))
        return header + udp + self.padding

    def _udp(self) -> bytes:
        length = 8 + len(self.payload)
        udp_bytes = length if self.udp_bytes is None else self.udp_bytes
        header = struct.pack("!HHHH", 40000, self.port, udp_bytes, 0)
        checksum = self.checksum
        if checksum is None:
            pseudo = self.source.packed + self.group.packed + struct.pack("!II", length, UDP)
            checksum = internet_checksum(pseudo + header + self.payload) or 0xFFFF
        return header[:6] + struct.pack("!H", checksum) + self.payload

    def _ipv4(self, udp_bytes: int) -> bytes:
        words = 5 + len(self.options) // 4 if self.header_words is None else self.header_words
        version = 4 if self.version is None else self.version
        total = 20 + len(self.options) + udp_bytes if self.ip_bytes is None else self.ip_bytes
        beginning = struct.pack(
            "!BBHHHBBH", version << 4 | words, 0, total, 1, self.fragment, self.ttl, self.protocol, 0
        )
        header = beginning + self.source.packed + self.group.packed + self.options
        return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]

    def _ipv6(self, udp_bytes: int) -> bytes:
        version = 6 if self.version is None else self.version
        kinds = [*(kind for kind, _ in self.extensions), self.protocol]
        between = b"".join(bytes([kinds[at]]) + rest for at, (_, rest) in enumerate(self.extensions, 1))
        length = len(between) + udp_bytes if self.ip_bytes is None else self.ip_bytes
        beginning = struct.pack("!IHBB", version << 28, length, kinds[0], self.ttl)
        return beginning + self.source.packed + self.group.packed + between


def extension(kind: int, content: bytes) -> tuple[int, bytes]:
    """
    Give an extension header without its first byte, which names what follows it.

    Source: RFC 8200 section 4.2: *content* is options, or of a routing header all behind its length; what is
    missing to units of eight bytes is Pad1.
    """
    units = -(-(2 + len(content)) // 8)
    return kind, bytes([units - 1]) + content + bytes(8 * units - 2 - len(content))


def internet_checksum(data: bytes) -> int:
    """Give the one's complement of the one's complement sum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2]) for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


V4 = Packet(IPv4Address("10.0.0.9"), IPv4Address("239.1.1.1"))
V6 = Packet(IPv6Address("2001:db8::9"), IPv6Address("ff35::8000:1"))

import struct
from ipaddress import IPv6Address, ip_address

import pytest

from mcr.gen.frame import ETHERNET_BYTES, VIRTIO_NET_HDR, Sender, build_head, fold, group_mac
from mcr.gen.sockets import mapped, sockaddr

SENDER_V4 = Sender(b"\x02\0\0\0\0\x01", ip_address("10.9.0.1"), 40000)
SENDER_V6 = Sender(b"\x02\0\0\0\0\x01", ip_address("fd09::1"), 40000)


@pytest.mark.parametrize(
    ("group", "mac"),
    [
        ("239.1.1.1", "01:00:5e:01:01:01"),
        ("239.255.255.255", "01:00:5e:7f:ff:ff"),
        ("ff35::8000:1", "33:33:80:00:00:01"),
    ],
)
def test_a_group_has_the_mac_address_of_the_rfc(group: str, mac: str) -> None:
    assert group_mac(ip_address(group)).hex(":") == mac


def test_in_front_of_the_head_stands_how_long_it_is() -> None:
    head = build_head(SENDER_V4, ip_address("239.1.1.1"), 5001, 7, 1000)
    offload_bytes = struct.calcsize(VIRTIO_NET_HDR)

    assert struct.unpack_from(VIRTIO_NET_HDR, head) == (0, 0, len(head) - offload_bytes, 0, 0, 0)


def frame_head(sender: Sender, group: str) -> bytes:
    """Give the headers that are on the wire."""
    return build_head(sender, ip_address(group), 5001, 7, 1000)[struct.calcsize(VIRTIO_NET_HDR) :]


def test_an_ipv4_head_is_what_the_kernel_expects() -> None:
    head = frame_head(SENDER_V4, "239.1.1.1")
    ip = head[ETHERNET_BYTES : ETHERNET_BYTES + 20]

    assert len(head) == 14 + 20 + 8
    assert head[12:14] == b"\x08\x00"
    assert fold(ip) == 0xFFFF  # a header sums to all ones with its checksum (RFC 1071)
    assert int.from_bytes(ip[2:4], "big") == 20 + 8 + 1000
    assert ip[8] == 7
    assert int.from_bytes(head[34:36], "big") == 40000
    assert int.from_bytes(head[36:38], "big") == 5001
    assert int.from_bytes(head[38:40], "big") == 1008


def test_an_ipv6_head_is_what_the_kernel_expects() -> None:
    head = frame_head(SENDER_V6, "ff35::8000:1")

    assert len(head) == 14 + 40 + 8
    assert head[12:14] == b"\x86\xdd"
    assert head[14] >> 4 == 6
    assert int.from_bytes(head[18:20], "big") == 1008
    assert head[20:22] == b"\x11\x07"
    assert IPv6Address(head[22:38]) == SENDER_V6.address
    assert IPv6Address(head[38:54]) == ip_address("ff35::8000:1")


def test_socket_addresses_are_in_the_kernels_layout() -> None:
    assert sockaddr(ip_address("239.1.1.2"), 0x1389, 5)[2:8].hex() == "1389ef010102"
    assert len(sockaddr(ip_address("239.1.1.2"), 5001, 5)) == 16
    assert sockaddr(ip_address("ff02::5"), 0x1389, 1)[2:4].hex() == "1389"
    assert len(sockaddr(ip_address("ff02::5"), 5001, 1)) == 28


def test_addresses_for_the_native_side_are_sixteen_bytes() -> None:
    assert mapped(ip_address("10.0.0.1")) == IPv6Address("::ffff:10.0.0.1").packed
    assert mapped(ip_address("ff02::5")) == IPv6Address("ff02::5").packed

"""
Links and addresses from the kernel.

pyroute2's own sockets bring an event loop of their own, which does not run inside uvloop; its parser does.

Source: rtnetlink(7), linux/ethtool.h.
"""

import contextlib
import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from mcr.errors import KernelError
from mcr.model.endpoint import Address
from mcr.model.link import Link

# RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR; RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF
_WATCHED_GROUPS = 0x1 | 0x10 | 0x100 | 1 << 23 | 1 << 24
_RECEIVE_BYTES = 1 << 18
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_WITH_ETHERNET_HEADER = {1, 772}  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_IFA_F_TENTATIVE = 0x40
_SIOCETHTOOL, _ETHTOOL_GCHANNELS = 0x8946, 0x3C
_HEADER = struct.Struct("=IHHII16x")  # struct nlmsghdr, and a request that asks for everything


def watch_links() -> socket.socket:
    """Open a non-blocking socket that is readable whenever a link or an address has changed."""
    watcher = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    watcher.bind((0, _WATCHED_GROUPS))
    return watcher


def drain(watcher: socket.socket) -> None:
    """Throw away what is queued: that something changed is all that matters, also if some of it was lost."""
    while True:
        try:
            watcher.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: the kernel dropped notifications; the next look sees everything
            continue


def read_links() -> dict[str, Link]:
    """
    Ask the kernel for all links and their addresses.

    Raises:
        KernelError: netlink refuses.
    """
    addresses: dict[int, set[Address]] = {}
    for message in _dump(RTM_GETADDR):
        address = _usable_address(message)
        if address is not None:
            addresses.setdefault(message["index"], set()).add(address)
    links = (_link(message, addresses) for message in _dump(RTM_GETLINK))
    return {link.name: link for link in links}


def _link(message: Any, addresses: dict[int, set[Address]]) -> Link:  # noqa: ANN401 - pyroute2's messages are untyped
    name = message.get_attr("IFLA_IFNAME")
    wanted = _IFF_UP | _IFF_RUNNING
    return Link(
        index=message["index"],
        name=name,
        mtu=message.get_attr("IFLA_MTU"),
        up=message["flags"] & wanted == wanted,
        receive_queues=receive_queues(name),
        addresses=frozenset(addresses.get(message["index"], ())),
        link_address=_link_address(message),
        stack_needs=_stack_needs(message, name),
    )


def _stack_needs(message: Any, name: str) -> str:  # noqa: ANN401 - pyroute2's messages are untyped
    """A bridge, bond or VRF takes frames from its ports, and a multicast router from its interfaces."""
    if message.get_attr("IFLA_MASTER"):
        return "is a port of another interface"
    for version in ("ipv4", "ipv6"):
        forwarding = Path("/proc/sys/net", version, "conf", name, "mc_forwarding")
        with contextlib.suppress(OSError):
            if forwarding.read_text(encoding="ascii").strip() != "0":
                return "is an interface of a multicast router"
    return ""


def _link_address(message: Any) -> bytes:  # noqa: ANN401 - pyroute2's messages are untyped
    """Ethernet and loopback frames have a header with addresses; other kinds are written without one."""
    if message["ifi_type"] not in _WITH_ETHERNET_HEADER:
        return b""
    return bytes.fromhex(message.get_attr("IFLA_ADDRESS").replace(":", ""))


def _usable_address(message: Any) -> Address | None:  # noqa: ANN401 - pyroute2's messages are untyped
    """Leave out an IPv6 address that duplicate address detection has not released yet (RFC 4862)."""
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return None if flags & _IFA_F_TENTATIVE or text is None else ip_address(text)


def _dump(kind: int) -> Iterator[Any]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asker:
            asker.send(_HEADER.pack(_HEADER.size, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0))
            while True:
                for message in MarshalRtnl().parse(asker.recv(_RECEIVE_BYTES)):
                    if message["header"]["type"] == NLMSG_DONE:
                        return
                    yield message
    except OSError as error:
        raise KernelError("dump", "links", error.errno or 0) from error


def receive_queues(name: str) -> int:
    """
    Count the queues that a device spreads received frames over.

    A device that cannot tell has one.
    """
    # struct ethtool_channels: command, four maxima, then rx, tx, other and combined in use.
    channels = (ctypes.c_uint32 * 9)(_ETHTOOL_GCHANNELS)
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(channels))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            fcntl.ioctl(asker, _SIOCETHTOOL, request)
    except OSError:
        return 1
    _, _, _, _, _, receive, _, _, combined = channels
    return max(1, receive + combined)

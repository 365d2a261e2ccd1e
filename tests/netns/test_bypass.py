"""The host's IP stack is spared what only mcr wants, and nobody else misses anything."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcr._native import lib
from mcr.wire.documents import BypassDocument
from tests.support.daemon import BIN, Daemon
from tests.support.frames import Packet
from tests.support.lab import Host, Line
from tests.support.laws import assert_all_arrived
from tests.support.listener import Listener
from tests.support.traffic import Outlet, Tap, receiving, send
from tests.support.wait import DEADLINE_S, wait_for

COUNT = 2000
FEW = 100  # IGMP and neighbours
LAST = b"the last one"
GROUP_V4, GROUP_V6 = "239.1.1.1%{}:5001", "[ff3e::8000:1%{}]:5001"
# Source: linux/mroute.h
MRT_INIT, MRT_ADD_VIF, VIFF_USE_IFINDEX = 200, 202, 0x8


def config(**keys: object) -> dict[str, object]:
    outputs = {"one": "239.2.2.2%r1:6000", "six": "[ff3e::8000:2%r1]:6000"}
    inputs = {"one": GROUP_V4.format("r0"), "six": GROUP_V6.format("r0")}
    return {"rules": [{"name": name, "from": inputs[name], "to": outputs[name]} for name in outputs], **keys}


def seen_by_stack(host: Host) -> int:
    """Give the packets that have passed the IPv4 stack's first look (Ip, InReceives)."""
    names, values = (line.split() for line in host.read("snmp").splitlines() if line.startswith("Ip:"))
    return int(values[names.index("InReceives")])


def bypass(daemon: Daemon) -> BypassDocument:
    return daemon.interface("r0")["bypass"]


def relay_some(line: Line, daemon: Daemon) -> int:
    """Relay packets; give how many of them the relay's IP stack has seen."""
    before = seen_by_stack(line.relay)
    with receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver:
        sent = send(line.source, GROUP_V4.format("a0"), rate="20k", size=200, count=COUNT)
        got = receiver.report()
    assert_all_arrived(sent, got, daemon.stats())
    return seen_by_stack(line.relay) - before


def test_what_only_mcr_wants_does_not_reach_the_stack(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, config()) as daemon:
        assert bypass(daemon) == {"on": True, "reason": ""}
        assert relay_some(line, daemon) < FEW


def test_ranges_alone_are_bypassed_as_well(line: Line, tmp_path: Path) -> None:
    rule = {"from": "239.1.1.0/24%r0:5001-5002", "to": "239.2.2.2%r1:6000"}
    with Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon:
        assert bypass(daemon) == {"on": True, "reason": ""}
        assert relay_some(line, daemon) < FEW


def test_it_can_be_turned_off(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, config(bypass_stack=False)) as daemon:
        assert bypass(daemon) == {"on": False, "reason": "bypass_stack: false is configured"}
        assert relay_some(line, daemon) >= COUNT


def test_without_cap_bpf_everything_else_works(line: Line, tmp_path: Path) -> None:
    without = ("setpriv", "--bounding-set=-bpf,-sys_admin", str(BIN / "mcrd"))
    with Daemon(line.relay, tmp_path, config(), command=without) as daemon:
        assert bypass(daemon) == {"on": False, "reason": os.strerror(errno.EPERM)}
        assert relay_some(line, daemon) >= COUNT


def test_without_a_rule_the_stack_sees_it_again(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, config()) as daemon:
        daemon.ctl("rule", "del", "one")
        before = seen_by_stack(line.relay)
        with (
            Outlet(line.source, GROUP_V4.format("a0")) as outlet,
            Listener(line.relay, GROUP_V4.format("r0")) as listener,
        ):
            outlet.send(*[b"x"] * FEW, LAST)
            listener.take_until(LAST)

        assert seen_by_stack(line.relay) - before > FEW


@pytest.mark.parametrize(
    ("group", "output"), [(GROUP_V4, "239.2.2.2%b0:6000"), (GROUP_V6, "[ff3e::8000:2%b0]:6000")]
)
def test_a_program_on_the_relay_receives_the_group_as_well(
    line: Line, tmp_path: Path, group: str, output: str
) -> None:
    """It may start and end whenever it likes; its socket may be bound to the group or to any address."""
    payloads = [f"number {number}".encode() for number in range(500)]
    with (
        Daemon(line.relay, tmp_path, config()) as daemon,
        Listener(line.sink, output) as listener,
        Outlet(line.source, group.format("a0")) as outlet,
    ):
        assert bypass(daemon)["on"]
        outlet.send(b"nobody else is there", LAST)
        listener.take_until(LAST)
        with Listener(line.relay, group.format("r0")) as local:
            outlet.send(*payloads, LAST)
            assert [seen.payload for seen in local.take_until(LAST)] == [*payloads, LAST]
            assert [seen.payload for seen in listener.take_until(LAST)] == [*payloads, LAST]


@pytest.mark.parametrize("kind", ["group", "connected", "shared", "dual stack"])
def test_a_program_receives_the_group_whatever_its_socket_is_like(
    line: Line, tmp_path: Path, kind: str
) -> None:
    payloads = [f"number {number}".encode() for number in range(50)]
    family = socket.AF_INET6 if kind == "dual stack" else socket.AF_INET
    address = {"group": "239.1.1.1", "connected": "239.1.1.1", "shared": "", "dual stack": "::"}[kind]
    with (
        Daemon(line.relay, tmp_path, config()) as daemon,
        Outlet(line.source, GROUP_V4.format("a0")) as outlet,
        line.relay.socket(family, socket.SOCK_DGRAM) as local,
    ):
        assert bypass(daemon)["on"]
        local.settimeout(DEADLINE_S)
        if kind == "shared":
            local.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        local.bind((address, 5001))
        if kind == "connected":
            local.connect(outlet.socket.getsockname()[:2])
        request = struct.pack("=4s4si", socket.inet_aton("239.1.1.1"), bytes(4), line.relay.index_of("r0"))
        with line.relay.entered():
            local.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        outlet.send(*payloads)

        assert [local.recv(100) for _ in payloads] == payloads


def test_a_device_on_top_of_the_interface_receives_the_group_as_well(line: Line, tmp_path: Path) -> None:
    """The container's end of a macvlan, say: its socket is nobody that a look-up on the interface finds."""
    line.relay.ip(
        "link add mv0 link r0 type macvlan mode bridge", "addr add 10.1.0.9/24 dev mv0", "link set mv0 up"
    )
    payloads = [f"number {number}".encode() for number in range(50)]
    with (
        Daemon(line.relay, tmp_path, config()) as daemon,
        Listener(line.relay, GROUP_V4.format("mv0")) as local,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, GROUP_V4.format("a0")) as outlet,
    ):
        assert bypass(daemon)["on"]
        outlet.send(*payloads, LAST)
        assert [seen.payload for seen in listener.take_until(LAST)] == [*payloads, LAST]
        assert [seen.payload for seen in local.take_until(LAST)] == [*payloads, LAST]


def test_a_program_of_the_user_behind_is_asked_about_every_frame(line: Line, tmp_path: Path) -> None:
    """Also about one that ends before its ports do."""
    whole = Packet("10.1.0.1", "239.1.1.1", 5001).frame()
    drop_all = struct.pack("=BBhIBBhI", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)  # r0 = TCX_DROP; exit
    with Daemon(line.relay, tmp_path, config()) as daemon, Tap(line.source, "a0") as tap:
        assert bypass(daemon)["on"]
        with line.relay.entered():
            behind = lib.mcr_bypass__attach(line.relay.index_of("r0"), drop_all, len(drop_all))
        assert behind >= 0
        try:
            before = seen_by_stack(line.relay)
            tap.send(*[whole[:length] for length in range(14, len(whole))] * 10)
            wait_for("the last frame", lambda: daemon.stats()["interfaces"][0]["ignored"])
        finally:
            os.close(behind)

        assert seen_by_stack(line.relay) == before


def test_a_port_of_a_bridge_is_not_bypassed(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, config()) as daemon:
        line.relay.ip("link add br0 type bridge", "link set br0 up", "link set r0 master br0")
        wait_for("the bypass to end", lambda: not bypass(daemon)["on"])
        assert bypass(daemon)["reason"] == "is a port of another interface"
        line.relay.ip("link set r0 nomaster")
        wait_for("the bypass to begin", lambda: bypass(daemon)["on"])


@contextmanager
def multicast_router(host: Host, device: str) -> Iterator[None]:
    """Be what smcrouted is: a process with a multicast routing socket and one virtual interface."""
    with host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as router:
        router.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        # struct vifctl: number, flags, threshold, rate limit, interface, remote address
        request = struct.pack("=HBBIi4x", 0, VIFF_USE_IFINDEX, 1, 0, host.index_of(device))
        router.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, request)
        yield


def test_an_interface_of_a_multicast_router_is_not_bypassed(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, config()) as daemon:
        with multicast_router(line.relay, "r0"):
            wait_for("the bypass to end", lambda: not bypass(daemon)["on"])
            assert bypass(daemon)["reason"] == "is an interface of a multicast router"
            assert relay_some(line, daemon) >= COUNT
        wait_for("the bypass to begin", lambda: bypass(daemon)["on"])


def test_nothing_stays_when_the_daemon_is_killed(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, config()) as daemon:
        assert bypass(daemon)["on"]
        daemon.kill()
        before = seen_by_stack(line.relay)
        with Outlet(line.source, GROUP_V4.format("a0")) as outlet:
            outlet.send(*[b"x"] * COUNT)

        wait_for("the stack to see the group", lambda: seen_by_stack(line.relay) >= before + COUNT)

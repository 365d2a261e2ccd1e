"""
A laboratory: network namespaces that stand for hosts, veth pairs that stand for cables.

::

    source (a0) ---- (r0) relay (r1) ---- (b0) sink
                                (r2) ---- (b1) sink1 ...

Cable number N carries 10.N.0.0/24 and fd00:N::/64: its left end has the address that ends in 1, its right end
the one that ends in 2.
"""

import ctypes
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from tests.support.wait import wait_for

TREE = Path(__file__).resolve().parents[2]
NAMESPACES = Path("/run/netns")
COMMAND_DEADLINE_S = 20
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns() is in Python 3.12 only

# No address waits for duplicate address detection, and no host asks for routers.
_SETTINGS = {
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/dad_transmits": "0",
    "ipv6/conf/default/router_solicitations": "0",
}


@dataclass(frozen=True)
class Host:
    """One network namespace; *name* is what the test calls it."""

    name: str
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        """Give the command line that runs *arguments* on this host."""
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def start_command(self, *arguments: str) -> list[str]:
        """Give the same for what runs beside the test: if the test is killed, the kernel ends that too."""
        return ["setpriv", "--pdeathsig", "KILL", *self.command(*arguments)]

    def run(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must be *status* unless that is None."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=TREE,
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
        )
        assert status is None or done.returncode == status, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def ip(self, *lines: str) -> None:
        """Configure the network by lines for ``ip -batch``."""
        _ip("-n", self.namespace, "-batch", "-", lines=lines)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be on this host, with the calling thread only; sockets opened meanwhile stay there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(NAMESPACES / self.namespace)
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket of this host; the caller owns it."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def index_of(self, device: str) -> int:
        """Give the index of an interface."""
        with self.entered():
            return socket.if_nametoindex(device)

    def read(self, name: str) -> str:
        """Read a file below /proc/net."""
        with self.entered():
            return Path(f"/proc/thread-self/net/{name}").read_text(encoding="ascii")

    def set(self, name: str, value: str) -> None:
        """Set a variable below /proc/sys/net."""
        with self.entered():
            Path(f"/proc/sys/net/{name}").write_text(value, encoding="ascii")

    def is_up(self, device: str) -> bool:
        """Say whether an interface has noticed that its cable is plugged in."""
        shown = _ip("-n", self.namespace, "-json", "link", "show", "dev", device)
        return bool(json.loads(shown)[0]["operstate"] == "UP")


class Lab:
    """Makes hosts and cables, and removes them at the end of ``with``; also what an aborted run has left."""

    def __init__(self) -> None:
        self._namespaces: list[str] = []
        self._cables = itertools.count(1)

    def __enter__(self) -> Self:
        remove_stale()
        return self

    def __exit__(self, *_exception: object) -> None:
        for namespace in self._namespaces:
            _ip("netns", "del", namespace)

    def host(self, name: str) -> Host:
        """Make a host."""
        host = Host(name, f"mcr-{os.getpid()}-{name}")
        _ip("netns", "add", host.namespace)
        self._namespaces.append(host.namespace)
        for variable, value in _SETTINGS.items():
            host.set(variable, value)
        host.ip("link set lo up")
        return host

    def cable(self, left: Host, left_device: str, right: Host, right_device: str, *, queues: int = 1) -> None:
        """Connect two hosts; both ends have addresses, and are up when this returns."""
        self._plug(left, left_device, right, right_device, queues=queues)
        self._number(left, left_device, right, right_device)

    def _number(self, left: Host, left_device: str, right: Host, right_device: str) -> None:
        """Give both ends of a connection addresses, and wait until they are up."""
        number = next(self._cables)
        for end, (host, device) in enumerate(((left, left_device), (right, right_device)), start=1):
            host.ip(
                f"addr add 10.{number}.0.{end}/24 dev {device}",
                f"addr add fd00:{number}::{end}/64 dev {device} nodad",
            )
            wait_for(f"{device} of {host.name} to be up", partial(host.is_up, device))

    def _plug(self, left: Host, left_device: str, right: Host, right_device: str, *, queues: int = 1) -> None:
        shape = f"numtxqueues {queues} numrxqueues {queues}"
        left.ip(
            f"link add {left_device} {shape} type veth "
            f"peer name {right_device} {shape} netns {right.namespace}",
            f"link set {left_device} up",
        )
        right.ip(f"link set {right_device} up")

    def line(self, *, sinks: int = 1, queues: int = 1) -> "Line":
        """Make the standard shape, with as many sinks as wanted."""
        source, relay = self.host("source"), self.host("relay")
        self.cable(source, "a0", relay, "r0", queues=queues)
        return self._with_sinks(source, relay, sinks)

    def switched_line(self) -> "Line":
        """
        Make the standard shape with a switch between source and relay.

        The switch forwards a group only to ports that it has seen an IGMP or MLD report from.
        """
        source, switch, relay = self.host("source"), self.host("switch"), self.host("relay")
        # The switch filters once its querier has waited for answers: a response interval, in hundredths of a
        # second, and the one that was set before the querier was switched on.
        switch.ip(
            "link add br0 type bridge mcast_snooping 1 mcast_query_response_interval 10 "
            "mcast_last_member_interval 10",
            "link set br0 type bridge mcast_querier 1",
            "link set br0 up",
        )
        self._plug(source, "a0", switch, "p0")
        self._plug(relay, "r0", switch, "p1")
        switch.ip("link set p0 master br0", "link set p1 master br0")
        self._number(source, "a0", relay, "r0")
        return self._with_sinks(source, relay, 1)

    def _with_sinks(self, source: Host, relay: Host, sinks: int) -> "Line":
        names = ["sink", *(f"sink{number}" for number in range(1, sinks))]
        hosts = [self.host(name) for name in names]
        for number, host in enumerate(hosts):
            self.cable(relay, f"r{number + 1}", host, f"b{number}")
        return Line(source, relay, tuple(hosts))


@dataclass(frozen=True)
class Line:
    """The standard shape."""

    source: Host
    relay: Host
    sinks: tuple[Host, ...]

    @property
    def sink(self) -> Host:
        """Give the first sink."""
        return self.sinks[0]


def remove_stale() -> None:
    """Remove the namespaces of test runs that did not live to do it themselves."""
    for path in NAMESPACES.glob("mcr-*-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            # Two runs may find the same one.
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)


def _ip(*arguments: str, lines: Sequence[str] = ()) -> str:
    done = subprocess.run(
        ["ip", *arguments],
        check=False,
        capture_output=True,
        text=True,
        input="\n".join(lines),
        timeout=COMMAND_DEADLINE_S,
    )
    assert done.returncode == 0, f"ip {arguments} {lines}: {done.stderr}"
    return done.stdout


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

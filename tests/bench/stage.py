"""
Where the benchmarks play: a row of network namespaces, and who may use which CPU.

::

    source (a0) ---- (r0) relay (r1) ---- (r0) relay1 (r1) ---- ... ---- (b0) sink

The sender has a CPU for itself.  Relays that are processes, and the receiver, share the other one.  What a
kernel relays it does on the sender's CPU: veth hands a frame over on the CPU that sent it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from mcr.model.steering import rule_hash
from tests.bench.job import INPUT_PORT, OUTPUT_PORT, Job
from tests.support import lab
from tests.support.lab import NAMESPACES, Host, Lab

PREFIX = "mcrb-"


class CannotRun(Exception):
    """The benchmarks cannot run here; says why."""


@dataclass(frozen=True, slots=True)
class Cpus:
    """The CPU of the sender, the one of relay and receiver, and all that this process may use."""

    sender: int
    relay: int
    usable: tuple[int, ...]


def choose_cpus() -> Cpus:
    """
    Take the first two usable CPUs.

    Raises:
        CannotRun: there is only one.
    """
    usable = tuple(sorted(os.sched_getaffinity(0)))
    if len(usable) < 2:
        raise CannotRun(f"got {len(usable)} usable CPU, expected at least 2: sender and relay need one each")
    return Cpus(usable[0], usable[1], usable)


@dataclass(frozen=True, slots=True)
class Stage:
    """The hosts of one scenario, and the addresses that its traffic has at each relay."""

    source: Host
    relays: tuple[Host, ...]
    sink: Host
    cpus: Cpus

    def inputs(self, hop: int, job: Job) -> list[str]:
        """Give the input endpoints at relay number *hop*."""
        groups = job.flows if hop == 0 else job.flows * job.copies
        return _consecutive(self._first_group(hop), groups, "r0", _port(hop))

    def outputs(self, hop: int, job: Job) -> list[str]:
        """Give the output endpoints of relay number *hop*; flow after flow, the copies of each together."""
        return _consecutive(self._first_group(hop + 1), job.flows * job.copies, "r1", _port(hop + 1))

    def sent_to(self, flow: int = 0) -> str:
        """Give the endpoint that a flow is sent to."""
        return _consecutive(self._first_group(0), flow + 1, "a0", _port(0))[flow]

    def arrives_at(self, *, translated: bool) -> str:
        """Give the first endpoint at which datagrams arrive, past a relay that translates or another."""
        return self._place(len(self.relays) if translated else 0, "b0")

    def group(self, hop: int) -> str:
        """Give the first group of the traffic in front of relay number *hop*."""
        return self._first_group(hop)

    def _place(self, hop: int, interface: str) -> str:
        return f"{self._first_group(hop)}%{interface}:{_port(hop)}"

    def _first_group(self, hop: int) -> str:
        """Choose a group whose worker, if there is one for each CPU, runs on the CPU of the relays."""
        worker = self.cpus.usable.index(self.cpus.relay)
        candidates = (f"239.{hop + 1}.{number}.1" for number in range(256))
        port, workers = _port(hop), len(self.cpus.usable)
        return next(group for group in candidates if rule_hash(ip_address(group), port) % workers == worker)


def _port(hop: int) -> int:
    return INPUT_PORT if hop == 0 else OUTPUT_PORT + hop - 1


def _consecutive(first: str, count: int, interface: str, port: int) -> list[str]:
    start = ip_address(first)
    return [f"{start + number}%{interface}:{port}" for number in range(count)]


@contextmanager
def staged(cpus: Cpus, *, hops: int, mtu: int) -> Iterator[Stage]:
    """Build the row of hosts, and remove it at the end."""
    with BenchLab() as built:
        source, sink = built.host("source"), built.host("sink")
        relays = tuple(built.host(f"relay{number}") for number in range(hops))
        left, device = source, "a0"
        for relay in relays:
            _connect(built, (left, device), (relay, "r0"), mtu)
            left, device = relay, "r1"
        _connect(built, (left, device), (sink, "b0"), mtu)
        # Super-packets of a UDP socket are cut before the cable: every datagram is a frame of its own.
        source.ip("link set a0 gso_max_segs 1")
        yield Stage(source, relays, sink, cpus)


def _connect(built: Lab, left: tuple[Host, str], right: tuple[Host, str], mtu: int) -> None:
    built.cable(*left, *right)
    for host, device in (left, right):
        host.ip(f"link set {device} mtu {mtu}")


class BenchLab(Lab):
    """A laboratory whose namespaces say that they belong to the benchmarks."""

    def __enter__(self) -> Self:
        _remove_stale()
        return self

    def host(self, name: str) -> Host:
        """Make a host, as `Lab.host` does."""
        host = Host(name, f"{PREFIX}{os.getpid()}-{name}")
        lab._ip("netns", "add", host.namespace)
        self._namespaces.append(host.namespace)
        for variable, value in lab._SETTINGS.items():
            host.set(variable, value)
        host.ip("link set lo up")
        return host


def _remove_stale() -> None:
    for path in NAMESPACES.glob(f"{PREFIX}*-*"):
        owner = path.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            lab._ip("netns", "del", path.name)

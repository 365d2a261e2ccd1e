"""Sockets and memberships that only pretend; they notice what is opened or closed twice."""

import struct
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any, Self, cast

from mcr.errors import KernelError
from mcr.model.bpf import Destination
from mcr.model.bpf_code import Program, nothing
from mcr.model.endpoint import Address, Endpoint
from mcr.model.link import Link
from mcr.model.policy import SourcePolicy
from mcr.model.rule import Output
from mcr.supervisor import sockets
from mcr.supervisor.memberships import Membership
from mcr.supervisor.sockets import RingShape, ring_shape
from mcr.wire.worker import PRIORITIES
from tests.support import bpf_machine
from tests.support.packets import V4, V6


class FakeSocket:
    """What has a number, and can be closed once."""

    def __init__(self, number: int) -> None:
        self.is_open = True
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        assert self.is_open, f"{self} is closed twice"
        self.is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class Ring(FakeSocket):
    """One worker's packet socket on an interface."""

    def __init__(self, number: int, worker: int, fanout: "FakeFanout") -> None:
        super().__init__(number)
        self.worker = worker
        self.link = fanout.link
        self.drops = 0
        self._fanout = fanout

    def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
        """Give PACKET_STATISTICS, which begin anew."""
        drops, self.drops = self.drops, 0
        return struct.pack("=II", 0, drops).ljust(size, b"\0")

    def passes(self, endpoint: Endpoint) -> bool:
        """Say whether a datagram to this destination comes to any worker."""
        return self._fanout.member(endpoint, cpu=0) > 0

    def may_get(self, endpoint: Endpoint, workers: int) -> bool:
        """Say whether the kernel may give a datagram to this destination to this worker."""
        return self.worker + 1 in {self._fanout.member(endpoint, cpu) for cpu in range(workers)}


class FakeFanout:
    """The packet sockets of an interface, and the steering program that they have now."""

    def __init__(self, link: Link, first: int, workers: int) -> None:
        self.link = link
        self.program: Program = nothing()
        self.sink = FakeSocket(first)
        self.rings = [Ring(first + 1 + worker, worker, self) for worker in range(workers)]

    def member(self, endpoint: Endpoint, cpu: int) -> int:
        """Say who gets a datagram to this destination that arrives on this CPU."""
        whole = V4 if endpoint.address.version == 4 else V6
        packet = type(whole)(whole.source, endpoint.address, endpoint.port)
        return bpf_machine.run(self.program, packet.ethertype, bytes(packet), cpu=cpu)

    def close(self) -> None:
        for one in (self.sink, *self.rings):
            one.close()


class FakeBypass:
    """What stands for `Bypass`."""

    def __init__(self, _ifindex: int, _link_bytes: int | None) -> None:
        self.destinations: frozenset[Destination] = frozenset()
        self.is_open = True

    def set(self, destinations: frozenset[Destination]) -> None:
        assert self.is_open
        assert destinations != self.destinations
        self.destinations = destinations

    def close(self) -> None:
        assert self.is_open
        self.is_open = False


class FakeSockets:
    """
    What stands for the module `mcr.supervisor.sockets`.

    *refused* says what the kernel says no to, by what and where: ``ring in``, ``filter in``, ``output out``,
    ``hold 2``.
    """

    def __init__(self, refused: Collection[str]) -> None:
        self.opened: list[FakeSocket] = []
        self.ring_shape = ring_shape
        self._refused = refused

    @property
    def rings(self) -> list[Ring]:
        """Give the packet sockets that are open."""
        return [one for one in self.opened if isinstance(one, Ring) and one.is_open]

    def find(self, number: int) -> FakeSocket:
        """Give the socket with a number, which must be open still."""
        found = self.opened[number]
        assert found.is_open, f"{found} is handed over closed"
        return found

    def open_fanout(self, link: Link, workers: int, _shape: RingShape, *, watches: bool) -> FakeFanout:
        assert watches
        assert all(ring.link.index != link.index for ring in self.rings), f"{link.name} is opened twice"
        self.ask(f"ring {link.name}")
        fanout = FakeFanout(link, len(self.opened), workers)
        self.opened += [fanout.sink, *fanout.rings]
        return fanout

    def set_steering(self, fanout: FakeFanout, program: Program) -> None:
        assert fanout.sink.is_open
        self.ask(f"filter {fanout.link.name}")
        fanout.program = program

    def open_output(
        self, output: Output, _ifindex: int, version: int, towards: Address | None
    ) -> sockets.Sender:
        assert output.source is not SourcePolicy.KEEP, f"{output.to} needs no socket"
        self.ask(f"output {output.to.interface}")
        self.opened.append(FakeSocket(len(self.opened)))
        host = ip_address("10.9.9.9" if version == 4 else "fd09::9")
        is_known = towards is not None or isinstance(output.to, Endpoint)
        source = host if is_known else type(host)(0)
        return sockets.Sender(cast("Any", self.opened[-1]), source, len(self.opened))

    def open_packet_senders(self) -> list[FakeSocket]:
        self.ask("packets")
        senders = [FakeSocket(len(self.opened) + n) for n in range(PRIORITIES)]
        self.opened += senders
        return senders

    def hold_port(self, ifindex: int, _address: str, _port: int, _family: int) -> FakeSocket:
        self.ask(f"hold {ifindex}")
        self.opened.append(FakeSocket(len(self.opened)))
        return self.opened[-1]

    def ask(self, step: str) -> None:
        if step in self._refused:
            raise KernelError("refused", step, 1)


class FakeMemberships:
    """What stands for `Memberships`; joining on an interface that is *refused* as ``join in`` fails."""

    def __init__(self, refused: Collection[str]) -> None:
        self._held: set[Membership] = set()
        self._refused = refused

    def held(self) -> set[Membership]:
        return self._held

    def join(self, wanted: Membership) -> None:
        assert wanted not in self._held
        if f"join {wanted.interface}" in self._refused:
            raise KernelError("join", str(wanted), 1)
        self._held.add(wanted)

    def leave(self, unwanted: Membership) -> None:
        self._held.remove(unwanted)

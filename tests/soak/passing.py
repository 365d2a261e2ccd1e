"""Passing rules in the daemon, what is sent to them, and what comes of it."""

import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import Self

from mcr.wire.documents import StatsDocument
from tests.soak.catalogue import FIRST_PORT, FIXED_GROUPS, PORTS
from tests.soak.ledger import Ledger
from tests.soak.model import (
    SOURCES,
    VERSIONS,
    Arrival,
    Datagram,
    PassingRule,
    all_destinations,
    digest,
    payload_of,
    sender_address,
    winner,
)
from tests.soak.stage import Stage
from tests.soak.watch import Watch
from tests.support.daemon import Daemon, rule_stats
from tests.support.lab import Host
from tests.support.listener import IPV6_TCLASS, Listener
from tests.support.traffic import MCAST_JOIN_GROUP
from tests.support.wait import DEADLINE_S

MEMBERSHIPS_PER_SOCKET = 100
FIRST_S = 0.2
RING_FRAME_BYTES = 1472  # what is sure to fit; the rest is fragments that were put together


class Mouths:
    """A socket for each address of the host that sends."""

    def __init__(self, host: Host, device: str, stack: ExitStack) -> None:
        self._index = host.index_of(device)
        keys = [(version, source) for version in VERSIONS for source in range(SOURCES)]
        self._sockets = {key: stack.enter_context(self._open(host, *key)) for key in keys}

    def _open(self, host: Host, version: int, source: int) -> socket.socket:
        sender = host.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        if version == 4:
            which = struct.pack("=4s4si", b"", b"", self._index)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, which)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        with host.entered():
            sender.bind((sender_address(version, source), 0))
        return sender

    def send(self, datagrams: Sequence[Datagram], payloads: Sequence[bytes]) -> None:
        """Send a burst: the first datagram says for all from whom, and with which TTL and DSCP."""
        first = datagrams[0]
        sender = self._sockets[first.version, first.source]
        if first.version == 4:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, first.ttl)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, first.dscp << 2)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, first.ttl)
            sender.setsockopt(socket.IPPROTO_IPV6, IPV6_TCLASS, first.dscp << 2)
        for datagram, payload in zip(datagrams, payloads, strict=True):
            sender.sendto(payload, datagram.to)


class Ears:
    """Sockets for every address and port that a passing rule may send to, whether one does or not."""

    def __init__(self, sinks: Sequence[Host], stack: ExitStack) -> None:
        self._listeners: dict[int, tuple[int, Listener]] = {}
        for sink, host in enumerate(sinks):
            for version in VERSIONS:
                groups = all_destinations(version, FIXED_GROUPS)
                self._join(host, f"b{sink}", version, groups, stack)
                for port in range(FIRST_PORT, FIRST_PORT + PORTS):
                    place = f"[{groups[0]}%b{sink}]" if version == 6 else f"{groups[0]}%b{sink}"
                    listener = stack.enter_context(Listener(host, f"{place}:{port}"))
                    self._listeners[listener.socket.fileno()] = (sink, listener)
        self._poll = select.poll()
        for descriptor in self._listeners:
            self._poll.register(descriptor, select.POLLIN)

    def _join(self, host: Host, device: str, version: int, groups: Sequence[str], stack: ExitStack) -> None:
        """Join on sockets of their own: all others get every group that the host has joined."""
        index = host.index_of(device)
        family, level = (
            (socket.AF_INET, socket.IPPROTO_IP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_IPV6)
        )
        for start in range(0, len(groups), MEMBERSHIPS_PER_SOCKET):
            member = stack.enter_context(host.socket(family, socket.SOCK_DGRAM))
            for group in groups[start : start + MEMBERSHIPS_PER_SOCKET]:
                packed = socket.inet_pton(family, group)
                name = struct.pack("=HH4s" if version == 4 else "=HHI16sI", *_name_parts(family, packed))
                member.setsockopt(
                    level, MCAST_JOIN_GROUP, struct.pack("=I4x", index) + name.ljust(128, b"\0")
                )

    def wait(self, wait_s: float) -> None:
        """Wait until something has come, so long at most."""
        self._poll.poll(wait_s * 1000)

    def hear(self, wait_s: float) -> Iterator[Arrival]:
        """Give what has come; if there is nothing, wait so long for the first."""
        while ready := self._poll.poll(wait_s * 1000):
            for descriptor, _ in ready:
                sink, listener = self._listeners[descriptor]
                seen = listener.take()
                yield Arrival(
                    sink, seen.group, seen.port, seen.source, seen.ttl, seen.dscp, digest(seen.payload)
                )
            wait_s = 0.0


def _name_parts(family: int, packed: bytes) -> tuple[int | bytes, ...]:
    return (family, 0, packed) if family == socket.AF_INET else (family, 0, 0, packed, 0)


@dataclass(frozen=True, slots=True)
class Burst:
    """What is sent at once, and by how much the counters of each rule must grow."""

    datagrams: Sequence[Datagram]
    payloads: Sequence[bytes]
    per_rule: dict[str, int]
    before: dict[str, int]


@dataclass
class Passing:
    """The passing rules that stand, and the account of what was sent to them."""

    daemon: Daemon
    watch: Watch
    mouths: Mouths
    ears: Ears
    ledger: Ledger = field(default_factory=Ledger)
    rules: dict[str, PassingRule] = field(default_factory=dict)
    serial: int = 0
    adds: int = 0
    removes: int = 0
    sent: int = 0
    received: int = 0

    def add(self, rule: PassingRule) -> None:
        """Add a rule; from the answer on it carries packets."""
        with self.daemon.client() as client:
            client.call("rule.add", **rule.params())
        self.rules[rule.name] = rule
        self.adds += 1

    def remove(self, name: str) -> None:
        """Remove a rule; from the answer on it carries nothing."""
        with self.daemon.client() as client:
            client.call("rule.del", rule=name)
        del self.rules[name]
        if not self.rules:
            self.watch.expect_end("interface r3")
        self.removes += 1

    def prepare(self, datagrams: Sequence[Datagram], *, is_lethal: bool = False) -> Burst:
        """
        Note what must come of datagrams that are about to be sent.

        If a worker is to be killed over them, those longer than a frame of the ring may be lost.
        """
        before = _matched(self.watch.check_counters())
        payloads = [self._next_payload(one.size) for one in datagrams]
        per_rule: dict[str, int] = {}
        for datagram, payload in zip(datagrams, payloads, strict=True):
            rule = winner(self.rules.values(), datagram)
            if rule is not None:
                may_be_lost = is_lethal and datagram.size > RING_FRAME_BYTES
                per_rule[rule.name] = per_rule.get(rule.name, 0) + (not may_be_lost)
                self._expect(rule, datagram, payload, may_be_lost=may_be_lost)
        return Burst(datagrams, payloads, per_rule, {name: before[name] for name in per_rule})

    def send(self, burst: Burst) -> None:
        """Send what was prepared."""
        self.mouths.send(burst.datagrams, burst.payloads)
        self.sent += len(burst.datagrams)

    def await_first(self) -> None:
        """Wait until something comes, but not for long: nothing may be due."""
        self.ears.wait(FIRST_S)

    def _next_payload(self, size: int) -> bytes:
        self.serial += 1
        return payload_of(self.serial, size)

    def _expect(self, rule: PassingRule, datagram: Datagram, payload: bytes, *, may_be_lost: bool) -> None:
        for index, output in enumerate(rule.outputs):
            arrival = output.arrival(datagram, payload)
            if arrival is not None:
                self.ledger.expect(
                    arrival, (rule.name, index), may_be_lost=may_be_lost or output.rate is not None
                )

    def settle(self, burst: Burst, *, most_repeated: int) -> None:
        """Wait until all that was sent is accounted for, at the relay and at the sinks."""

        def is_counted(stats: StatsDocument) -> bool:
            now = _matched(stats)
            return all(now[name] >= burst.before[name] + count for name, count in burst.per_rule.items())

        self._hear_until("everything that is due", lambda: not self.ledger.due)
        stats = self.daemon.wait_for_stats("every datagram of a burst to be counted", is_counted)
        if not most_repeated:
            self._compare(burst, stats)
        self.drain()
        self.ledger.close_burst()
        problems = self.ledger.problems(most_repeated)
        assert not problems, "\n".join(problems)

    def _compare(self, burst: Burst, stats: StatsDocument) -> None:
        """Wait until as much has come as the outputs say they have sent; nothing else was left out."""
        for name, count in burst.per_rule.items():
            counted = rule_stats(stats, name)
            assert counted["matched"] == burst.before[name] + count, f"{counted}, sent {count}"
            for index, output in enumerate(self.rules[name].outputs):
                shown = counted["outputs"][index]
                owner, sent = (name, index), shown["sent"]
                self._hear_until(
                    f"{sent} datagrams of {owner}", lambda o=owner, n=sent: self.ledger.arrived[o] >= n
                )
                assert self.ledger.arrived[owner] == sent, f"{shown}: {self.ledger.arrived[owner]} came"
                reasons = {reason for reason, dropped in shown["not_sent"].items() if dropped}
                allowed = {"ttl"} if output.ttl == "decrement" else set()
                allowed |= {"rate"} if output.rate is not None else set()
                assert reasons <= allowed | {"interrupted"}, shown

    def _hear_until(self, what: str, condition: object) -> None:
        assert callable(condition)
        ends_at = monotonic() + DEADLINE_S
        self._take(0.0)
        while not condition():
            left = ends_at - monotonic()
            assert left > 0, f"waited {DEADLINE_S} s in vain for {what}: {self._missing()}"
            self._take(left)

    def _missing(self) -> str:
        missing = list(self.ledger.due)[:5]
        named = [f"{one} by {self.ledger.owners[one]}" for one in missing]
        return f"{sum(self.ledger.due.values())} are missing, such as {named}"

    def _take(self, wait_s: float) -> None:
        for arrival in self.ears.hear(wait_s):
            self.ledger.take(arrival)
            self.received += 1

    def drain(self) -> None:
        """Take what has come."""
        self._take(0.0)

    def start_round(self) -> None:
        """Begin a new account; with no rule standing nothing may come any more."""
        assert not self.rules
        self.ledger = Ledger()

    @classmethod
    def on(cls, stage: Stage, daemon: Daemon, watch: Watch, stack: ExitStack) -> Self:
        """Open all sockets."""
        return cls(daemon, watch, Mouths(stage.second, "c0", stack), Ears(stage.line.sinks, stack))


def _matched(stats: StatsDocument) -> dict[str, int]:
    return {rule["name"]: rule["matched"] for rule in stats["rules"]}

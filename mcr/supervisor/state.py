"""What the supervisor knows: the rules that should be, and what it has open, which only `perform` changes."""

import itertools
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcr.model.bpf import Destination
from mcr.model.endpoint import Address
from mcr.model.link import Link
from mcr.model.rule import RuleId
from mcr.model.ruleset import Ruleset
from mcr.model.share import Share
from mcr.supervisor.actions import Action
from mcr.supervisor.bypass import Bypass
from mcr.supervisor.counters import CounterFile
from mcr.supervisor.layout import InterfacePlan, OutputPlan, PortHold, Wishes
from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.memberships import Memberships
from mcr.supervisor.reassembly import ReassemblyFailures
from mcr.supervisor.slots import SlotBook, SlotPool
from mcr.supervisor.sockets import Fanout, RingShape, read_kernel_drops
from mcr.supervisor.workers import WorkerProcess
from mcr.wire.counters import MAX_INTERFACES
from mcr.wire.share import Digester


@dataclass(slots=True)
class OpenInterface:
    """
    An interface with its packet sockets.

    Attributes:
        opened_ns: CLOCK_REALTIME; what was seen before was seen on another interface with this slot.
        bypass: keeps what only mcr wants from the IP stack.
        destinations: those that are given to the workers.
        dropped: frames that found no room so far, by worker number.
        is_stuck: it must be opened anew (`mcr.supervisor.stuck`).
    """

    plan: InterfacePlan
    slot: int
    shape: RingShape
    fanout: Fanout
    opened_ns: int
    bypass: Bypass
    destinations: frozenset[Destination] = frozenset()
    dropped: list[int] = field(default_factory=list)
    is_stuck: bool = False

    def count_drops(self) -> None:
        """Add what the kernel has dropped since the last call; its own count begins anew with each."""
        counts = map(read_kernel_drops, self.fanout.rings)
        self.dropped = [sum(pair) for pair in itertools.zip_longest(self.dropped, counts, fillvalue=0)]

    def close(self) -> None:
        """Close its sockets."""
        self.bypass.close()
        self.fanout.close()


@dataclass(slots=True)
class OpenedOutput:
    """
    A socket, and the plan that it was opened for.

    Attributes:
        source, port: that it sends from; unspecified where the kernel decides for each datagram.
    """

    plan: OutputPlan
    socket: socket.socket
    source: Address
    port: int


@dataclass(slots=True)
class Worker:
    """
    One worker over all its processes.

    Attributes:
        cpu: that it is pinned to.
        start_at_s: monotonic time before which it is not started again.
        since_s: monotonic time at which its state began.
        is_ending: its process was killed and has not ended yet.
        rings: ifindexes given to the present process.
        outputs: plans of the sockets given to the present process, by slot.
        share, generation: the last share sent.
        installed: generation and digest that the process acknowledged.
        digester: knows the hashes of the rules that the worker should have.
    """

    number: int
    cpu: int
    counters: CounterFile
    state: WorkerState = WorkerState.DOWN
    process: WorkerProcess | None = None
    start_at_s: float = 0.0
    since_s: float = 0.0
    backoff_s: float = 0.0
    restarts: int = 0
    is_ending: bool = False
    rings: set[int] = field(default_factory=set)
    outputs: dict[int, OutputPlan] = field(default_factory=dict)
    share: Share | None = None
    generation: int = 0
    sent_at_s: float = 0.0
    installed: tuple[int, int] | None = None
    digester: Digester = field(default_factory=Digester)

    def end(self, backoff_s: float, now_s: float) -> None:
        """Forget the process and what it had; the next one starts after *backoff_s*."""
        self.process = None
        self.is_ending = False
        self.share = self.installed = None
        self.rings.clear()
        self.outputs.clear()
        self.restarts += 1
        self.backoff_s = backoff_s
        self.start_at_s = now_s + backoff_s

    @property
    def waits_for_answer(self) -> bool:
        """Say whether a share was sent that is not acknowledged yet."""
        return self.share is not None and (self.installed is None or self.installed[0] != self.generation)


@dataclass(slots=True)
class State:
    """
    All of it.

    Attributes:
        interfaces: by ifindex.
        outputs: by slot.
        loops: times that the loop guard has broken a loop, by rule.
        failures: steps that the kernel refused since the last look at the world, and why.
    """

    wishes: Wishes
    workers: list[Worker]
    memberships: Memberships
    rules: Ruleset = field(default_factory=Ruleset)
    links: Mapping[str, Link] = field(default_factory=dict)
    slots: SlotBook = field(default_factory=SlotBook)
    interface_slots: SlotPool = field(default_factory=lambda: SlotPool(MAX_INTERFACES))
    interfaces: dict[int, OpenInterface] = field(default_factory=dict)
    outputs: dict[int, OpenedOutput] = field(default_factory=dict)
    holds: dict[PortHold, socket.socket] = field(default_factory=dict)
    loops: dict[RuleId, int] = field(default_factory=dict)
    reassembly_failures: ReassemblyFailures = field(default_factory=ReassemblyFailures)
    failures: dict[Action, str] = field(default_factory=dict)

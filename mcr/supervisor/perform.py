"""The one module that touches the world: it does what `reconcile` asks for, and notes what came of it."""

import errno
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass

from mcr.errors import KernelError
from mcr.model import bpf
from mcr.runtime.logs import Logger
from mcr.supervisor import sockets
from mcr.supervisor.actions import (
    Action,
    CloseOutput,
    CloseRings,
    HoldPort,
    Join,
    Leave,
    OpenOutput,
    OpenRings,
    ReleasePort,
    ReleaseSlots,
    SetBypass,
    SetFilter,
    SocketAction,
    WorkerAction,
)
from mcr.supervisor.bypass import Bypass
from mcr.supervisor.children import Children
from mcr.supervisor.layout import Layout
from mcr.supervisor.state import OpenedOutput, OpenInterface, State
from mcr.wire.counters import MAX_INTERFACES, interface_span


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted at an interface before it was opened anew: frames dropped, and the rest, by worker."""

    dropped: list[int]
    counters: list[bytes]


class Performer:
    """Carries out actions on a `State`, of which it and its *children* are the only writers."""

    def __init__(self, state: State, children: Children, log: Logger) -> None:
        self._state = state
        self._children = children
        self._log = log
        self._reported: set[Action] = set()
        self._counted: dict[int, Counted] = {}

    async def perform(self, action: Action) -> None:
        """Carry out one action; what the kernel refuses is noted as a failure, and logged the first time."""
        try:
            if isinstance(action, WorkerAction):
                await self._children.perform(action)
            else:
                self._perform(action)
            if self._reported:
                self._reported.discard(action)
        except KernelError as error:
            self._state.failures[action] = str(error)
            if action not in self._reported:
                self._log.warning("step failed", action=type(action).__name__, reason=str(error))
                self._reported.add(action)

    def follow_links(self, layout: Layout) -> None:
        """Note what open interfaces are called now, and what else has changed about them."""
        for plan in layout.interfaces.values():
            if plan.link.index in self._state.interfaces:
                self._state.interfaces[plan.link.index].plan = plan

    async def stop(self, deadline_s: float) -> None:
        """End all workers within the deadline, and close everything."""
        await self._children.stop(deadline_s)
        with ExitStack() as closing:
            for interface in self._state.interfaces.values():
                closing.callback(interface.close)
            for opened in self._state.outputs.values():
                closing.callback(opened.socket.close)
            for held in self._state.holds.values():
                closing.callback(held.close)
            closing.callback(self._state.memberships.close)

    def _perform(self, action: SocketAction) -> None:
        state = self._state
        match action:
            case OpenRings():
                self._open_rings(action)
            case CloseRings():
                self._close_rings(action.ifindex)
            case OpenOutput():
                self._open_output(action)
            case CloseOutput():
                state.outputs.pop(action.slot).socket.close()
            case SetFilter():
                self._set_filter(action)
            case SetBypass():
                state.interfaces[action.ifindex].bypass.set(action.destinations)
            case Join():
                state.memberships.join(action.membership)
            case Leave():
                state.memberships.leave(action.membership)
            case HoldPort():
                self._hold_port(action)
            case ReleasePort():
                state.holds.pop(action.hold).close()
            case ReleaseSlots():
                state.slots.release()

    def _open_rings(self, action: OpenRings) -> None:
        link = action.plan.link
        if self._state.interface_slots.is_full:
            raise KernelError(f"open more than {MAX_INTERFACES} interfaces, such as", link.name, errno.ENOSPC)
        shape = sockets.ring_shape(link.mtu, self._state.wishes.ring_bytes)
        watches = self._state.wishes.watch_unmatched
        fanout = sockets.open_fanout(link, len(self._state.workers), shape, watches=watches)
        slot = self._state.interface_slots.take()
        for worker in self._state.workers:
            worker.counters.clear(interface_span(slot))
        bypass = Bypass(link.index, link.header_bytes)
        opened = OpenInterface(action.plan, slot, shape, fanout, time.time_ns(), bypass)
        self._count_on(opened)
        self._state.interfaces[link.index] = opened
        self._log.info("interface opened", interface=link.name, steering=action.plan.steering.value)

    def _close_rings(self, ifindex: int) -> None:
        interface = self._state.interfaces.pop(ifindex)
        if interface.is_stuck:
            interface.count_drops()
            counters = [worker.counters.counted(interface.slot) for worker in self._state.workers]
            self._counted[ifindex] = Counted(interface.dropped, counters)
        interface.close()
        self._state.interface_slots.give_back(interface.slot)
        self._log.info("interface closed", interface=interface.plan.link.name)

    def _count_on(self, interface: OpenInterface) -> None:
        """To whoever reads the counters it is the same interface: what was lost is to be seen."""
        before = self._counted.pop(interface.plan.link.index, None)
        if before is None:
            return
        interface.dropped = before.dropped
        for worker, counted in zip(self._state.workers, before.counters, strict=True):
            worker.counters.count_on(interface.slot, counted)

    def _open_output(self, action: OpenOutput) -> None:
        """Replace the socket only once there is a new one: the old one may still send."""
        plan = action.plan
        sender = sockets.open_output(plan.output, plan.ifindex, plan.version, plan.towards)
        previous = self._state.outputs.get(action.slot)
        self._state.outputs[action.slot] = OpenedOutput(plan, sender.socket, sender.source, sender.port)
        if previous:
            previous.socket.close()

    def _set_filter(self, action: SetFilter) -> None:
        interface = self._state.interfaces[action.ifindex]
        steering = interface.plan.steering
        program = bpf.steering_program(action.destinations, steering, len(self._state.workers))
        sockets.set_steering(interface.fanout, program)
        interface.destinations = action.destinations

    def _hold_port(self, action: HoldPort) -> None:
        hold = action.hold
        family = socket.AF_INET if hold.address.version == 4 else socket.AF_INET6
        held = sockets.hold_port(hold.ifindex, str(hold.address), hold.port, family)
        self._state.holds[hold] = held

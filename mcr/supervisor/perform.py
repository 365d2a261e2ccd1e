"""The one module that touches the world: it carries out what `reconcile` asks for, and notes what came of it."""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from mcr.errors import KernelError, PeerError
from mcr.model import bpf
from mcr.runtime import confine
from mcr.runtime.logs import Logger
from mcr.runtime.roles import WORKER
from mcr.supervisor import sockets
from mcr.supervisor.actions import (
    Action,
    CloseOutput,
    CloseRings,
    GiveOutputs,
    GiveRings,
    GiveShare,
    HoldPort,
    Join,
    KillWorker,
    Leave,
    OpenOutput,
    OpenRings,
    ReleasePort,
    ReleaseSlots,
    SetFilter,
    StartWorker,
)
from mcr.supervisor.lifecycle import WorkerEvent, WorkerState, backoff_s, next_state
from mcr.supervisor.state import OpenedOutput, OpenInterface, State, Worker
from mcr.supervisor.workers import WorkerProcess
from mcr.wire import worker as wire
from mcr.wire.counters import interface_span
from mcr.wire.share import pack_share


class Performer:
    """
    Carries out actions on a `State`, of which it is the only writer.

    *changed* is called whenever a worker's doings call for another look.
    """

    def __init__(
        self, state: State, log: Logger, changed: Callable[[], None], tasks: asyncio.TaskGroup
    ) -> None:
        self._state = state
        self._log = log
        self._changed = changed
        self._tasks = tasks
        self._generations = itertools.count(1)
        self._reported: set[Action] = set()

    async def perform(self, action: Action) -> None:
        """Carry out one action; what the kernel refuses is noted as a failure, and logged the first time."""
        try:
            await self._perform(action)
            self._reported.discard(action)
        except KernelError as error:
            self._state.failures[action] = str(error)
            if action not in self._reported:
                self._log.warning("step failed", action=type(action).__name__, reason=str(error))
                self._reported.add(action)

    async def _perform(self, action: Action) -> None:  # noqa: C901 - one line per kind of action
        match action:
            case OpenRings():
                self._open_rings(action)
            case CloseRings():
                self._close_rings(action.ifindex)
            case OpenOutput():
                self._open_output(action)
            case CloseOutput():
                self._state.outputs.pop(action.slot).socket.close()
            case SetFilter():
                self._set_filter(action)
            case StartWorker():
                await self._start_worker(self._state.workers[action.worker])
            case KillWorker():
                self._kill_worker(self._state.workers[action.worker], action.reason)
            case GiveRings() | GiveOutputs() | GiveShare():
                await self._give(self._state.workers[action.worker], action)
            case Join():
                self._state.memberships.join(action.membership)
            case Leave():
                self._state.memberships.leave(action.membership)
            case HoldPort():
                self._hold_port(action)
            case ReleasePort():
                self._state.holds.pop(action.hold).close()
            case ReleaseSlots():
                self._state.slots.release()

    def _open_rings(self, action: OpenRings) -> None:
        link = action.plan.link
        rings = sockets.open_rings(link, len(self._state.workers), action.plan.steering)
        slot = self._state.interface_slots.take()
        for worker in self._state.workers:
            worker.counters.clear(interface_span(slot))
        self._state.interfaces[link.index] = OpenInterface(
            action.plan, slot, sockets.ring_shape(link.mtu), rings
        )
        self._log.info("interface opened", interface=link.name, steering=action.plan.steering.value)

    def _close_rings(self, ifindex: int) -> None:
        interface = self._state.interfaces.pop(ifindex)
        for ring in interface.rings:
            ring.close()
        self._state.interface_slots.give_back(interface.slot)
        self._log.info("interface closed", interface=interface.plan.link.name)

    def _open_output(self, action: OpenOutput) -> None:
        """A socket that cannot be replaced is kept: it may still send."""
        opened = OpenedOutput(action.plan, sockets.open_output(action.plan.output, action.plan.ifindex))
        previous = self._state.outputs.get(action.slot)
        self._state.outputs[action.slot] = opened
        if previous:
            previous.socket.close()

    def _set_filter(self, action: SetFilter) -> None:
        interface = self._state.interfaces[action.ifindex]
        program = bpf.filter_program(action.hashes)
        for ring in interface.rings:
            sockets.set_filter(ring, program)
        interface.hashes = action.hashes

    def _hold_port(self, action: HoldPort) -> None:
        hold = action.hold
        family = socket.AF_INET if hold.address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - the version of IP
        self._state.holds[hold] = sockets.hold_port(hold.ifindex, str(hold.address), hold.port, family)

    async def _start_worker(self, worker: Worker) -> None:
        process = await WorkerProcess.start()
        worker.process = process
        self._enter(worker, WorkerEvent.STARTED)
        process.listen(
            lambda message: self._heard(worker, message), lambda error: self._breach(worker, error)
        )
        self._tasks.create_task(self._await_end(worker, process))
        try:
            await process.send(wire.Hello(worker.number, worker.cpu), [worker.counters.fileno()])
        except PeerError as error:
            self._breach(worker, error)

    def _heard(self, worker: Worker, message: wire.FromWorker) -> None:
        match message:
            case wire.Ready():
                self._check_proof(worker, message)
            case wire.Installed():
                worker.installed = (message.generation, message.digest)
                self._forget_closed(worker)
        self._changed()

    def _check_proof(self, worker: Worker, ready: wire.Ready) -> None:
        differences = confine.differences(WORKER, ready.proof)
        if differences:
            self._kill_worker(worker, "confinement: " + "; ".join(differences))
            return
        self._enter(worker, WorkerEvent.PROVEN)
        self._log.info(
            "worker ready", worker=worker.number, pid=worker.process.pid if worker.process else None
        )

    def _forget_closed(self, worker: Worker) -> None:
        """A worker closes what its table does not name, so that it must be given anew when it does again."""
        if worker.share is None or worker.waits_for_answer:
            return
        worker.rings &= {placed.ifindex for placed in worker.share.rules}
        named = {output.slot for placed in worker.share.rules for output in placed.outputs}
        worker.outputs = {slot: plan for slot, plan in worker.outputs.items() if slot in named}

    def _breach(self, worker: Worker, error: PeerError) -> None:
        self._kill_worker(worker, str(error))

    def _kill_worker(self, worker: Worker, reason: str) -> None:
        if worker.process:
            self._log.error("worker ended", worker=worker.number, pid=worker.process.pid, reason=reason)
            worker.process.kill()

    async def _await_end(self, worker: Worker, process: WorkerProcess) -> None:
        status = await process.wait()
        process.hang_up()
        lived_s = time.monotonic() - worker.since_s
        worker.backoff_s = backoff_s(worker.backoff_s, lived_s if worker.state is WorkerState.READY else 0)
        worker.start_at_s = time.monotonic() + worker.backoff_s
        worker.process = None
        worker.share = worker.installed = None
        worker.rings.clear()
        worker.outputs.clear()
        worker.restarts += 1
        self._enter(worker, WorkerEvent.EXITED)
        self._log.warning(
            "worker gone", worker=worker.number, pid=process.pid, status=status, again_in_s=worker.backoff_s
        )
        self._changed()

    def _enter(self, worker: Worker, event: WorkerEvent) -> None:
        worker.state = next_state(worker.state, event)
        worker.since_s = time.monotonic()

    async def _give(self, worker: Worker, action: GiveRings | GiveOutputs | GiveShare) -> None:
        if worker.process is None:  # it died since the action was decided
            return
        try:
            match action:
                case GiveRings():
                    await self._give_rings(worker, worker.process, action)
                case GiveOutputs():
                    await self._give_outputs(worker, worker.process, action)
                case GiveShare():
                    await self._give_share(worker, worker.process, action)
        except PeerError as error:
            self._breach(worker, error)

    async def _give_rings(self, worker: Worker, process: WorkerProcess, action: GiveRings) -> None:
        for ifindex in action.ifindexes:
            interface = self._state.interfaces[ifindex]
            message = wire.Ring(interface.slot, interface.shape.frame_bytes, interface.shape.frames)
            worker.rings.add(ifindex)
            await process.send(message, [interface.rings[worker.number].fileno()])

    async def _give_outputs(self, worker: Worker, process: WorkerProcess, action: GiveOutputs) -> None:
        for start in range(0, len(action.slots), wire.MAX_DESCRIPTORS):
            slots = action.slots[start : start + wire.MAX_DESCRIPTORS]
            opened = [self._state.outputs[slot] for slot in slots]
            versions = [one.plan.output.to.address.version for one in opened]
            worker.outputs.update((slot, one.plan) for slot, one in zip(slots, opened, strict=True))
            await process.send(wire.Outputs(slots, versions), [one.socket.fileno() for one in opened])

    async def _give_share(self, worker: Worker, process: WorkerProcess, action: GiveShare) -> None:
        worker.generation = next(self._generations)
        worker.share = action.share
        worker.sent_at_s = time.monotonic()
        content = pack_share(action.share, worker.generation)
        await process.send_file(wire.ShareFile(worker.generation, len(content)), content)

    async def stop(self, deadline_s: float) -> None:
        """End all workers, by closing their channels and, past the deadline, by force; close everything."""
        processes = [worker.process for worker in self._state.workers if worker.process]
        for process in processes:
            process.hang_up()
        _, late = await asyncio.wait(
            [asyncio.create_task(process.wait()) for process in processes]
            or [asyncio.create_task(asyncio.sleep(0))],
            timeout=deadline_s,
        )
        if late:
            for process in processes:
                process.kill()
        self._close_all()

    def _close_all(self) -> None:
        with ExitStack() as closing:
            for interface in self._state.interfaces.values():
                for ring in interface.rings:
                    closing.callback(ring.close)
            for opened in self._state.outputs.values():
                closing.callback(opened.socket.close)
            for held in self._state.holds.values():
                closing.callback(held.close)
            closing.callback(self._state.memberships.close)

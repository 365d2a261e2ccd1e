"""The worker processes over their lives: started, believed when proven, given what they need, mourned."""

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack

from mcr.errors import KernelError, McrError, PeerError
from mcr.model.share import Share
from mcr.runtime import confine
from mcr.runtime.logs import Logger
from mcr.runtime.roles import WORKER
from mcr.supervisor import sockets
from mcr.supervisor.actions import GiveOutputs, GiveRings, GiveShare, KillWorker, StartWorker, WorkerAction
from mcr.supervisor.lifecycle import WorkerEvent, WorkerState, backoff_s, next_state
from mcr.supervisor.state import State, Worker
from mcr.supervisor.workers import WorkerProcess
from mcr.wire import worker as wire
from mcr.wire.share import mapped, pack_share, unmapped


class Children:
    """
    Carries out what concerns workers, and keeps `State.workers` true to their processes.

    *changed* is called whenever something that a worker did calls for another look.
    """

    def __init__(
        self, state: State, log: Logger, changed: Callable[[], None], tasks: asyncio.TaskGroup
    ) -> None:
        self._state = state
        self._log = log
        self._changed = changed
        self._tasks = tasks
        self._generations = itertools.count(1)
        self._stopping = False

    async def perform(self, action: WorkerAction) -> None:
        """Carry out one action; a worker that does not take what it is given is ended."""
        worker = self._state.workers[action.worker]
        match action:
            case StartWorker():
                await self._start(worker)
            case KillWorker():
                self._kill(worker, action.reason)
            case _ if worker.process is not None:
                try:
                    await self._give(worker, worker.process, action)
                except PeerError as error:
                    self._kill(worker, str(error))

    async def stop(self, deadline_s: float) -> None:
        """End all workers, by closing their channels and, past the deadline, by force."""
        self._stopping = True
        processes = [worker.process for worker in self._state.workers if worker.process]
        for process in processes:
            process.hang_up()
        try:
            async with asyncio.timeout(deadline_s):
                for process in processes:
                    await process.wait()
        except TimeoutError:
            for process in processes:
                process.kill()

    async def _start(self, worker: Worker) -> None:
        process = await WorkerProcess.start()
        worker.process = process
        self._enter(worker, WorkerEvent.STARTED)
        process.listen(
            lambda message: self._heard(worker, message), lambda error: self._kill(worker, str(error))
        )
        self._tasks.create_task(self._await_end(worker, process))
        try:
            wishes = self._state.wishes
            hello = wire.Hello(
                worker.number,
                len(self._state.workers),
                worker.cpu,
                wire.COALESCE_AUTO if wishes.coalesce_us is None else wishes.coalesce_us,
                wishes.busy_poll,
                wishes.batch,
            )
            with ExitStack() as given:
                senders = [given.enter_context(one) for one in sockets.open_packet_senders()]
                await process.send(hello, [worker.counters.fileno(), *(one.fileno() for one in senders)])
        except McrError as error:
            self._kill(worker, str(error))

    def _heard(self, worker: Worker, message: wire.FromWorker) -> None:
        match message:
            case wire.Ready():
                self._check_proof(worker, message)
            case wire.Installed() if worker.share is None or message.generation > worker.generation:
                self._kill(worker, "got installed, expected it after a share only")
            case wire.Installed():
                worker.installed = (message.generation, message.digest)
            case wire.Loop():
                self._note_loop(worker, message)
            case wire.Failed():
                self._kill(worker, message.reason)
        self._changed()

    def _note_loop(self, worker: Worker, loop: wire.Loop) -> None:
        placed = [one for one in worker.share.rules if one.slot == loop.rule] if worker.share else []
        for one in placed:
            self._state.loops[one.rule.id] = self._state.loops.get(one.rule.id, 0) + 1
            self._log.warning(
                "loop broken",
                rule=one.rule.name,
                group=str(unmapped(loop.group)),
                source=str(unmapped(loop.source)),
                worker=worker.number,
            )

    def _check_proof(self, worker: Worker, ready: wire.Ready) -> None:
        differences = confine.differences(WORKER, ready.proof)
        if differences:
            self._kill(worker, "confinement: " + "; ".join(differences))
        elif worker.process and worker.state is WorkerState.STARTING:
            self._enter(worker, WorkerEvent.PROVEN)
            self._log.info("worker ready", worker=worker.number, pid=worker.process.pid)
            if self._state.wishes.realtime:
                self._let_go_first(worker.number, worker.process)
        else:
            self._kill(worker, f"got ready in state {worker.state}, expected it once")

    def _let_go_first(self, number: int, process: WorkerProcess) -> None:
        """Without it all works, but what others do on that CPU delays it, or costs packets."""
        try:
            process.go_first()
        except KernelError as error:
            self._log.warning("worker not realtime", worker=number, reason=str(error))

    def _forget_closed(self, worker: Worker, share: Share) -> None:
        """
        Note what the worker will close when it reads the share, for not being named there.

        Messages arrive in order: what is given from now on, it gets after that.
        """
        worker.rings &= {ifindex for ifindex, _ in share.interfaces}
        named = {output.slot for placed in share.rules for output in placed.outputs}
        worker.outputs = {slot: plan for slot, plan in worker.outputs.items() if slot in named}

    def _kill(self, worker: Worker, reason: str) -> None:
        if worker.process and not worker.is_ending and not self._stopping:
            worker.is_ending = True
            self._log.error("worker ended", worker=worker.number, pid=worker.process.pid, reason=reason)
            worker.process.kill()

    async def _await_end(self, worker: Worker, process: WorkerProcess) -> None:
        status = await process.wait()
        process.hang_up()
        lived_s = time.monotonic() - worker.since_s if worker.state is WorkerState.READY else 0.0
        worker.end(backoff_s(worker.backoff_s, lived_s), time.monotonic())
        self._enter(worker, WorkerEvent.EXITED)
        if not self._stopping:
            fields = {"worker": worker.number, "pid": process.pid, "status": status}
            self._log.warning("worker gone", **fields, again_in_s=worker.backoff_s)
            self._changed()

    def _enter(self, worker: Worker, event: WorkerEvent) -> None:
        worker.state = next_state(worker.state, event)
        worker.since_s = time.monotonic()

    async def _give(
        self, worker: Worker, process: WorkerProcess, action: GiveRings | GiveOutputs | GiveShare
    ) -> None:
        match action:
            case GiveRings():
                await self._give_rings(worker, process, action)
            case GiveOutputs():
                await self._give_outputs(worker, process, action)
            case GiveShare():
                await self._give_share(worker, process, action)

    async def _give_rings(self, worker: Worker, process: WorkerProcess, action: GiveRings) -> None:
        for ifindex in action.ifindexes:
            interface = self._state.interfaces[ifindex]
            worker.rings.add(ifindex)
            message = wire.Ring(interface.slot, interface.shape.frame_bytes, interface.shape.frames)
            await process.send(message, [interface.fanout.rings[worker.number].fileno()])
            watches = self._state.wishes.watch_unmatched
            if watches and interface.slot % len(self._state.workers) == worker.number:
                await process.send(wire.Watch(interface.slot), [interface.fanout.sink.fileno()])

    async def _give_outputs(self, worker: Worker, process: WorkerProcess, action: GiveOutputs) -> None:
        for start in range(0, len(action.slots), wire.MAX_DESCRIPTORS):
            slots = action.slots[start : start + wire.MAX_DESCRIPTORS]
            opened = [self._state.outputs[slot] for slot in slots]
            sources = b"".join(mapped(one.source) for one in opened)
            ports = [one.port for one in opened]
            worker.outputs.update((slot, one.plan) for slot, one in zip(slots, opened, strict=True))
            await process.send(wire.Outputs(slots, sources, ports), [one.socket.fileno() for one in opened])

    async def _give_share(self, worker: Worker, process: WorkerProcess, action: GiveShare) -> None:
        generation = next(self._generations)
        content = pack_share(action.share, generation)
        await process.send_file(wire.ShareFile(generation, len(content)), content)
        worker.generation = generation
        worker.share = action.share
        worker.sent_at_s = time.monotonic()
        self._forget_closed(worker, action.share)

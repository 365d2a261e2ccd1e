"""
A world below the supervisor: links, sockets, memberships and worker processes that only pretend.

The supervisor, its reconciliation, and what carries it out are the real ones.  Nothing happens by itself: a
test lets links change, workers answer or die, time pass, and the supervisor look.  Whatever is done is judged
at once, see `World.judge`.
"""

import itertools
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, Self, cast
from unittest.mock import patch

import structlog

from mcr.errors import KernelError
from mcr.model.link import Link
from mcr.model.policy import SourcePolicy
from mcr.model.rule import Rule, RuleId
from mcr.model.steering import Steering
from mcr.supervisor import children, core, perform
from mcr.supervisor.actions import Action, CloseOutput, CloseRings, OpenOutput, SetFilter
from mcr.supervisor.core import Supervisor
from mcr.supervisor.layout import Layout, Wishes
from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.state import State, Worker
from mcr.wire.counters import output_span, rule_span
from mcr.wire.share import mapped
from tests.support.fake_sockets import FakeBypass, FakeMemberships, FakeSocket, FakeSockets, Ring
from tests.support.fake_worker import FakeWorker, Table, run

ENOUGH_LOOKS = 200


class FakeCounters:
    """The shared counters of a worker number, of which only clearing matters here."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._number = number
        self.begun_with: dict[int, bytes] = {}

    def fileno(self) -> int:
        return -1

    def counted(self, slot: int) -> bytes:
        return b"%d" % slot

    def count_on(self, slot: int, counted: bytes) -> None:
        self.begun_with[slot] = counted

    def clear(self, span: tuple[int, int]) -> None:
        """Set to zero what nobody counts in."""
        process = self._world.process(self._number)
        for table in process.tables() if process and process.is_alive else []:
            assert span not in map(rule_span, table.rule_slots), "the counters of a rule in use are cleared"
            assert span not in map(output_span, table.output_slots), "those of an output in use are cleared"


class World:
    """
    All of it, inside ``with``.

    Attributes:
        refused: what the kernel says no to: ``start``, ``ring in``, ``filter in``, ``output out``,
            ``join in``, ``hold 2``, ``realtime``.
        actions: all that were carried out.
        logs: what the supervisor told its log.
    """

    def __init__(
        self, *links: Link, workers: int = 2, steering: Steering = Steering.HASH, realtime: bool = True
    ) -> None:
        self.now_s = 1000.0
        self.links: dict[str, Link] = {link.name: link for link in links}
        self.refused: set[str] = set()
        self.actions: list[Action] = []
        self.logs: list[dict[str, object]] = []
        self.processes: list[FakeWorker] = []
        self.sockets = FakeSockets(self.refused)
        self._known: dict[RuleId, Rule] = {}
        self._pids = itertools.count(100)
        self._sends_to_live = 0
        crew = [Worker(number, number, cast("Any", FakeCounters(self, number))) for number in range(workers)]
        wishes = Wishes(
            workers,
            steering,
            100,
            busy_poll=False,
            realtime=realtime,
            batch=512,
            ring_bytes=1 << 20,
            watch_unmatched=True,
            bypass_stack=True,
        )
        state = State(wishes, crew, cast("Any", FakeMemberships(self.refused)))
        log = structlog.wrap_logger(
            None, processors=[self._note], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        tasks = SimpleNamespace(create_task=self._begin)
        self.supervisor = Supervisor(state, log, cast("Any", tasks))
        self._perform = self.supervisor._performer.perform
        self.supervisor._performer.perform = self._watch  # type: ignore[method-assign]
        self.supervisor._settle = self._do_not_wait  # type: ignore[method-assign]
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        self._patches: list[Any] = [
            patch.object(core, "time", clock),
            patch.object(children, "time", clock),
            patch.object(core, "read_links", lambda: dict(self.links)),
            patch.object(perform, "sockets", self.sockets),
            patch.object(children, "sockets", self.sockets),
            patch.object(perform, "Bypass", FakeBypass),
            patch.object(children, "WorkerProcess", SimpleNamespace(start=self._start)),
        ]

    def __enter__(self) -> Self:
        for one in self._patches:
            one.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        for one in reversed(self._patches):
            one.stop()
        for process in self.processes:
            if process.end:
                process.end.close()

    @property
    def state(self) -> State:
        return self.supervisor.state

    @property
    def layout(self) -> Layout:
        """Give what the supervisor wants, which it knows after its first look."""
        assert self.supervisor.layout is not None
        return self.supervisor.layout

    def process(self, number: int) -> FakeWorker | None:
        """Give the present process of a worker."""
        return cast("FakeWorker | None", self.state.workers[number].process)

    # ---- what happens ----

    def add(self, *rules: Rule) -> None:
        """Ask for rules as a client does, and do not wait for them."""
        for one in rules:
            run(self.supervisor.add_rule(one))
            self._known[one.id] = one

    def remove(self, rule_id: RuleId) -> None:
        """Ask for a rule to go, and do not wait for it."""
        run(self.supervisor.remove_rule(rule_id))

    def plug(self, *links: Link) -> None:
        """Let links come, or be other than they were."""
        self.links.update((link.name, link) for link in links)
        self.supervisor.look_at_links()

    def unplug(self, name: str) -> None:
        """Let a link go."""
        self.links.pop(name, None)
        self.supervisor.look_at_links()

    def look(self) -> list[Action]:
        """Let the supervisor look once; give what it did."""
        done = len(self.actions)
        run(self.supervisor._look())
        self.judge()
        return self.actions[done:]

    def serve_one(self, number: int) -> None:
        """Let a worker do the next thing that it was told."""
        process = self.process(number)
        if process and process.is_busy:
            process.serve_one()
            self.judge()

    def serve(self, number: int) -> None:
        """Let a worker do all that it was told."""
        while (process := self.process(number)) and process.is_busy:
            self.serve_one(number)

    def die(self, number: int) -> None:
        """Let a worker's process end."""
        process = self.process(number)
        if process and process.is_alive:
            process.die()

    def die_at_send(self, sends: int) -> None:
        """Let the process end that is sent the message with this number, counted from now on."""
        self._sends_to_live = sends

    def reap(self) -> None:
        """Let the supervisor see the processes that have ended."""
        for process in self.processes:
            if not process.is_alive:
                process.see_end()

    def settle(self) -> None:
        """Let everybody do what there is to do, until nobody has anything left."""
        for _ in range(ENOUGH_LOOKS):
            did = self.look()
            was_busy = any(process.is_busy for process in self.processes)
            for number in range(len(self.state.workers)):
                self.serve(number)
            self.reap()
            if any(worker.state is WorkerState.DOWN for worker in self.state.workers):
                self.now_s += 1.0
            elif not did and not was_busy:
                return
        raise AssertionError(f"not settled; at last: {self.actions[-10:]}")

    # ---- what must hold ----

    def judge(self) -> None:
        """
        Check what must hold at every moment: who gets a datagram has a rule for it.

        A worker without any table yet does not read, and what comes for it waits in the ring.
        """
        for ring in self.sockets.rings:
            process = self.process(ring.worker)
            if process and process.is_alive and process.table:
                for one in self._known.values():
                    if ring.may_get(one.input, len(self.state.workers)):
                        assert _is_known(ring, process, one), f"{one.input} is lost in worker {ring.worker}"

    def judge_settled(self) -> None:
        """Check what must hold when there is nothing left to do: exactly what is wanted is there."""
        layout, state = self.layout, self.state
        wanted = {one.link.index: layout.filters[name] for name, one in layout.interfaces.items()}
        assert {ifindex: one.destinations for ifindex, one in state.interfaces.items()} == wanted
        bypassed = {one.plan.link.name: one.bypass.destinations for one in state.interfaces.values()}
        assert bypassed == layout.bypassed
        assert {slot: one.plan for slot, one in state.outputs.items()} == layout.outputs
        assert state.memberships.held() == layout.memberships
        assert state.holds.keys() == layout.holds
        assert [worker.share for worker in state.workers] == layout.shares
        assert not state.slots.leaving
        assert self._open_sockets() == self._known_sockets()
        for one in state.rules:
            if one.id not in layout.pending:
                self._judge_active(one)

    def _judge_active(self, rule: Rule) -> None:
        """Check that a rule's datagrams come to workers that know where to send them."""
        index = self.links[rule.interface].index
        rings = [ring for ring in self.sockets.rings if ring.link.index == index]
        given = [ring for ring in rings if ring.may_get(rule.input, len(rings))]
        assert len(given) == (
            len(rings) if self.state.interfaces[index].plan.steering is Steering.CPU else 1
        ), f"{rule.input}: stuck"
        slots = self.state.slots[rule.id]
        for ring in given:
            process = self.process(ring.worker)
            assert process
            assert process.table
            assert slots.rule in process.table.rules[_key(ring, process, rule)]
            for slot, output in zip(slots.outputs, rule.outputs, strict=True):
                is_there = output.to.interface is None or output.to.interface in self.links
                if is_there and output.source is not SourcePolicy.KEEP:
                    assert process.senders[slot] is cast("Any", self.state.outputs[slot].socket)

    def _open_sockets(self) -> set[FakeSocket]:
        return {one for one in self.sockets.opened if one.is_open}

    def _known_sockets(self) -> set[object]:
        state = self.state
        fanouts = [one.fanout for one in state.interfaces.values()]
        rings = {ring for fanout in fanouts for ring in (*fanout.rings, fanout.sink)}
        return {*rings, *(one.socket for one in state.outputs.values()), *state.holds.values()}

    # ---- plumbing ----

    def _before_send(self, process: FakeWorker) -> None:
        self._sends_to_live -= 1
        if self._sends_to_live == 0:
            process.die()

    async def _do_not_wait(self) -> None:
        self.supervisor.look_at_links()

    async def _start(self) -> FakeWorker:
        if "start" in self.refused:
            raise KernelError("start", "worker", 1)
        self.processes.append(FakeWorker(next(self._pids), self.sockets, self._before_send))
        return self.processes[-1]

    def _begin(self, end: Coroutine[object, None, None]) -> None:
        """Take the coroutine that waits for the end of the process that was started last."""
        self.processes[-1].end = end
        end.send(None)

    async def _watch(self, action: Action) -> None:
        self.actions.append(action)
        self._judge_action(action)
        await self._perform(action)
        self.judge()

    def _judge_action(self, action: Action) -> None:
        """Check that nobody uses what is closed, and that what is opened has been acknowledged."""
        tables: list[Table] = [
            table for process in self.processes if process.is_alive for table in process.tables()
        ]
        match action:
            case CloseRings(ifindex):
                slot = self.state.interfaces[ifindex].slot
                assert not any(slot in table.interface_slots for table in tables), f"{action}: in use"
            case CloseOutput(slot) if slot not in self._slots_of_rules():
                assert not any(slot in table.output_slots for table in tables), f"{action}: in use"
            case SetFilter(ifindex, wanted) if wanted - self.state.interfaces[ifindex].destinations:
                waiting = [worker for worker in self.state.workers if worker.waits_for_answer]
                assert not waiting, f"{action}: not acknowledged"
            case OpenOutput(slot, plan):
                opened = self.state.outputs.get(slot)
                assert opened is None or opened.plan != plan, f"{action}: is open"

    def _slots_of_rules(self) -> set[int]:
        """Give the slots of outputs that stay in the tables, those without a link included."""
        return {slot for one in self.state.rules for slot in self.state.slots[one.id].outputs}

    def _note(self, _logger: object, level: str, event: structlog.typing.EventDict) -> str:
        self.logs.append({"level": level, **event})
        raise structlog.DropEvent


def _key(ring: Ring, process: FakeWorker, rule: Rule) -> tuple[int, bytes, int]:
    """Give what a worker looks up for a datagram of a rule that comes out of a ring."""
    slots = [slot for slot, held in process.rings.items() if held is ring]
    assert slots, f"worker {ring.worker} does not read {ring.link.name}"
    return slots[0], mapped(rule.input.address), rule.input.port


def _is_known(ring: Ring, process: FakeWorker, rule: Rule) -> bool:
    assert process.table
    return _key(ring, process, rule) in process.table.rules

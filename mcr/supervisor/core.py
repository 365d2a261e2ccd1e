"""The supervisor's one loop: look, reconcile, perform, until nothing is left; then wait for an event."""

import asyncio
import contextlib
import time

from mcr.errors import Bug, KernelError, RuleError
from mcr.model.rule import Rule, RuleId
from mcr.model.ruleset import Ruleset
from mcr.runtime.logs import Logger
from mcr.supervisor.children import Children
from mcr.supervisor.layout import Layout, plan
from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.perform import Performer
from mcr.supervisor.reconcile import reconcile, waits
from mcr.supervisor.sources.netlink import read_links
from mcr.supervisor.state import State
from mcr.supervisor.stuck import RingWatch
from mcr.supervisor.tracing import Tracing
from mcr.wire.counters import latency_span, output_span, rule_span

# Rounds of one look; each opens, gives or closes something, so many more would mean that it goes in circles.
MAX_ROUNDS = 1000
RETRY_S = 1.0
# Shorter than the patience of mcr.client, so that it gets an answer.
SETTLE_DEADLINE_S = 4.0


class Supervisor:
    """Owns the desired state, and brings the world there."""

    def __init__(self, state: State, log: Logger, tasks: asyncio.TaskGroup) -> None:
        self.state = state
        self.layout: Layout | None = None
        self.tracing = Tracing(state)
        self._log = log
        self._performer = Performer(state, Children(state, log, self.look_again, tasks), log)
        self._ring_watch = RingWatch()
        self._wake = asyncio.Event()
        self._links_changed = True
        self._asked = 0
        self._settled = 0
        self._progress = asyncio.Condition()

    def look_again(self) -> None:
        """Reconcile once more, soon."""
        self._wake.set()

    def look_at_links(self) -> None:
        """Reconcile once more, with the links as they are now, and try again what failed."""
        self._links_changed = True
        self.look_again()

    def look_at_rings(self) -> None:
        """Open anew what the kernel has brought to a standstill."""
        for interface in self._ring_watch.find_stuck(self.state):
            name = interface.plan.link.name
            self._log.warning("ring stuck", interface=name, reason="the kernel blocked it; it is opened anew")
            interface.is_stuck = True
            self.look_again()

    async def add_rule(self, rule: Rule) -> None:
        """
        Put a rule in force; returns when every worker has acknowledged it, or does not for too long.

        Raises:
            RuleError: it cannot be in force together with the others.
        """
        rules = self.state.rules.with_rule(rule)
        if not self.state.slots.has_room(rule):
            raise RuleError("busy", "got no room while removed rules are on their way out: try again")
        self.state.rules = rules
        self._take_slots(rule)
        await self._settle()

    async def remove_rule(self, rule_id: RuleId) -> None:
        """Take a rule out of force; returns when every worker has forgotten it, or does not for too long."""
        self.state.rules = self.state.rules.without(rule_id)
        self.tracing.forget(rule_id)
        self.state.loops.pop(rule_id, None)
        self.state.slots.leave(rule_id)
        await self._settle()

    def load(self, rules: Ruleset) -> None:
        """Take the rules to begin with, which were found to have no problems."""
        self.state.rules = rules
        for rule in rules:
            self._take_slots(rule)

    async def run(self) -> None:
        """Reconcile for ever, on every event, and once a second while something waits to be tried again."""
        while True:
            await self._look()
            async with self._progress:
                self._progress.notify_all()
            try:
                async with asyncio.timeout(self._patience_s()):
                    await self._wake.wait()
            except TimeoutError:
                self._links_changed = True
            self._wake.clear()

    async def stop(self, deadline_s: float) -> None:
        """End the workers and close every socket."""
        await self._performer.stop(deadline_s)

    async def _settle(self) -> None:
        self._asked += 1
        mine = self._asked
        self.look_at_links()
        with contextlib.suppress(
            TimeoutError
        ):  # the rule's document then names the worker that is waited for
            async with asyncio.timeout(SETTLE_DEADLINE_S), self._progress:
                await self._progress.wait_for(lambda: self._settled >= mine)

    def _take_slots(self, rule: Rule) -> None:
        slots = self.state.slots.take(rule)
        for worker in self.state.workers:
            worker.counters.clear(rule_span(slots.rule))
            worker.counters.clear(latency_span(slots.rule))
            for output in slots.outputs:
                worker.counters.clear(output_span(output))

    async def _look(self) -> None:
        asked = self._asked
        if self._links_changed:
            self._links_changed = False
            self.state.failures.clear()
            self._read_links()
        for _ in range(MAX_ROUNDS):
            self.layout = self._plan()
            self._performer.follow_links(self.layout)
            actions = reconcile(self.layout, self.state, time.monotonic())
            for action in actions:
                await self._performer.perform(action)
            if not actions:
                break
        else:
            raise Bug(f"not settled after {MAX_ROUNDS} rounds")
        if not waits(self.state):
            self._settled = asked

    def _read_links(self) -> None:
        try:
            self.state.links = read_links()
        except KernelError as error:
            self._log.error("links not read", reason=str(error))

    def _plan(self) -> Layout:
        state = self.state
        interface_slots = {ifindex: one.slot for ifindex, one in state.interfaces.items() if not one.is_stuck}
        steered = {ifindex: one.plan for ifindex, one in state.interfaces.items()}
        return plan(state.rules, state.links, state.slots, interface_slots, state.wishes, steered)

    def _patience_s(self) -> float | None:
        """Sleep until something happens, unless time itself matters."""
        waiting = [worker for worker in self.state.workers if worker.state is not WorkerState.READY]
        if self.state.failures or waiting or waits(self.state):
            due = [max(0.0, worker.start_at_s - time.monotonic()) for worker in waiting]
            return min([RETRY_S, *(delay for delay in due if delay)])
        return None

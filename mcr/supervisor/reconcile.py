"""
From what should be and what is to the next steps: a pure function.

It is called again and again until it has nothing more to ask for.  The order of the steps keeps packets
whole: sockets are opened with filters that let nothing pass, tables follow, and only when every worker has
acknowledged its table do the filters open; what is to go loses its filter first, then its place in the
tables, then its sockets and counters.
"""

from collections.abc import Iterator

from mcr.model.bpf import Destination
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
    SetBypass,
    SetFilter,
    StartWorker,
)
from mcr.supervisor.layout import Layout
from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.state import State, Worker

# A worker that has not proven itself or acknowledged a share by then is taken for hung.
ANSWER_DEADLINE_S = 5.0


def reconcile(layout: Layout, state: State, now_s: float) -> list[Action]:
    """Give the steps of the first phase that has any; none: settled, or waiting for workers."""
    for phase in (_workers, _open, _narrow_filters, _tables):
        actions = _untried(phase(layout, state, now_s), state)
        if actions:
            return actions
    if waits(state):
        return []
    return _untried(_finish(layout, state), state)


def _untried(actions: Iterator[Action], state: State) -> list[Action]:
    """Leave out what was refused; without refusals nothing is compared, as a share is much to compare."""
    return [action for action in actions if not state.failures or action not in state.failures]


def waits(state: State) -> bool:
    """Say whether a worker is about to become ready, or to acknowledge its share."""
    return any(
        worker.is_ending or worker.state is WorkerState.STARTING or worker.waits_for_answer
        for worker in state.workers
    )


def _workers(_layout: Layout, state: State, now_s: float) -> Iterator[Action]:
    for worker in state.workers:
        if worker.is_ending:
            continue
        if worker.state is WorkerState.DOWN and now_s >= worker.start_at_s:
            yield StartWorker(worker.number)
        elif worker.state is WorkerState.STARTING and now_s >= worker.since_s + ANSWER_DEADLINE_S:
            yield KillWorker(worker.number, "not ready in time")
        elif worker.waits_for_answer and now_s >= worker.sent_at_s + ANSWER_DEADLINE_S:
            yield KillWorker(worker.number, "share not acknowledged in time")


def _open(layout: Layout, state: State, _now_s: float) -> Iterator[Action]:
    for plan in layout.interfaces.values():
        if plan.link.index not in state.interfaces:
            yield OpenRings(plan)
    for slot, output in layout.outputs.items():
        if slot not in state.outputs or state.outputs[slot].plan != output:
            yield OpenOutput(slot, output)


def _wanted_destinations(layout: Layout, ifindex: int, state: State) -> frozenset[Destination]:
    """Names wander between interfaces; an index stays with its interface for good."""
    if state.interfaces[ifindex].is_stuck:
        return frozenset()
    names = (name for name, plan in layout.interfaces.items() if plan.link.index == ifindex)
    return next((layout.filters[name] for name in names), frozenset())


def _narrow_filters(layout: Layout, state: State, _now_s: float) -> Iterator[Action]:
    for ifindex, interface in state.interfaces.items():
        kept = interface.destinations & _wanted_destinations(layout, ifindex, state)
        if kept != interface.destinations:
            yield SetFilter(ifindex, kept)


def _tables(layout: Layout, state: State, _now_s: float) -> Iterator[Action]:
    for worker in state.workers:
        if worker.state is WorkerState.READY and not worker.is_ending:
            yield from _table_of(worker, layout, state)


def _table_of(worker: Worker, layout: Layout, state: State) -> Iterator[Action]:
    share = layout.shares[worker.number]
    rings = {ifindex for ifindex, _ in share.interfaces} - worker.rings
    if rings:
        yield GiveRings(worker.number, tuple(sorted(rings)))
    slots = {output.slot for placed in share.rules for output in placed.outputs}
    new = [
        slot
        for slot in sorted(slots & state.outputs.keys())
        if worker.outputs.get(slot) is not state.outputs[slot].plan
    ]
    if new:
        yield GiveOutputs(worker.number, tuple(new))
    if worker.share != share:
        yield GiveShare(worker.number, share)


def _finish(layout: Layout, state: State) -> Iterator[Action]:
    """Every table is in place: open filters and memberships, and close what nobody uses any more."""
    for ifindex, interface in state.interfaces.items():
        wanted = _wanted_destinations(layout, ifindex, state)
        if interface.destinations != wanted:
            yield SetFilter(ifindex, wanted)
    for name, plan in layout.interfaces.items():
        opened = state.interfaces.get(plan.link.index)
        if opened and opened.bypass.destinations != layout.bypassed[name]:
            yield SetBypass(plan.link.index, layout.bypassed[name])
    held = state.memberships.held()
    yield from (Leave(membership) for membership in sorted(held - layout.memberships, key=str))
    yield from (Join(membership) for membership in sorted(layout.memberships - held, key=str))
    yield from (ReleasePort(hold) for hold in state.holds.keys() - layout.holds)
    yield from (HoldPort(hold) for hold in layout.holds - state.holds.keys())
    yield from (CloseOutput(slot) for slot in state.outputs.keys() - layout.outputs.keys())
    wanted_indexes = {plan.link.index for plan in layout.interfaces.values()}
    stuck = {ifindex for ifindex, interface in state.interfaces.items() if interface.is_stuck}
    yield from (CloseRings(ifindex) for ifindex in state.interfaces.keys() - wanted_indexes | stuck)
    if state.slots.leaving:
        yield ReleaseSlots()

"""
The life of a worker process as a table.

::

    (down) --started--> (starting) --proven--> (ready) --exited--> (down)
                             `----------exited-------------------'
"""

from collections.abc import Mapping
from enum import StrEnum

from mcr.errors import Bug

FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 5.0
# A worker that lived this long was no failed start: its successor starts without delay.
STABLE_S = 10.0


class WorkerState(StrEnum):
    """What can be expected of a worker."""

    DOWN = "down"  # no process
    STARTING = "starting"  # a process that has not proven its confinement
    READY = "ready"  # takes shares


class WorkerEvent(StrEnum):
    """What happens to a worker."""

    STARTED = "started"
    PROVEN = "proven"
    EXITED = "exited"


TRANSITIONS: Mapping[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (WorkerState.DOWN, WorkerEvent.STARTED): WorkerState.STARTING,
    (WorkerState.STARTING, WorkerEvent.PROVEN): WorkerState.READY,
    (WorkerState.STARTING, WorkerEvent.EXITED): WorkerState.DOWN,
    (WorkerState.READY, WorkerEvent.EXITED): WorkerState.DOWN,
}


def next_state(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """
    Give the state after an event.

    Raises:
        Bug: the event cannot happen in that state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Bug(f"got event {event} in state {state}") from None


def backoff_s(previous_s: float, lived_s: float) -> float:
    """Give the delay before the next start: doubling, from nothing again after a stable life."""
    if lived_s >= STABLE_S:
        return 0.0
    return min(max(FIRST_BACKOFF_S, 2 * previous_s), LAST_BACKOFF_S)

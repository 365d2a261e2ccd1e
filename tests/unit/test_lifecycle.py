import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import Bug
from mcr.supervisor.lifecycle import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    STABLE_S,
    TRANSITIONS,
    WorkerEvent,
    WorkerState,
    backoff_s,
    next_state,
)

# What cannot happen, and why.
MISSING = {
    (WorkerState.DOWN, WorkerEvent.PROVEN),  # there is no process to say so
    (WorkerState.DOWN, WorkerEvent.EXITED),  # an end is reported once
    (WorkerState.STARTING, WorkerEvent.STARTED),  # one process at a time
    (WorkerState.READY, WorkerEvent.STARTED),  # one process at a time
    (WorkerState.READY, WorkerEvent.PROVEN),  # a second proof breaks the protocol
}


def test_the_missing_pairs_are_these() -> None:
    assert set(itertools.product(WorkerState, WorkerEvent)) - TRANSITIONS.keys() == MISSING


@pytest.mark.parametrize(("state", "event"), sorted(MISSING))
def test_an_event_that_cannot_happen_is_a_bug(state: WorkerState, event: WorkerEvent) -> None:
    with pytest.raises(Bug, match=f"got event {event} in state {state}"):
        next_state(state, event)


def test_a_life_ends_where_it_began() -> None:
    state = WorkerState.DOWN
    lived = [state := next_state(state, event) for event in WorkerEvent]

    assert lived == [WorkerState.STARTING, WorkerState.READY, WorkerState.DOWN]


def test_every_state_is_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == {state for state, _ in TRANSITIONS} == set(WorkerState)


def test_a_worker_that_fails_again_and_again_waits_longer_each_time() -> None:
    delay_s = 0.0
    delays = [delay_s := backoff_s(delay_s, 0.0) for _ in range(8)]

    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@given(st.floats(0, LAST_BACKOFF_S), st.floats(0, 1e6))
def test_a_delay_stays_within_its_bounds(previous_s: float, lived_s: float) -> None:
    delay_s = backoff_s(previous_s, lived_s)

    assert delay_s == 0 if lived_s >= STABLE_S else FIRST_BACKOFF_S <= delay_s <= LAST_BACKOFF_S


def test_a_stable_life_is_followed_by_a_start_at_once_and_then_by_the_first_delay() -> None:
    after_stable_s = backoff_s(LAST_BACKOFF_S, STABLE_S)

    assert after_stable_s == 0
    assert backoff_s(after_stable_s, 0.0) == FIRST_BACKOFF_S

"""Rings that drop although their reader is alive and finds nothing in them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcr.model.steering import Steering
from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.stuck import RingWatch
from tests.support.links import link
from tests.support.world import World
from tests.unit.test_reconcile import ONE

IFINDEX, SLOT = 2, 7


@dataclass
class Ring:
    """One interface, read by one worker."""

    dropped: int = 0
    cursor: int = 0
    heartbeat_ns: int = 0
    worker: Any = field(init=False)
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        counters = SimpleNamespace(
            cursor=lambda slot: {SLOT: self.cursor}[slot],
            header=lambda: SimpleNamespace(heartbeat_ns=self.heartbeat_ns),
        )
        self.worker = SimpleNamespace(
            number=0,
            restarts=0,
            state=WorkerState.READY,
            waits_for_answer=False,
            rings={IFINDEX},
            counters=counters,
        )
        interface = SimpleNamespace(slot=SLOT, is_stuck=False, dropped=[0])
        interface.count_drops = lambda: interface.dropped.__setitem__(0, self.dropped)
        self.state = SimpleNamespace(interfaces={IFINDEX: interface}, workers=[self.worker])


@pytest.fixture
def ring() -> Ring:
    return Ring()


def looked(ring: Ring, *, drops: int = 5, read: int = 0, beats: int = 10, restarts: int = 0) -> list[object]:
    """Look, let a second pass, and look again."""
    watch = RingWatch()
    assert watch.find_stuck(ring.state) == []
    ring.dropped += drops
    ring.cursor += read
    ring.heartbeat_ns += beats
    ring.worker.restarts += restarts
    return cast("list[object]", watch.find_stuck(ring.state))


def test_a_ring_that_drops_and_is_not_read_is_stuck(ring: Ring) -> None:
    assert looked(ring) == [ring.state.interfaces[IFINDEX]]


@pytest.mark.parametrize(
    "change",
    [{"drops": 0}, {"read": 1}, {"beats": 0}, {"restarts": 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_ring_without_drops_or_with_a_reader_that_reads_hangs_or_is_new_is_not(
    ring: Ring, change: dict[str, int]
) -> None:
    assert looked(ring, **change) == []


@pytest.mark.parametrize(
    ("name", "value"), [("state", WorkerState.STARTING), ("waits_for_answer", True), ("rings", set())]
)
def test_a_ring_that_nobody_is_to_read_yet_is_not(ring: Ring, name: str, value: object) -> None:
    setattr(ring.worker, name, value)

    assert looked(ring) == []


def test_a_ring_is_reported_once(ring: Ring) -> None:
    (stuck,) = cast("list[Any]", looked(ring))
    stuck.is_stuck = True

    assert looked(ring) == []


@pytest.fixture(params=[Steering.HASH, Steering.CPU])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(link("in", 2, "10.0.0.1"), link("out", 3, "10.1.0.1"), steering=request.param) as made:
        yield made


def test_a_stuck_interface_is_opened_anew(world: World) -> None:
    world.add(ONE)
    world.settle()
    stuck = world.state.interfaces[2]
    stuck.is_stuck = True
    world.settle()

    assert world.state.interfaces[2] is not stuck
    assert not stuck.fanout.sink.is_open  # type: ignore[attr-defined]
    world.judge_settled()


def test_a_stuck_interface_goes_on_counting_where_it_was(world: World) -> None:
    world.add(ONE)
    world.settle()
    stuck = world.state.interfaces[2]
    cast("Any", stuck.fanout.rings[0]).drops = 7
    stuck.count_drops()
    cast("Any", stuck.fanout.rings[0]).drops = 2
    stuck.is_stuck = True
    world.settle()

    opened = world.state.interfaces[2]
    opened.count_drops()
    assert opened.dropped == [9, 0]
    for worker in world.state.workers:
        counters = cast("Any", worker.counters)
        assert counters.begun_with == {opened.slot: counters.counted(stuck.slot)}

"""
The supervisor in a world that only pretends: what it does, in which order, until nothing is left to do.

`World.judge` runs after every step of every test: whatever happens, who gets a datagram has a rule for it.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition
from hypothesis.stateful import rule as step

from mcr.errors import McrError
from mcr.model.link import Link
from mcr.model.rule import Rule
from mcr.model.steering import Steering, rule_hash
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
from mcr.supervisor.lifecycle import FIRST_BACKOFF_S, WorkerState
from mcr.supervisor.memberships import Membership
from mcr.supervisor.reconcile import ANSWER_DEADLINE_S, waits
from mcr.supervisor.slots import SlotPool
from mcr.supervisor.stats import Report
from tests.support.links import link
from tests.support.rules import rule
from tests.support.world import World

IN, IN2, OUT, OTHER = link("in", 2, "10.0.0.1"), link("in2", 3), link("out", 4, "10.1.0.1"), link("other", 5)
ONE = rule("239.1.1.1%in:5001", "239.2.2.2%out:6000")
TWO = rule("239.1.1.2%in:5001", "239.2.2.3%out:6000", "192.0.2.7:6000")


@pytest.fixture
def world() -> Iterator[World]:
    with World(IN, OUT) as made:
        yield made


@pytest.fixture
def settled(world: World) -> World:
    world.add(ONE)
    world.settle()
    world.judge_settled()
    world.actions.clear()
    return world


def hash_of(one: Rule) -> int:
    return rule_hash(one.input.address, one.input.port)


def kinds(actions: list[Action]) -> list[type[Action]]:
    return [type(action) for action in actions]


# ---- the order of things ----


def test_a_start_without_rules_gives_every_worker_an_empty_share(world: World) -> None:
    world.settle()

    assert kinds(world.actions) == [StartWorker, StartWorker, GiveShare, GiveShare]
    world.judge_settled()


def test_a_rule_becomes_active_step_by_step(world: World) -> None:
    world.settle()
    world.actions.clear()
    world.add(ONE)
    world.settle()

    holder = hash_of(ONE) % 2
    first = (GiveRings, GiveOutputs, GiveShare) if holder == 0 else (GiveRings, GiveShare)
    second = (GiveRings, GiveOutputs, GiveShare) if holder == 1 else (GiveRings, GiveShare)
    assert [type(action) for action in world.actions] == [
        *(OpenRings, OpenOutput),
        *first,
        *second,
        *(SetFilter, SetBypass, Join),
    ]
    outputs = [action.worker for action in world.actions if isinstance(action, GiveOutputs)]
    assert outputs == [holder]
    world.judge_settled()


def test_a_removed_rule_loses_its_filter_then_its_place_then_its_sockets(settled: World) -> None:
    settled.remove(ONE.id)
    settled.settle()

    assert kinds(settled.actions) == [
        SetFilter,
        *(GiveShare, GiveShare),
        *(Leave, CloseOutput, CloseRings, ReleaseSlots),
    ]
    settled.judge_settled()


def test_filters_stay_closed_until_all_ready_workers_have_acknowledged() -> None:
    with World(IN, OUT, steering=Steering.CPU) as world:
        world.settle()
        world.add(ONE)
        world.look()
        world.serve(1)
        world.look()
        assert not any(ring.passes(ONE.input) for ring in world.sockets.rings)

        world.serve(0)
        world.look()
        assert all(ring.passes(ONE.input) for ring in world.sockets.rings)


def test_sockets_are_closed_only_after_the_acknowledgement(settled: World) -> None:
    settled.remove(ONE.id)
    settled.look()
    assert not {CloseOutput, CloseRings, ReleaseSlots} & set(kinds(settled.actions))

    settled.serve(0)
    settled.serve(1)
    settled.look()
    assert {CloseOutput, CloseRings, ReleaseSlots} <= set(kinds(settled.actions))


def test_nothing_is_done_twice(settled: World) -> None:
    settled.supervisor.look_at_links()

    assert settled.look() == []


def test_another_rule_on_an_open_interface_opens_no_further_rings(settled: World) -> None:
    settled.add(TWO)
    settled.settle()

    assert OpenRings not in kinds(settled.actions)
    settled.judge_settled()


def test_a_unicast_input_holds_its_port_as_long_as_it_is_wanted(world: World) -> None:
    unicast = rule("10.0.0.1%in:5001", "239.2.2.2%out:6000")
    world.add(unicast)
    world.settle()
    assert kinds(world.actions).count(HoldPort) == 1

    world.remove(unicast.id)
    world.settle()
    assert kinds(world.actions).count(ReleasePort) == 1
    world.judge_settled()


def test_a_rule_that_comes_back_while_it_goes_counts_in_other_slots(settled: World) -> None:
    before = settled.state.slots[ONE.id]
    settled.remove(ONE.id)
    settled.look()
    settled.add(ONE)
    settled.look()

    assert settled.state.slots[ONE.id] != before
    settled.settle()
    settled.judge_settled()


# ---- links ----


def test_a_rule_whose_interface_appears_later_becomes_active() -> None:
    with World(OUT) as world:
        world.add(ONE)
        world.settle()
        assert world.layout.pending == {ONE.id: "interface in does not exist"}

        world.plug(IN)
        world.settle()
        assert not world.layout.pending
        world.judge_settled()


def test_a_rule_whose_interface_goes_is_pending_and_leaves_nothing_open(settled: World) -> None:
    settled.unplug("in")
    settled.settle()

    assert settled.layout.pending.keys() == {ONE.id}
    assert not settled.state.interfaces
    assert not settled.state.outputs
    settled.judge_settled()


def test_an_interface_that_comes_back_under_a_new_index_is_opened_anew(settled: World) -> None:
    settled.plug(replace(IN, index=9))
    settled.settle()

    assert settled.state.interfaces.keys() == {9}
    assert settled.state.memberships.held() == {Membership("in", 9, IPv4Address("239.1.1.1"))}
    settled.judge_settled()


def test_two_interfaces_that_swap_their_indexes_are_both_right() -> None:
    other = rule("239.1.1.9%in2:5001", "239.2.2.2%out:6000")
    with World(IN, IN2, OUT) as world:
        world.add(ONE, other)
        world.settle()
        world.plug(replace(IN, index=IN2.index), replace(IN2, index=IN.index))
        world.settle()

        world.judge_settled()


def test_a_renamed_interface_serves_the_rules_of_its_new_name(settled: World) -> None:
    renamed = rule("239.1.1.9%in2:5001", "239.2.2.2%out:6000")
    settled.add(renamed)
    settled.settle()
    del settled.links["in"]
    settled.plug(replace(IN, name="in2"))
    settled.settle()

    assert settled.layout.pending.keys() == {ONE.id}
    settled.judge_settled()


def test_an_interface_with_another_number_of_queues_is_steered_anew_or_as_before() -> None:
    """Shares made for one steering while the kernel does the other would lose most packets."""
    rules = [rule(f"239.1.1.{number}%in:5001", "239.2.2.2%out:6000") for number in range(8)]
    with World(replace(IN, receive_queues=4), OUT, steering=Steering.AUTO) as world:
        world.add(*rules)
        world.settle()
        world.plug(replace(IN, receive_queues=1))
        world.settle()
        world.judge_settled()

        world.plug(replace(IN, receive_queues=4))
        world.settle()
        world.judge_settled()


def test_an_output_whose_interface_goes_is_closed_and_opened_again(settled: World) -> None:
    settled.add(TWO)
    settled.settle()
    settled.actions.clear()
    settled.unplug("out")
    settled.settle()
    assert settled.layout.pending.keys() == {ONE.id}
    settled.judge_settled()

    settled.plug(replace(OUT, index=9))
    settled.settle()
    assert not settled.layout.pending
    settled.judge_settled()


def test_an_output_whose_interface_was_away_for_a_moment_is_given_again(settled: World) -> None:
    """It comes back with the same index and addresses, as after a visit to another namespace."""
    settled.add(TWO)
    settled.settle()
    settled.unplug("out")
    settled.settle()
    settled.plug(OUT)
    settled.settle()

    settled.judge_settled()


def test_an_output_is_connected_anew_when_its_interface_has_other_addresses(settled: World) -> None:
    settled.plug(replace(OUT, addresses=frozenset({IPv4Address("10.1.0.2")})))
    settled.settle()

    assert kinds(settled.actions) == [OpenOutput, GiveOutputs]
    settled.judge_settled()


# ---- what the kernel refuses ----


@pytest.mark.parametrize("refused", ["ring in", "output out", "join in"])
def test_a_refused_step_is_tried_again_at_the_next_look_and_not_before(world: World, refused: str) -> None:
    world.refused.add(refused)
    world.add(ONE)
    world.settle()
    tried = len(world.actions)
    assert len(world.state.failures) == 1
    assert world.look() == []

    world.supervisor.look_at_links()
    world.look()
    assert len(world.actions) == tried + 1

    world.refused.clear()
    world.supervisor.look_at_links()
    world.settle()
    assert not world.state.failures
    world.judge_settled()


@pytest.mark.parametrize("refused", ["ring in", "filter in", "join in"])
def test_a_rule_that_depends_on_a_refused_step_says_so(world: World, refused: str) -> None:
    world.refused.add(refused)
    world.add(ONE)
    world.settle()
    (document,) = Report(world.state, world.layout).rules([ONE])

    assert document["state"] == "pending"
    assert document["reason"] in world.state.failures.values()


def test_a_worker_that_cannot_be_started_is_tried_again(settled: World) -> None:
    settled.refused.add("start")
    settled.die(0)
    settled.reap()
    settled.now_s += 1.0
    for _ in range(3):
        settled.supervisor.look_at_links()
        settled.look()
    assert settled.state.workers[0].state is WorkerState.DOWN

    settled.refused.clear()
    settled.supervisor.look_at_links()
    settled.settle()
    settled.judge_settled()


def test_a_worker_that_gets_no_packet_sockets_is_ended_and_tried_again(settled: World) -> None:
    settled.refused.add("packets")
    settled.die(0)
    settled.reap()
    settled.now_s += 1.0
    settled.look()
    assert settled.state.workers[0].is_ending
    assert any("packets" in str(entry.get("reason")) for entry in settled.logs)

    settled.refused.clear()
    settled.settle()
    settled.judge_settled()


def test_workers_go_first_also_those_that_are_started_again(settled: World) -> None:
    settled.die(0)
    settled.reap()
    settled.now_s += 1.0
    settled.settle()

    assert len(settled.processes) == 3
    assert all(process.goes_first for process in settled.processes)


def test_workers_that_may_not_go_first_relay_all_the_same() -> None:
    with World(IN, OUT) as world:
        world.refused.add("realtime")
        world.add(ONE)
        world.settle()
        world.judge_settled()

        warnings = [entry for entry in world.logs if entry["event"] == "worker not realtime"]
        assert [entry["worker"] for entry in warnings] == [0, 1]
        assert not any(process.goes_first for process in world.processes)


def test_nobody_goes_first_who_shall_not() -> None:
    with World(IN, OUT, realtime=False) as world:
        world.add(ONE)
        world.settle()

        assert not any(process.goes_first for process in world.processes)


def test_a_refused_step_is_logged_once(world: World) -> None:
    world.refused.add("ring in")
    world.add(ONE)
    for _ in range(3):
        world.supervisor.look_at_links()
        world.settle()

    assert [entry["event"] for entry in world.logs if entry["level"] == "warning"] == ["step failed"]


def test_a_refused_interface_does_not_stop_the_others() -> None:
    other = rule("239.1.1.9%in2:5001", "239.2.2.2%out:6000")
    with World(IN, IN2, OUT) as world:
        world.refused.add("ring in")
        world.add(ONE, other)
        world.settle()

        assert [ring.link.name for ring in world.sockets.rings if ring.passes(other.input)] == ["in2", "in2"]


def test_a_refused_output_does_not_stop_the_others(world: World) -> None:
    world.refused.add("output out")
    world.add(TWO)
    world.settle()

    assert any(ring.passes(TWO.input) for ring in world.sockets.rings)


def test_an_output_that_cannot_be_replaced_is_kept(settled: World) -> None:
    settled.refused.add("output out")
    settled.plug(replace(OUT, addresses=frozenset()))
    settled.settle()

    (kept,) = settled.state.outputs.values()
    assert settled.sockets.opened[kept.socket.fileno()].is_open


def test_an_interface_that_finds_no_free_slot_does_not_stop_the_others(world: World) -> None:
    world.plug(IN2)
    world.state.interface_slots = SlotPool(1)
    world.add(ONE, rule("239.1.1.9%in2:5001", "239.2.2.2%out:6000"))
    world.settle()

    assert len(world.state.interfaces) == 1
    assert len(world.state.failures) == 1


# ---- workers ----


def test_the_supervisor_waits_for_workers_that_start_answer_or_end(world: World) -> None:
    assert not waits(world.state)
    world.look()
    assert waits(world.state), "workers start"

    for number in (0, 1):
        world.serve(number)
    world.look()
    assert waits(world.state), "workers answer"

    for number in (0, 1):
        world.serve(number)
    world.look()
    assert not waits(world.state)

    world.die(0)
    assert waits(world.state), "a worker ends"

    world.reap()
    assert not waits(world.state), "a worker is down, for how long is unknown"


def test_a_worker_that_dies_gets_everything_again(settled: World) -> None:
    holder = hash_of(ONE) % 2
    settled.die(holder)
    settled.reap()
    settled.settle()

    assert settled.state.workers[holder].restarts == 1
    assert kinds(settled.actions) == [StartWorker, GiveRings, GiveOutputs, GiveShare]
    settled.judge_settled()


def test_a_worker_that_died_is_started_after_its_back_off(settled: World) -> None:
    settled.die(0)
    settled.reap()
    assert settled.look() == []

    settled.now_s += FIRST_BACKOFF_S
    assert kinds(settled.look()) == [StartWorker]


def test_filters_stay_open_while_a_worker_is_away(settled: World) -> None:
    """What comes meanwhile waits in the ring, which the supervisor holds open."""
    holder = hash_of(ONE) % 2
    settled.die(holder)
    settled.reap()
    settled.look()

    assert any(ring.may_get(ONE.input, 2) for ring in settled.sockets.rings if ring.worker == holder)


def test_a_rule_can_be_added_while_a_worker_is_away(settled: World) -> None:
    settled.die(0)
    settled.die(1)
    settled.reap()
    settled.add(TWO)
    settled.look()
    settled.settle()

    settled.judge_settled()


def test_a_worker_that_says_nothing_is_ended(world: World) -> None:
    world.look()
    assert kinds(world.actions) == [StartWorker, StartWorker]
    world.now_s += ANSWER_DEADLINE_S
    world.look()

    assert world.actions[2:4] == [KillWorker(number, "not ready in time") for number in (0, 1)]


def test_a_worker_that_does_not_acknowledge_is_ended(world: World) -> None:
    world.look()
    for number in (0, 1):
        world.serve(number)
    world.look()
    world.now_s += ANSWER_DEADLINE_S
    world.look()

    expected = [KillWorker(number, "share not acknowledged in time") for number in (0, 1)]
    assert [action for action in world.actions if isinstance(action, KillWorker)][:2] == expected


@pytest.mark.parametrize("sends", range(1, 8))
def test_a_worker_that_dies_while_it_is_given_something_gets_it_again(world: World, sends: int) -> None:
    world.settle()
    world.die_at_send(sends)
    world.add(ONE, TWO)
    world.settle()

    world.judge_settled()


# ---- the loop ----


@pytest.mark.parametrize("delay", range(4))
def test_the_loop_ends_when_it_is_cancelled_even_if_something_has_just_happened(
    settled: World, delay: int
) -> None:
    """A worker that gets the same signal as its supervisor calls for another look at the same time."""
    settled.die(0)
    settled.reap()

    async def cancel_soon() -> bool:
        running = asyncio.create_task(settled.supervisor.run())
        await asyncio.sleep(0)
        settled.supervisor.look_again()
        for _ in range(delay):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=0.5)
        running.cancel()
        return bool(done)

    assert asyncio.run(cancel_soon())


# ---- limits ----


def test_a_rule_that_finds_no_free_slot_is_refused_and_can_be_added_later(settled: World) -> None:
    """Slots of rules that are on their way out are taken until every worker has forgotten them."""
    settled.state.slots.rules._size = 1
    settled.remove(ONE.id)
    with pytest.raises(McrError):
        settled.add(TWO)
    settled.settle()
    assert not settled.state.rules.rules

    settled.add(TWO)
    settled.settle()
    settled.judge_settled()


# ---- whatever happens ----

RULES = [
    ONE,
    TWO,
    rule("10.0.0.9@239.1.1.1%in:5001", "239.2.2.9%out:6000"),
    rule("10.0.0.8,10.0.0.7@239.1.1.1%in:5001", "239.2.2.9%other:6000"),
    rule("239.1.1.1%in:5002", "[ff35::2%out]:6000"),
    rule("[ff35::8000:1%in2]:5001", "239.2.2.2%out:6000", "239.2.2.2%other:6000"),
    rule("239.1.1.1%in2:5001", "239.2.2.2%out:6000"),
    rule("10.0.0.1%in:5001", "239.2.2.2%out:6000"),
]
LINKS = ["in", "in2", "out", "other"]
REFUSALS = ["start", "ring in", "ring in2", "output out", "output None", "join in", "hold 2"]
WORKERS = 3
NUMBERS = st.integers(0, WORKERS - 1)


class Anything(RuleBasedStateMachine):
    """Rules, links and workers come and go in any order, and the supervisor looks now and then."""

    @initialize(steering=st.sampled_from(list(Steering)))
    def begin(self, steering: Steering) -> None:
        self.world = World(IN, IN2, OUT, OTHER, workers=WORKERS, steering=steering)
        self.world.__enter__()
        self.indexes = iter(range(10, 10000))

    def teardown(self) -> None:
        """At last, when nothing is in its way any more, the supervisor comes to where it should be."""
        try:
            self.world.refused.clear()
            self.world.supervisor.look_at_links()
            self.world.settle()
            self.world.judge_settled()
        finally:
            self.world.__exit__()

    @step()
    def look(self) -> None:
        self.world.look()

    @step(one=st.sampled_from(RULES))
    def add(self, one: Rule) -> None:
        if one.id not in self.world.state.rules.rules:
            self.world.add(one)

    @step(one=st.sampled_from(RULES))
    def remove(self, one: Rule) -> None:
        if one.id in self.world.state.rules.rules:
            self.world.remove(one.id)

    @step(name=st.sampled_from(LINKS))
    def unplug(self, name: str) -> None:
        self.world.unplug(name)

    @step(name=st.sampled_from(LINKS), addresses=st.integers(0, 2), queues=st.integers(1, 4))
    def plug_a_new_one(self, name: str, addresses: int, queues: int) -> None:
        self.world.plug(link(name, next(self.indexes), *_addresses(addresses), receive_queues=queues))

    @step(one=st.sampled_from([IN, IN2, OUT, OTHER]))
    def plug_the_first_one_again(self, one: Link) -> None:
        """One that visited another namespace; its index was free all the time."""
        if one.index not in {present.index for present in self.world.links.values()}:
            self.world.plug(one)

    @step(name=st.sampled_from(LINKS), addresses=st.integers(0, 2), queues=st.integers(1, 4))
    def change(self, name: str, addresses: int, queues: int) -> None:
        if name in self.world.links:
            index = self.world.links[name].index
            self.world.plug(link(name, index, *_addresses(addresses), receive_queues=queues))

    @step(one=st.sampled_from(LINKS), other=st.sampled_from(LINKS))
    def rename(self, one: str, other: str) -> None:
        """Two links swap their names, or one takes the name that the other does not need."""
        links = self.world.links
        first, second = links.pop(one, None), links.pop(other, None)
        renamed: list[Link] = [replace(first, name=other)] if first else []
        renamed += [replace(second, name=one)] if second else []
        self.world.plug(*renamed)

    @step(number=NUMBERS)
    def serve(self, number: int) -> None:
        self.world.serve(number)

    @step(number=NUMBERS)
    def serve_one(self, number: int) -> None:
        self.world.serve_one(number)

    @step(number=NUMBERS)
    def die(self, number: int) -> None:
        self.world.die(number)

    @step(sends=st.integers(1, 6))
    def die_at_send(self, sends: int) -> None:
        self.world.die_at_send(sends)

    @step()
    def reap(self) -> None:
        self.world.reap()

    @step(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.world.now_s += seconds

    @step(what=st.sampled_from(REFUSALS))
    def refuse(self, what: str) -> None:
        self.world.refused.add(what)
        self.world.supervisor.look_at_links()

    @precondition(lambda self: self.world.refused)
    @step()
    def relent(self) -> None:
        self.world.refused.clear()
        self.world.supervisor.look_at_links()

    @precondition(lambda self: "start" not in self.world.refused)
    @step()
    def settle(self) -> None:
        self.world.settle()


def _addresses(number: int) -> list[str]:
    return [f"10.9.0.{one}" for one in range(1, number + 1)]


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_world_sees_a_filter_that_opens_too_early(world: World) -> None:
    """Or else nothing above would prove anything."""
    world.add(ONE)
    world.settle()
    with pytest.raises(AssertionError, match=r"not acknowledged|is lost"):
        _open_too_early(world)


def _open_too_early(world: World) -> None:
    world.add(TWO)
    world.look()
    hashes = frozenset(map(hash_of, (ONE, TWO)))
    coroutine = world.supervisor._performer.perform(SetFilter(IN.index, hashes))
    coroutine.send(None)


def test_workers_are_ready_when_all_is_settled(settled: World) -> None:
    assert {worker.state for worker in settled.state.workers} == {WorkerState.READY}

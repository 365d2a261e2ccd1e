"""What should be open, given rules and links."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from mcr.model.endpoint import Endpoint, parse_endpoint
from mcr.model.link import Link
from mcr.model.mapping import Mapped, parse_target
from mcr.model.policy import Source, SourcePolicy
from mcr.model.rule import Output, Rule
from mcr.model.ruleset import Ruleset, ruleset
from mcr.model.share import PlacedOutput, PlacedRule, Share
from mcr.model.steering import Steering, rule_hash
from mcr.supervisor.layout import (
    InterfacePlan,
    Layout,
    OutputPlan,
    PortHold,
    Wishes,
    leaves_as_packets,
    plan,
)
from mcr.supervisor.memberships import Membership
from mcr.supervisor.slots import SlotBook
from tests.support.links import link, links
from tests.support.rules import rule

IN, OUT, OTHER = link("in", 2, "10.0.0.1"), link("out", 3, "10.1.0.1"), link("other", 4)
WISHES = Wishes(
    2,
    Steering.HASH,
    100,
    busy_poll=False,
    realtime=True,
    batch=512,
    ring_bytes=1 << 20,
    watch_unmatched=True,
    bypass_stack=True,
)
OPEN = {IN.index: 7}


def book_of(rules: Ruleset) -> SlotBook:
    book = SlotBook()
    for one in rules:
        book.take(one)
    return book


def layout_of(
    *rules: Rule,
    on: Mapping[str, Link] | None = None,
    interface_slots: Mapping[int, int] | None = None,
    wishes: Wishes = WISHES,
) -> Layout:
    """Plan with input and output present, and the input's interface open."""
    wanted = ruleset(rules)
    present = links(IN, OUT) if on is None else on
    return plan(
        wanted, present, book_of(wanted), OPEN if interface_slots is None else interface_slots, wishes
    )


def hash_of(one: Rule) -> int:
    return rule_hash(one.input.address, one.input.port)


def is_empty(layout: Layout) -> bool:
    return not (
        layout.interfaces
        or layout.outputs
        or layout.filters
        or layout.memberships
        or layout.holds
        or any(share.rules for share in layout.shares)
    )


def test_without_rules_nothing_is_wanted_but_empty_shares() -> None:
    layout = layout_of()

    assert is_empty(layout)
    assert layout.shares == [Share(), Share()]
    assert not layout.pending


def test_an_active_rule_wants_everything_that_it_needs() -> None:
    one = rule("239.1.1.1%in:5001", "239.2.2.2%out:6000", "192.0.2.7:6001")
    layout = layout_of(one)
    first, second = one.outputs

    assert layout.interfaces == {"in": InterfacePlan(IN, Steering.HASH, "steering: hash is configured")}
    assert layout.outputs == {
        0: OutputPlan(first, OUT.index, 4, OUT.addresses),
        1: OutputPlan(second, 0, 4, frozenset()),
    }
    assert layout.filters == {"in": {hash_of(one)}}
    assert layout.memberships == {Membership("in", IN.index, IPv4Address("239.1.1.1"))}
    assert not layout.holds
    assert not layout.pending
    expected = PlacedRule(
        one, 0, 7, IN.index, (PlacedOutput(first, 0, 4, OUT.index, OUT.mtu), PlacedOutput(second, 1, 4, 0))
    )
    assert layout.shares[hash_of(one) % 2] == Share((expected,), ((IN.index, 7),))
    assert layout.shares[1 - hash_of(one) % 2] == Share((), ((IN.index, 7),))


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        (links(), "interface in does not exist"),
        (links(OUT), "interface in does not exist"),
        (links(IN), "interface out does not exist"),
    ],
)
def test_a_rule_without_its_interface_is_pending_and_wants_nothing(
    present: Mapping[str, Link], reason: str
) -> None:
    one = rule("239.1.1.1%in:5001", "239.2.2.2%out:6000")
    layout = layout_of(one, on=present)

    assert layout.pending == {one.id: reason}
    assert is_empty(layout)


def test_a_rule_is_pending_only_when_all_of_its_outputs_are_missing() -> None:
    one = rule("239.1.1.1%in:5001", "239.2.2.2%out:6000", "239.2.2.3%other:6000")
    layout = layout_of(one, on=links(IN, OTHER))

    assert not layout.pending
    assert layout.outputs.keys() == {1}
    placed = layout.shares[hash_of(one) % 2].rules[0]
    # The missing output keeps its place in the table, so that what it does not send is counted.
    assert [(output.slot, output.ifindex) for output in placed.outputs] == [(0, 0), (1, OTHER.index)]


def test_an_output_that_the_routing_table_decides_on_keeps_a_rule_active() -> None:
    assert not layout_of(rule("239.1.1.1%in:5001", "192.0.2.7:6000"), on=links(IN)).pending


def test_a_rule_whose_interface_is_not_open_yet_is_in_no_share() -> None:
    layout = layout_of(rule("239.1.1.1%in:5001"), interface_slots={})

    assert layout.interfaces.keys() == {"in"}
    assert layout.shares == [Share(), Share()]


def test_a_pending_rule_does_not_disturb_the_others() -> None:
    one, other = rule("239.1.1.1%in:5001"), rule("239.1.1.2%other:5001")
    layout = layout_of(one, other)

    assert layout.pending.keys() == {other.id}
    assert layout.filters == {"in": {hash_of(one)}}


def test_a_unicast_input_holds_its_port_and_joins_nothing() -> None:
    layout = layout_of(rule("10.0.0.1%in:5001"))

    assert layout.holds == {PortHold(IN.index, IPv4Address("10.0.0.1"), 5001)}
    assert not layout.memberships


def test_a_unicast_input_of_several_ports_holds_each() -> None:
    layout = layout_of(rule("10.0.0.1%in:5001-5003"))

    assert layout.holds == {PortHold(IN.index, IPv4Address("10.0.0.1"), port) for port in (5001, 5002, 5003)}


def test_sources_are_joined_one_by_one() -> None:
    layout = layout_of(rule("10.0.0.8,10.0.0.9@232.1.1.1%in:5001"), rule("232.1.1.1%in:5002"))
    group = IPv4Address("232.1.1.1")

    assert layout.memberships == {
        Membership("in", IN.index, group, IPv4Address("10.0.0.8")),
        Membership("in", IN.index, group, IPv4Address("10.0.0.9")),
        Membership("in", IN.index, group),
    }


def test_ports_of_one_group_are_one_membership_and_several_hashes() -> None:
    rules = [rule(f"239.1.1.1%in:{port}") for port in (5001, 5002)]
    layout = layout_of(*rules)

    assert len(layout.memberships) == 1
    assert layout.filters["in"] == {hash_of(one) for one in rules}


def test_filters_belong_to_interfaces() -> None:
    rules = [rule("239.1.1.1%in:5001"), rule("239.1.1.2%other:5001")]
    layout = layout_of(*rules, on=links(IN, OUT, OTHER), interface_slots={IN.index: 0, OTHER.index: 1})

    assert layout.filters == {"in": {hash_of(rules[0])}, "other": {hash_of(rules[1])}}


def test_steering_is_picked_for_each_interface() -> None:
    wide = link("other", 4, receive_queues=2)
    rules = [rule("239.1.1.1%in:5001"), rule("239.1.1.2%other:5001")]
    layout = layout_of(
        *rules,
        on=links(IN, OUT, wide),
        interface_slots={IN.index: 0, wide.index: 1},
        wishes=replace(WISHES, steering=Steering.AUTO),
    )

    assert {name: one.steering for name, one in layout.interfaces.items()} == {
        "in": Steering.HASH,
        "other": Steering.CPU,
    }
    assert sorted(len(share.rules) for share in layout.shares) == [1, 2]


def test_new_addresses_of_an_output_are_a_new_plan() -> None:
    """A socket is bound to the source address that it found when it was connected."""
    one = rule("239.1.1.1%in:5001", "239.2.2.2%out:6000")
    before, after = (
        layout_of(one, on=links(IN, link("out", 3, address))).outputs[0]
        for address in ("10.1.0.1", "10.1.0.2")
    )

    assert before != after
    assert after.addresses == {ip_address("10.1.0.2")}


def test_an_interface_under_a_new_index_is_a_new_plan_for_everything() -> None:
    one = rule("239.1.1.1%in:5001")
    new = link("in", 9)
    layout = layout_of(one, on=links(new, OUT), interface_slots={IN.index: 7, new.index: 8})

    assert layout.interfaces["in"].link.index == 9
    assert layout.memberships == {Membership("in", 9, IPv4Address("239.1.1.1"))}
    placed = layout.shares[hash_of(one) % 2].rules[0]
    assert (placed.ifindex, placed.interface_slot) == (9, 8)


def test_an_open_interface_keeps_its_steering_when_its_queues_change() -> None:
    one = rule("239.1.1.1%in:5001")
    wanted, wide = ruleset([one]), link("in", IN.index, receive_queues=8)
    opened = {IN.index: InterfacePlan(IN, Steering.HASH, "as it was")}
    layout = plan(
        wanted, links(wide, OUT), book_of(wanted), OPEN, replace(WISHES, steering=Steering.AUTO), opened
    )

    assert layout.interfaces["in"] == InterfacePlan(wide, Steering.HASH, "as it was")
    assert sorted(len(share.rules) for share in layout.shares) == [0, 1]


# ---- past the IP stack ----

ETHERNET = replace(OUT, link_address=bytes([2, 0, 0, 0, 0, 3]))
LOOPBACK = replace(OUT, link_address=bytes(6))
INFINIBAND = replace(OUT, link_address=bytes(range(20)))
GROUP, HOST = parse_target("239.2.2.2%out:6000"), parse_target("10.1.0.9%out:6000")
BYPASSES = {
    "a group": (GROUP, SourcePolicy.INTERFACE, ETHERNET, True),
    "a mapping": (parse_target("keep%out"), SourcePolicy.INTERFACE, ETHERNET, True),
    "from an address": (GROUP, IPv4Address("10.1.0.1"), ETHERNET, True),
    "a host": (HOST, SourcePolicy.INTERFACE, ETHERNET, False),
    "loopback": (GROUP, SourcePolicy.INTERFACE, LOOPBACK, False),
    "a tunnel": (GROUP, SourcePolicy.INTERFACE, OUT, False),
    "another link": (GROUP, SourcePolicy.INTERFACE, INFINIBAND, False),
    "no link": (GROUP, SourcePolicy.INTERFACE, OTHER, False),
    "no address": (GROUP, SourcePolicy.INTERFACE, replace(ETHERNET, addresses=frozenset()), False),
    "no address of that version": (
        parse_target("[ff3e::8000:1%out]:6000"),
        SourcePolicy.INTERFACE,
        ETHERNET,
        False,
    ),
    "from an address of another link": (GROUP, IPv4Address("10.0.0.1"), ETHERNET, True),
    "from an address that is not here": (GROUP, IPv4Address("10.1.0.77"), ETHERNET, False),
}
INPUT = parse_endpoint("239.1.1.1%in:5001")


@pytest.mark.parametrize(("to", "source", "on", "expected"), BYPASSES.values(), ids=BYPASSES)
def test_groups_on_ethernet_bypass_the_stack(
    to: Endpoint | Mapped, source: Source, on: Link, *, expected: bool
) -> None:
    output = Output(to, source=source)

    assert leaves_as_packets(output, INPUT, links(IN, on), WISHES) is expected
    assert not leaves_as_packets(output, INPUT, links(IN, on), replace(WISHES, bypass_stack=False))


@pytest.mark.parametrize("on", [ETHERNET, LOOPBACK, OUT, OTHER])
@pytest.mark.parametrize("bypass_stack", [True, False])
def test_what_keeps_its_source_bypasses_the_stack_always(on: Link, *, bypass_stack: bool) -> None:
    output = Output(GROUP, source=SourcePolicy.KEEP)

    assert leaves_as_packets(output, INPUT, links(on), replace(WISHES, bypass_stack=bypass_stack))


def test_an_output_that_keeps_its_source_needs_no_socket() -> None:
    one = Rule(parse_endpoint("239.1.1.1%in:5001"), (Output(GROUP, source=SourcePolicy.KEEP), Output(HOST)))
    layout = layout_of(one)

    assert layout.outputs.keys() == {1}
    placed = layout.shares[hash_of(one) % 2].rules[0]
    assert [(output.slot, output.as_packets) for output in placed.outputs] == [(0, True), (1, False)]


@pytest.mark.parametrize(
    ("to", "on", "expected"),
    [
        ("keep%out", ETHERNET, "239.1.1.0"),
        ("239.9.0.0/16%out", ETHERNET, "239.9.1.0"),
        ("keep%out", OUT, None),
        ("239.2.2.2%out:6000", ETHERNET, None),
    ],
)
def test_the_source_of_a_mapping_that_bypasses_the_stack_is_looked_up(
    to: str, on: Link, expected: str | None
) -> None:
    """For a group that it sends to; a connected socket knows its source, and the stack needs none."""
    one = Rule(parse_endpoint("239.1.1.0/24%in:5001"), (Output(parse_target(to)),))
    towards = layout_of(one, on=links(IN, on)).outputs[0].towards

    assert towards == (None if expected is None else IPv4Address(expected))

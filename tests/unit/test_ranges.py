"""Inputs of several groups and ports, and excluded sources: as text, together, in filters and in tables."""

import errno
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.errors import EndpointError, RuleError
from mcr.model.bpf import Range, bypass_program, steering_program, unmatched_program
from mcr.model.bpf_code import KEEP_ALL, nothing
from mcr.model.endpoint import Address, Endpoint, parse_endpoint
from mcr.model.mapping import parse_target
from mcr.model.rule import Output, Rule
from mcr.model.ruleset import problems
from mcr.model.share import PlacedRule, Share
from mcr.model.steering import Steering, rule_hash
from mcr.wire.share import mapped, pack_share, share_digest
from tests.support import bpf_machine
from tests.support.packets import FRAGMENT, HOP_BY_HOP, TCP, V4, V6, Packet, extension
from tests.support.rules import HOSTS_V4, HOSTS_V6, placed

# ---- as text ----


@st.composite
def inputs(draw: st.DrawFn) -> Endpoint:
    """Make an input with a prefix, ports and sources of any kind."""
    version = draw(st.sampled_from([4, 6]))
    base = draw(st.ip_addresses(network="239.0.0.0/8" if version == 4 else "ff35::/16"))
    length = base.max_prefixlen - draw(st.integers(0, 10))
    address = ip_network((base, length), strict=False).network_address
    first = draw(st.integers(1, 65535))
    last = draw(st.integers(first, 65535))
    named = tuple(draw(st.lists(HOSTS_V4 if version == 4 else HOSTS_V6, max_size=4)))
    sources, excluded = draw(st.sampled_from([((), ()), (named, ()), ((), named)]))
    return Endpoint(
        address, first, draw(st.sampled_from(["eth0", "a@b", "!x"])), sources, excluded, length, last
    )


@given(inputs())
def test_an_input_survives_its_text(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint
    assert str(parse_endpoint(str(endpoint))) == str(endpoint)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (
            "239.1.0.0/24%eth0:5000-5010",
            Endpoint(IPv4Address("239.1.0.0"), 5000, "eth0", prefix_length=24, last_port=5010),
        ),
        (
            "!10.0.0.9@239.1.1.1%eth0:5001",
            Endpoint(IPv4Address("239.1.1.1"), 5001, "eth0", excluded=(IPv4Address("10.0.0.9"),)),
        ),
        ("[ff35::/120%eth0]:1", Endpoint(IPv6Address("ff35::"), 1, "eth0", prefix_length=120)),
        ("10.0.0.1%eth0:5-6", Endpoint(IPv4Address("10.0.0.1"), 5, "eth0", last_port=6)),
    ],
)
def test_texts_and_endpoints_mean_each_other(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


NO_ADDRESS = "expected an IPv4 or IPv6 address"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("239.1.0.0/24%e:10-9", "got ports 10-9, expected the lower one first"),
        ("239.1.0.0/24%e:1-", "got no port"),
        ("239.1.0.0/24%e:1-2-3", "got no port"),
        ("239.1.0.0/24%e:0-5", "got port 0, expected 1 to 65535"),
        ("239.1.0.0/24%e:5-65536", "got port 65536, expected 1 to 65535"),
        ("239.1.0.1/24%e:5", "got 239.1.0.1/24, expected no bits set behind the prefix"),
        (
            "239.0.0.0/21%e:5",
            "got prefix length 21, expected 22 to 32: every one of at most 1024 groups is joined",
        ),
        ("239.0.0.0/33%e:5", "got prefix length 33, expected 22 to 32"),
        ("239.0.0.0/x%e:5", "got prefix length 'x', expected a number"),
        ("239.0.0.0/%e:5", "got prefix length '', expected a number"),
        ("[ff35::/64%e]:5", "got prefix length 64, expected 118 to 128"),
        ("10.0.0.0/24%e:5", "got prefix 10.0.0.0/24, expected a prefix of multicast addresses"),
        ("10.0.0.1%e:1-1025", "got 1025 ports of a host, expected at most 1024: each is held"),
        ("@239.1.1.1%e:5", f"got address '', {NO_ADDRESS}"),
        ("!@239.1.1.1%e:5", f"got address '', {NO_ADDRESS}"),
        ("!239.1.1.1%e:5", f"got address '!239.1.1.1', {NO_ADDRESS}"),
        ("10.0.0.1,!10.0.0.2@239.1.1.1%e:5", f"got address '!10.0.0.2', {NO_ADDRESS}"),
        ("!fd00::1@239.1.1.1%e:5", "got source fd00::1 for 239.1.1.1, expected both to be IPv4"),
        ("!239.1.1.2@239.1.1.1%e:5", "got source 239.1.1.2, expected the address of a host"),
    ],
)
def test_what_is_no_input_is_refused(text: str, message: str) -> None:
    with pytest.raises(EndpointError) as error:
        parse_endpoint(text)

    assert str(error.value).startswith(repr(text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "to", ["239.1.0.0/24%out:5-6", "10.0.0.1@239.1.1.1%out:5", "!10.0.0.1@239.1.1.1%out:5"]
)
def test_an_output_is_no_range_and_has_no_sources(to: str) -> None:
    with pytest.raises(RuleError):
        Output(parse_endpoint(to))


# ---- among each other ----


def found(*rules: tuple[str, str]) -> list[str]:
    made = [
        Rule(parse_endpoint(place), (Output(parse_target(to)),), f"r{number}")
        for number, (place, to) in enumerate(rules)
    ]
    return [f"{problem.rule.name} {problem.error.code}" for problem in problems(made)]


OUT = "192.0.2.1:1"


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ("239.1.0.0/24%in:5-9", "239.1.0.0/24%in:5-9", True),
        ("239.1.0.0/24%in:5-9", "239.1.0.0/28%in:5-9", False),
        ("239.1.0.0/24%in:5-9", "239.1.0.0/24%in:6-8", False),
        ("239.1.0.0/24%in:5-9", "239.1.0.1%in:7", False),
        ("239.1.0.0/24%in:5-9", "239.1.0.0/24%in:7-12", True),
        ("239.1.0.0/24%in:5-9", "239.1.0.0/28%in:5-10", True),
        ("239.1.0.0/24%in:5", "239.1.0.1%in:5-6", True),
        ("239.1.0.0/24%in:5-9", "239.1.0.0/24%in:10-12", False),
        ("239.1.0.0/24%in:5-9", "239.1.1.0/24%in:7-12", False),
        ("239.1.0.0/24%in:5-9", "239.1.0.0/24%in2:7-12", False),
        ("10.0.0.1@239.1.0.0/24%in:5", "10.0.0.2@239.1.0.0/24%in:5", False),
        ("10.0.0.1@239.1.0.0/24%in:5", "239.1.0.0/24%in:5", False),
        ("10.0.0.1@239.1.0.0/24%in:5", "10.0.0.1@239.1.0.0/24%in:5", True),
        ("!10.0.0.1@239.1.1.1%in:5", "10.0.0.1@239.1.1.1%in:5", False),
        ("!10.0.0.1@239.1.1.1%in:5", "239.1.1.1%in:5", True),
        ("!10.0.0.1@239.1.1.1%in:5", "!10.0.0.2@239.1.1.1%in:5", True),
        ("[ff35::/120%in]:5-9", "[ff35::/124%in]:7-12", True),
    ],
)
def test_ranges_are_apart_or_one_lies_within_the_other(one: str, other: str, *, problem: bool) -> None:
    assert found((one, OUT), (other, OUT)) == (["r1 duplicate_input"] if problem else [])
    assert found((other, OUT), (one, OUT)) == (["r1 duplicate_input"] if problem else [])


@pytest.mark.parametrize(
    ("place", "to", "ring"),
    [
        ("239.1.0.0/24%a:5-9", "239.1.0.7%a:6", True),
        ("239.1.0.0/24%a:5-9", "239.1.0.7%a:10", False),
        ("239.1.0.0/24%a:5-9", "keep%a", True),
        ("239.1.0.0/24%a:5-9", "keep%b", False),
        ("239.1.0.0/24%a:5-9", "keep%a:+5", False),
        ("239.1.0.0/24%a:5-9", "keep%a:+4", True),
        ("239.1.0.0/24%a:5-9", "keep%a:9", True),
        ("239.1.0.0/24%a:5-9", "239.2.0.0/24%a", False),
        ("239.1.0.0/24%a:5-9", "239.1.0.0/25%a", True),
        ("239.1.0.0/24%a:5-9", "239.0.0.0/8%a", True),
        ("239.1.0.1%a:5", "keep%a", True),
        ("[ff35::/120%a]:5", "[ff35::/64%a]", True),
        ("[ff35::/120%a]:5", "239.1.0.0%a:5", False),
    ],
)
def test_a_rule_does_not_feed_its_own_range(place: str, to: str, *, ring: bool) -> None:
    assert found((place, to)) == (["r0 ring"] if ring else [])


def test_a_ring_through_mapped_outputs_of_several_rules_is_found() -> None:
    ring = [
        ("239.1.0.0/24%a:5-9", "239.2.0.0/24%b:+100"),
        ("239.2.0.0/23%b:100-200", "239.3.0.7%c:1"),
        ("239.3.0.7%c:1-2", "239.1.0.3%a:7"),
    ]

    assert found(*ring) == ["r2 ring"]
    assert found(*ring[:2]) == found(ring[0], ring[2]) == found(*ring[1:]) == []


# ---- in the kernel's filters ----

RANGES_V4 = st.builds(
    lambda base, free, first, more: Range(
        ip_network((base, 32 - free), strict=False).network_address,
        32 - free,
        first,
        min(first + more, 65535),
    ),
    st.ip_addresses(v=4, network="239.1.0.0/22"),
    st.integers(0, 10),
    st.integers(1, 65535),
    st.integers(0, 100),
)
RANGES_V6 = st.builds(
    lambda base, free, first, more: Range(
        ip_network((base, 128 - free), strict=False).network_address,
        128 - free,
        first,
        min(first + more, 65535),
    ),
    st.ip_addresses(v=6, network="ff35::/118"),
    st.integers(0, 10),
    st.integers(1, 65535),
    st.integers(0, 100),
)


def is_within(packet: Packet, wanted: Range) -> bool:
    return (
        packet.group.version == wanted.address.version
        and packet.group in ip_network((wanted.address, wanted.prefix_length))
        and wanted.first <= packet.port <= wanted.last
    )


def aim(data: st.DataObject, ranges: list[Range]) -> Packet:
    """Make a packet that is within a range, or just beside it."""
    one = data.draw(st.sampled_from(ranges))
    size = 1 << (one.address.max_prefixlen - one.prefix_length)
    # Just below ff35:: there is no group any more.
    offset = data.draw(
        st.sampled_from([0, size - 1, size] if one.address.version == 6 else [-1, 0, size - 1, size])
    )
    port = data.draw(st.sampled_from([one.first - 1, one.first, one.last, one.last + 1]))
    group = type(one.address)(int(one.address) + offset)
    whole = V4 if one.address.version == 4 else V6
    options = data.draw(st.sampled_from([b"", bytes(8), bytes(40)])) if group.version == 4 else b""
    return replace(whole, group=group, port=max(0, min(port, 65535)), options=options)


def passes(packet: Packet, *destinations: int | Range) -> bool:
    return (
        bpf_machine.run(steering_program(destinations, Steering.HASH, 3), packet.ethertype, bytes(packet)) > 0
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(RANGES_V4 | RANGES_V6, min_size=1, max_size=6), st.data())
def test_exactly_what_is_within_a_range_passes(ranges: list[Range], data: st.DataObject) -> None:
    packet = aim(data, ranges)

    assert passes(packet, *ranges) == any(is_within(packet, one) for one in ranges)
    assert not passes(replace(packet, protocol=TCP), *ranges)


def test_ranges_and_single_destinations_pass_together() -> None:
    wanted: list[int | Range] = [
        rule_hash(V4.group, V4.port),
        Range(IPv4Address("239.9.0.0"), 24, 7, 8),
        rule_hash(V6.group, 1),
    ]

    assert passes(V4, *wanted)
    assert passes(replace(V4, group=IPv4Address("239.9.0.255"), port=8), *wanted)
    assert passes(replace(V6, port=1), *wanted)
    assert not passes(replace(V4, group=IPv4Address("239.9.1.0"), port=8), *wanted)
    assert not passes(V6, *wanted)


def test_fragments_over_ipv6_pass_as_port_0() -> None:
    fragment = replace(V6, protocol=FRAGMENT)

    assert passes(fragment, rule_hash(V6.group, 0))
    assert not passes(fragment, rule_hash(V6.group, V6.port))
    assert not passes(fragment, Range(V6.group, 128, 1, 65535))


def is_unmatched(packet: Packet) -> bool:
    kept = bpf_machine.run(unmatched_program(), packet.ethertype, bytes(packet))
    assert kept in {0, KEEP_ALL}
    return kept > 0


def bypasses(packet: Packet, *destinations: int | Range) -> bool:
    return bpf_machine.run(bypass_program(destinations), packet.ethertype, bytes(packet)) > 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(RANGES_V4 | RANGES_V6, min_size=1, max_size=4),
    st.lists(st.tuples(st.ip_addresses(network="239.1.0.0/30"), st.integers(1, 5)), max_size=40),
    st.data(),
)
def test_what_bypasses_the_stack_is_what_comes_to_the_workers(
    ranges: list[Range], singles: list[tuple[Address, int]], data: st.DataObject
) -> None:
    wanted: list[int | Range] = [*ranges, *(rule_hash(*one) for one in singles)]
    packet = aim(data, ranges)
    group, port = data.draw(st.sampled_from([(packet.group, packet.port), *singles]))
    if (group, port) in singles:
        packet = replace(V4, group=group, port=port)

    assert bypasses(packet, *wanted) == (passes(packet, *wanted) and packet.group.is_multicast)


NO_UDP_MULTICAST = {
    "unicast 4": replace(V4, group=IPv4Address("10.0.0.7")),
    "unicast 6": replace(V6, group=ip_address("2001:db8::7")),
    "tcp 4": replace(V4, protocol=TCP),
    "tcp 6": replace(V6, protocol=TCP),
    "fragment 6": replace(V6, protocol=FRAGMENT),
    "later fragment": replace(V4, fragment=0x00B9),
    "extension header": replace(V6, extensions=(extension(HOP_BY_HOP, b""),)),
}


@pytest.mark.parametrize("packet", NO_UDP_MULTICAST.values(), ids=NO_UDP_MULTICAST)
def test_what_is_no_udp_multicast_is_not_unmatched_and_does_not_bypass(packet: Packet) -> None:
    assert not is_unmatched(packet)
    assert is_unmatched(V4)
    assert is_unmatched(V6)
    assert not bypasses(packet, rule_hash(packet.group, packet.port), rule_hash(packet.group, 0))


def test_a_first_fragment_does_not_bypass_as_the_others_cannot() -> None:
    wanted = rule_hash(V4.group, V4.port)
    first = replace(V4, fragment=0x2000)

    assert passes(first, wanted)
    assert not bypasses(first, wanted)
    assert bypasses(V4, wanted)


def test_a_tagged_frame_is_not_unmatched_and_does_not_bypass() -> None:
    """It belongs to its VLAN's own interface."""
    for program in (unmatched_program(), bypass_program([rule_hash(V4.group, V4.port)])):
        assert bpf_machine.run(program, V4.ethertype, bytes(V4), tagged=True) == 0
        assert bpf_machine.run(program, V4.ethertype, bytes(V4)) > 0


def test_more_than_fits_a_program_does_not_bypass() -> None:
    assert list(bypass_program(range(4000))) == list(nothing())


# ---- in the table ----

GROUPS = [IPv4Address("239.1.1.0") + number for number in range(9)] + [IPv4Address("239.1.2.1")]
SOURCES = [IPv4Address("10.0.0.1") + number for number in range(3)]
TABLE_INPUTS = [
    f"{sources}{place}:{ports}"
    for place in ("239.1.1.0/24%in", "239.1.1.0/29%in", "239.1.1.1%in", "239.1.1.4%in")
    for ports in ("5-9", "6-7", "7")
    for sources in ("", "10.0.0.1@", "10.0.0.2,10.0.0.3@", "!10.0.0.1@")
]


@dataclass(frozen=True)
class Model:
    """What look-up means: of those that cover a datagram, the most specific one that allows its source."""

    rules: list[PlacedRule]

    def find(self, group: Address, port: int, source: Address) -> int:
        covering = [one for one in self.rules if covers(one.rule.input, group, port)]
        allowing = [one for one in covering if allows(one.rule.input, source)]
        if not allowing:
            return -errno.EACCES if covering else -errno.ENOENT
        return min(allowing, key=lambda one: width(one.rule.input)).slot


def covers(given_: Endpoint, group: Address, port: int) -> bool:
    return (
        group in ip_network((given_.address, given_.prefix_length))
        and given_.port <= port <= given_.last_port
    )


def allows(given_: Endpoint, source: Address) -> bool:
    return source in given_.sources if given_.sources else source not in given_.excluded


def width(given_: Endpoint) -> tuple[int, int, int]:
    kind = 0 if given_.sources else 1 if given_.excluded else 2
    return -given_.prefix_length, given_.last_port - given_.port, kind


@st.composite
def tables(draw: st.DrawFn) -> Share:
    """Make rules that may be in force together, in any order."""
    chosen: list[Rule] = []
    for text in draw(st.lists(st.sampled_from(TABLE_INPUTS), unique=True, max_size=12)):
        one = Rule(parse_endpoint(text), (Output(parse_endpoint("192.0.2.1:1")),))
        if not problems([*chosen, one]):
            chosen.append(one)
    return Share(tuple(draw(st.permutations([placed(one, slot) for slot, one in enumerate(chosen)]))))


LOOK_UPS = st.lists(
    st.tuples(st.sampled_from(GROUPS), st.integers(4, 10), st.sampled_from(SOURCES)), min_size=1, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(tables(), LOOK_UPS), min_size=1, max_size=3))
def test_the_table_finds_the_most_specific_rule_again_and_again(steps: list[tuple[Share, object]]) -> None:
    """One table for all: what it remembers of look-ups must not outlive the rules."""
    table = ffi.gc(lib.mcr_table__new(), lib.mcr_table__free)
    for generation, (share, look_ups) in enumerate(steps, start=1):
        content = pack_share(share, generation)
        assert lib.mcr_table__load(table, content, len(content)) == 0
        assert lib.mcr_table__digest(table) == share_digest(share)
        model = Model(list(share.rules))
        assert isinstance(look_ups, list)
        for group, port, source in look_ups + look_ups:
            index = lib.mcr_table__find(table, 0, mapped(group), port, mapped(source))
            slot = lib.mcr_table__rule(table, index).slot if index >= 0 else index
            assert slot == model.find(group, port, source), (group, port, source)

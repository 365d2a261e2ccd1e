"""What rules do to each other, found by an index, against comparing each with each."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcr.model.endpoint import Address, Endpoint, parse_endpoint
from mcr.model.mapping import Mapped, Network, parse_target
from mcr.model.reach import Reach, Reaches
from mcr.model.rule import Output, Rule
from mcr.model.ruleset import MAX_RINGS, MAX_RULES, problems

# ---- each with each ----


def expected_problems(rules: list[Rule]) -> list[str]:
    return [*duplicates(rules), *rings(rules)]


def duplicates(rules: list[Rule]) -> Iterator[str]:
    for position, rule in enumerate(rules):
        before = rules[:position]
        same = [one for one in before if is_same(rule.input, one.input)]
        for other in [*same, *(one for one in before if crosses(rule.input, one.input))]:
            taken = f"that of rule {other.name!r}: {other.input}"
            yield f"{rule.name} duplicate_input: got input {rule.input}, expected another one than {taken}"


def is_same(one: Endpoint, other: Endpoint) -> bool:
    sources = bool(set(one.sources) & set(other.sources)) or not (one.sources or other.sources)
    place, other_place = (
        (given.interface, given.address, given.prefix_length, given.port, given.last_port)
        for given in (one, other)
    )
    return place == other_place and sources


def crosses(one: Endpoint, other: Endpoint) -> bool:
    return (
        one.is_range
        and other.is_range
        and one.interface == other.interface
        and groups(one).overlaps(groups(other))
        and one.port <= other.last_port
        and other.port <= one.last_port
        and not is_within(one, other)
        and not is_within(other, one)
    )


def is_within(inner: Endpoint, outer: Endpoint) -> bool:
    return (
        inner.prefix_length >= outer.prefix_length
        and outer.port <= inner.port
        and inner.last_port <= outer.last_port
    )


def groups(endpoint: Endpoint) -> Network:
    return ip_network((endpoint.address, endpoint.prefix_length))


def feeds(output: Output, rule: Rule, other: Rule) -> bool:
    to = output.to
    if to.interface != other.interface or output.version(rule.input) != other.input.address.version:
        return False
    if isinstance(to, Endpoint):
        sent, (first, last) = groups(to), (to.port, to.port)
    else:
        sent, (first, last) = to.image(groups(rule.input)), to.ports(rule.input.port, rule.input.last_port)
    return sent.overlaps(groups(other.input)) and first <= other.input.last_port and other.input.port <= last


def rings(rules: list[Rule]) -> Iterator[str]:
    fed = {
        position: [
            at for at, other in enumerate(rules) if any(feeds(output, rule, other) for output in rule.outputs)
        ]
        for position, rule in enumerate(rules)
    }
    for _ in range(MAX_RINGS):
        try:
            TopologicalSorter(fed).prepare()
        except CycleError as error:
            ring = error.args[1][::-1]
            names = " -> ".join(repr(rules[position].name) for position in ring)
            last = max(ring)
            yield f"{rules[last].name} ring: got outputs that feed their own input, expected no ring: {names}"
            fed[last] = []
        else:
            return


# ---- a world so small that rules meet ----

LINKS = st.sampled_from(["a", "b", "c"])
PORTS = st.integers(1, 12)
HOSTS_V4: list[Address] = [IPv4Address(f"10.0.0.{number}") for number in (1, 2, 3)]
HOSTS_V6: list[Address] = [IPv6Address(f"fd00::{number}") for number in (1, 2, 3)]


@st.composite
def prefixes(draw: st.DrawFn, version: int) -> Network:
    first = IPv4Address("239.0.0.0") if version == 4 else IPv6Address("ff35::")
    length = first.max_prefixlen - draw(st.sampled_from([0, 0, 1, 2, 4]))
    return ip_network((first + draw(st.integers(0, 15)), length), strict=False)


@st.composite
def places(draw: st.DrawFn) -> Endpoint:
    within = draw(prefixes(draw(st.sampled_from([4, 4, 6]))))
    first, last = sorted((draw(PORTS), draw(PORTS))) if draw(st.booleans()) else [draw(PORTS)] * 2
    return Endpoint(
        within.network_address, first, draw(LINKS), prefix_length=within.prefixlen, last_port=last
    )


@st.composite
def sources(draw: st.DrawFn, place: Endpoint) -> Endpoint:
    hosts = HOSTS_V4 if place.address.version == 4 else HOSTS_V6
    named = tuple(draw(st.lists(st.sampled_from(hosts), max_size=2)))
    excludes = draw(st.booleans())
    return replace(place, sources=() if excludes else named, excluded=named if excludes else ())


@st.composite
def targets(draw: st.DrawFn, given: Endpoint) -> Endpoint | Mapped:
    version = given.address.version
    kind = draw(st.sampled_from(["endpoint", "mapped", "keep", "host"]))
    if kind == "host":
        return parse_endpoint("192.0.2.1:1")
    if kind == "endpoint":
        return Endpoint(draw(prefixes(version)).network_address, draw(PORTS), draw(LINKS))
    prefix = draw(prefixes(version)) if kind == "mapped" else None
    port = draw(st.sampled_from([0, 3, 7]))
    offset = 0 if port else draw(st.integers(1 - given.port, 4))
    return Mapped(draw(LINKS), prefix, port, offset)


@st.composite
def rules_that_meet(draw: st.DrawFn) -> list[Rule]:
    taken = st.sampled_from(draw(st.lists(places(), min_size=1, max_size=8)))
    made = []
    for number in range(draw(st.integers(1, 12))):
        given = draw(sources(draw(taken)))
        to = draw(st.lists(targets(given), min_size=1, max_size=3, unique=True))
        made.append(Rule(given, tuple(map(Output, to)), f"r{number}"))
    return made


@settings(max_examples=300, deadline=None)
@given(rules_that_meet())
def test_the_problems_are_those_of_comparing_each_with_each(rules: list[Rule]) -> None:
    found = [f"{problem.rule.name} {problem.error.code}: {problem.error}" for problem in problems(rules)]

    assert found == expected_problems(rules)


def reaches() -> st.SearchStrategy[Reach]:
    def between(first: int, more: int) -> tuple[int, int]:
        return first, first + more

    spans = st.builds(between, st.integers(0, 8), st.sampled_from([0, 0, 1, 2, 3, 7]))
    return st.builds(
        lambda link, version, addresses, ports: Reach(link, version, *addresses, *ports),
        st.sampled_from(["a", "a", "b", None]),
        st.sampled_from([4, 4, 6]),
        spans,
        spans,
    )


@given(st.lists(reaches(), max_size=30), reaches())
@example([Reach("a", 4, 5, 5, 1, 1), Reach("a", 4, 1, 1, 1, 1)], Reach("a", 4, 0, 9, 1, 9))
def test_what_overlaps_is_what_has_a_datagram_in_common(inputs: list[Reach], wanted: Reach) -> None:
    def points(reach: Reach) -> set[tuple[object, ...]]:
        return {
            (*reach[:2], address, port)
            for address in range(reach.first_address, reach.last_address + 1)
            for port in range(reach.first_port, reach.last_port + 1)
        }

    assert Reaches(inputs).overlapping(wanted) == [
        position for position, reach in enumerate(inputs) if points(reach) & points(wanted)
    ]


# ---- many ----


def of_many_prefixes(count: int) -> list[tuple[str, str]]:
    places = ((1 + number // 256, number % 256) for number in range(count))
    return [(f"239.{high}.{low}.0/24%in:5000-5010", "239.128.0.0/9%out") for high, low in places]


def of_many_ports(count: int) -> list[tuple[str, str]]:
    return [(f"239.1.0.0/24%in:{1 + 7 * n}-{7 + 7 * n}", "239.128.0.0/9%out") for n in range(count)]


def of_many_sources(count: int) -> list[tuple[str, str]]:
    return [(f"10.0.{n // 256}.{n % 256}@239.1.1.1%in:5000", "keep%out") for n in range(count)]


@pytest.mark.parametrize("many", [of_many_prefixes, of_many_ports, of_many_sources])
def test_as_many_rules_as_there_may_be_are_checked_within_two_seconds(
    many: Callable[[int], list[tuple[str, str]]],
) -> None:
    """Comparing each with each takes minutes."""
    rules = [
        Rule(parse_endpoint(place), (Output(parse_target(to)),), f"r{number}")
        for number, (place, to) in enumerate(many(MAX_RULES))
    ]

    begin = time.process_time()
    assert problems(rules) == []
    took_s = time.process_time() - begin

    assert took_s < 2

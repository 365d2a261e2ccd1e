"""Rules and shares for tests: made by hand in a line, or by hypothesis."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from mcr.model.endpoint import Address, Endpoint, parse_endpoint
from mcr.model.policy import Ttl, TtlPolicy
from mcr.model.rule import Output, Rule
from mcr.model.share import PlacedOutput, PlacedRule, Share

PORTS = st.integers(1, 65535)
GROUPS_V4 = st.ip_addresses(network="239.0.0.0/8")
GROUPS_V6 = st.ip_addresses(network="ff35::/16")
GROUPS = st.one_of(GROUPS_V4, GROUPS_V6)
HOSTS_V4 = st.ip_addresses(network="10.0.0.0/8")
HOSTS_V6 = st.ip_addresses(network="2001:db8::/32")
TTLS: st.SearchStrategy[Ttl] = st.one_of(st.sampled_from(list(TtlPolicy)), st.integers(1, 255))


def rule(from_: str, *to: str, ttl: Ttl = TtlPolicy.AUTO) -> Rule:
    """Make a rule of endpoints as they are written."""
    outputs = tuple(Output(parse_endpoint(text), ttl) for text in to or ("239.2.2.2%out:6000",))
    return Rule(parse_endpoint(from_), outputs)


def placed(one: Rule, slot: int = 0, interface_slot: int = 0, ifindex: int = 2) -> PlacedRule:
    """Place a rule by hand; its outputs count where the rule does, and after it."""
    outputs = tuple(
        PlacedOutput(output, slot + n, output.version(one.input), 3) for n, output in enumerate(one.outputs)
    )
    return PlacedRule(one, slot, interface_slot, ifindex, outputs)


@st.composite
def outputs_of_rules(draw: st.DrawFn) -> Output:
    """Make an output of any kind."""
    multicast = draw(st.booleans())
    address = draw(GROUPS if multicast else st.one_of(HOSTS_V4, HOSTS_V6))
    interface = draw(st.sampled_from(["out", "other"] if multicast else ["out", None]))
    return Output(Endpoint(address, draw(PORTS), interface), draw(TTLS))


@st.composite
def rules_of_one_group(draw: st.DrawFn, interface: str, group: Address, port: int) -> list[Rule]:
    """Make rules for one group that may be in force together: no source is meant by two of them."""
    hosts = HOSTS_V4 if group.version == 4 else HOSTS_V6
    sources = draw(st.lists(hosts, unique=True, max_size=6))
    cut = draw(st.integers(0, len(sources)))
    parts: list[Sequence[Address]] = [part for part in (sources[:cut], sources[cut:]) if part]
    if not parts or draw(st.booleans()):
        parts.append(())
    outputs = st.lists(outputs_of_rules(), min_size=1, max_size=3, unique_by=lambda output: output.to)
    return [
        Rule(Endpoint(group, port, interface, tuple(part)), tuple(draw(outputs)))
        for part in draw(st.permutations(parts))
    ]


@st.composite
def shares(draw: st.DrawFn, max_groups: int = 8) -> Share:
    """Make a share as `layout` does: its rules agree with each other, each output has a slot of its own."""
    key = st.tuples(st.integers(0, 3), GROUPS, PORTS)
    keys = draw(st.lists(key, unique=True, max_size=max_groups))
    rules: list[PlacedRule] = []
    slot = draw(st.integers(0, 1000))
    for interface_slot, group, port in keys:
        for one in draw(rules_of_one_group(f"in{interface_slot}", group, port)):
            at = placed(one, slot, interface_slot, 10 + interface_slot)
            ifindexes = draw(st.lists(st.integers(0, 9), min_size=len(at.outputs), max_size=len(at.outputs)))
            moved = tuple(
                replace(output, ifindex=ifindex)
                for output, ifindex in zip(at.outputs, ifindexes, strict=True)
            )
            rules.append(replace(at, outputs=moved))
            slot += len(one.outputs)
    return Share(tuple(draw(st.permutations(rules))))

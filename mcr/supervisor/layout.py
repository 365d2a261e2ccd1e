"""
What should be, worked out from the rules and the links: a pure function.

A rule is *active* when its input's interface and at least one output's interface exist; otherwise it is
*pending* and nothing of it is installed.  An output of an active rule whose interface is missing stays in the
table without a socket, so that what it does not send is counted.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from types import MappingProxyType

from mcr.model.bpf import Destination, Range
from mcr.model.endpoint import Address, Endpoint
from mcr.model.link import Link
from mcr.model.mapping import Mapped
from mcr.model.policy import SourcePolicy
from mcr.model.rule import Output, Rule, RuleId
from mcr.model.ruleset import Ruleset
from mcr.model.share import PlacedOutput, PlacedRule, Share
from mcr.model.steering import Steering, pick, rule_hash
from mcr.supervisor.distribute import distribute
from mcr.supervisor.memberships import Membership, memberships_of
from mcr.supervisor.slots import SlotBook


@dataclass(frozen=True, slots=True)
class InterfacePlan:
    """An interface to listen on: how it is steered and why."""

    link: Link
    steering: Steering
    reason: str


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """
    A socket to have open.

    A socket is bound to the source address that it found, so it is replaced when the link's addresses change.

    Attributes:
        towards: a group of a mapped output that is written as packets, to find their source address for.
    """

    output: Output
    ifindex: int
    version: int
    addresses: frozenset[Address]
    towards: Address | None = None


@dataclass(frozen=True, slots=True)
class PortHold:
    """A unicast input whose port the host must not answer for."""

    ifindex: int
    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Layout:
    """
    The desired state.

    Attributes:
        interfaces: by name, those that an active rule listens to.
        outputs: by slot.
        filters: by interface name, the destinations worth a copy.
        bypassed: of these, those to be kept from the host's IP stack: all or none of an interface.
        pending: by rule, why it is not active.
        shares: by worker number.
    """

    interfaces: Mapping[str, InterfacePlan]
    outputs: Mapping[int, OutputPlan]
    filters: Mapping[str, frozenset[Destination]]
    bypassed: Mapping[str, frozenset[Destination]]
    memberships: frozenset[Membership]
    holds: frozenset[PortHold]
    pending: Mapping[RuleId, str]
    shares: list[Share]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the configuration says beside the rules; see `mcr.config.compile.Configuration`."""

    workers: int
    steering: Steering
    coalesce_us: int | None
    busy_poll: bool
    realtime: bool
    batch: int
    ring_bytes: int
    watch_unmatched: bool
    bypass_stack: bool


def plan(  # noqa: PLR0913, PLR0917 - all that there is to know, and each has another owner
    rules: Ruleset,
    links: Mapping[str, Link],
    slots: SlotBook,
    interface_slots: Mapping[int, int],
    wishes: Wishes,
    steered: Mapping[int, InterfacePlan] = MappingProxyType({}),
) -> Layout:
    """
    Work out the desired state.

    *interface_slots* holds, by ifindex, the slots of the interfaces that are open.  Rules of an interface
    that is not open yet are in no share until it is.  *steered* holds, by ifindex, what they were opened
    with: fanout cannot be changed under traffic, so their steering stays.
    """
    pending = {rule.id: reason for rule in rules if (reason := why_pending(rule, links))}
    active = [rule for rule in rules if rule.id not in pending]
    interfaces = {
        name: _interface(links[name], wishes, steered) for name in {rule.interface for rule in active}
    }
    placed = [
        _place(rule, links, slots, interface_slots, wishes)
        for rule in active
        if links[rule.interface].index in interface_slots
    ]
    wanted = {one.link.index for one in interfaces.values()}
    read = {ifindex: slot for ifindex, slot in interface_slots.items() if ifindex in wanted}
    filters = {name: _destinations(name, active) for name in interfaces}
    return Layout(
        interfaces=interfaces,
        outputs=dict(_outputs(active, links, slots, wishes)),
        filters=filters,
        bypassed={
            name: filters[name] if wishes.bypass_stack and not one.link.stack_needs else frozenset()
            for name, one in interfaces.items()
        },
        memberships=frozenset().union(*(memberships_for(rule, links) for rule in active)),
        holds=frozenset().union(*(port_hold_for(rule, links) for rule in active)),
        pending=pending,
        shares=distribute(
            placed, wishes.workers, {name: one.steering for name, one in interfaces.items()}, read
        ),
    )


def why_pending(rule: Rule, links: Mapping[str, Link]) -> str | None:
    """Name the missing interface that keeps a rule from being active."""
    if rule.interface not in links:
        return missing(rule.interface)
    gone = [output.to.interface for output in rule.outputs if why_output_pending(output, links)]
    return missing(str(gone[0])) if len(gone) == len(rule.outputs) else None


def why_output_pending(output: Output, links: Mapping[str, Link]) -> str | None:
    """Name the missing interface that keeps an output from being open."""
    name = output.to.interface
    return None if name is None or name in links else missing(name)


def leaves_as_packets(output: Output, given: Endpoint, links: Mapping[str, Link], wishes: Wishes) -> bool:
    """
    Say whether what leaves is written to the link as whole packets, past the host's IP stack.

    With the original source nothing else can be done; hosts, unlike groups, have link addresses that only the
    stack knows. It also knows best where the address to send from is not on the link, or not on this host.
    *given* is the rule's input.
    """
    if output.source is SourcePolicy.KEEP:
        return True
    link = links.get(output.to.interface or "")
    if not wishes.bypass_stack or link is None or not link.sends_frames:
        return False
    is_multicast = isinstance(output.to, Mapped) or output.to.is_multicast
    return is_multicast and _has_source(output, output.version(given), link, links)


def _has_source(output: Output, version: int, link: Link, links: Mapping[str, Link]) -> bool:
    if isinstance(output.source, SourcePolicy):
        return any(address.version == version for address in link.addresses)
    return any(output.source in one.addresses for one in links.values())


def missing(interface: str) -> str:
    """Say that an interface does not exist."""
    return f"interface {interface} does not exist"


def _interface(link: Link, wishes: Wishes, steered: Mapping[int, InterfacePlan]) -> InterfacePlan:
    if link.index in steered:
        return replace(steered[link.index], link=link)
    return InterfacePlan(link, *pick(wishes.steering, link.receive_queues, wishes.workers))


def _place(
    rule: Rule,
    links: Mapping[str, Link],
    slots: SlotBook,
    interface_slots: Mapping[int, int],
    wishes: Wishes,
) -> PlacedRule:
    index = links[rule.interface].index
    outputs = tuple(
        _place_output(rule, output, slot, links, wishes)
        for output, slot in zip(rule.outputs, slots[rule.id].outputs, strict=True)
    )
    return PlacedRule(rule, slots[rule.id].rule, interface_slots[index], index, outputs)


def _place_output(
    rule: Rule, output: Output, slot: int, links: Mapping[str, Link], wishes: Wishes
) -> PlacedOutput:
    link = links.get(output.to.interface or "")
    place = (link.index, link.mtu, link.link_address) if link else (0, 0, b"")
    as_packets = leaves_as_packets(output, rule.input, links, wishes)
    return PlacedOutput(output, slot, output.version(rule.input), *place, as_packets)


def _outputs(
    active: Iterable[Rule], links: Mapping[str, Link], slots: SlotBook, wishes: Wishes
) -> Iterable[tuple[int, OutputPlan]]:
    """Plan a socket for every output that sends from an address of this host."""
    for rule in active:
        for output, slot in zip(rule.outputs, slots[rule.id].outputs, strict=True):
            if output.source is not SourcePolicy.KEEP and not why_output_pending(output, links):
                link = links.get(output.to.interface or "")
                place = (link.index if link else 0, output.version(rule.input))
                addresses = link.addresses if link else frozenset[Address]()
                yield slot, OutputPlan(output, *place, addresses, _towards(rule, output, links, wishes))


def _towards(rule: Rule, output: Output, links: Mapping[str, Link], wishes: Wishes) -> Address | None:
    if isinstance(output.to, Endpoint) or not leaves_as_packets(output, rule.input, links, wishes):
        return None
    return output.to.image(ip_network(rule.input.address)).network_address


def _destinations(name: str, active: Iterable[Rule]) -> frozenset[Destination]:
    return frozenset(one for rule in active if rule.interface == name for one in _destinations_of(rule.input))


def _destinations_of(given: Endpoint) -> Iterator[Destination]:
    """The kernel puts no IPv6 fragments together for packet sockets: they pass as port 0, to be counted."""
    if given.is_range:
        yield Range(given.address, given.prefix_length, given.port, given.last_port)
    else:
        yield rule_hash(given.address, given.port)
    if given.address.version == 6:
        yield from (rule_hash(group, 0) for group in given.groups)


def memberships_for(rule: Rule, links: Mapping[str, Link]) -> set[Membership]:
    """
    Say what must be joined for a rule whose interface exists.

    A rule for some sources joins them also beside one for any source, which does no harm.
    """
    endpoint = rule.input
    if not endpoint.is_multicast:
        return set()
    link = links[rule.interface]
    return set[Membership]().union(
        *(memberships_of(link.name, link.index, group, endpoint.sources) for group in endpoint.groups)
    )


def port_hold_for(rule: Rule, links: Mapping[str, Link]) -> set[PortHold]:
    """Say which ports must be held for a rule whose interface exists."""
    endpoint = rule.input
    if endpoint.is_multicast:
        return set()
    index = links[rule.interface].index
    return {PortHold(index, endpoint.address, port) for port in range(endpoint.port, endpoint.last_port + 1)}

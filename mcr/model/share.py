"""
A share: what one worker must have installed.

Slots are places in the shared counters.  The supervisor gives them out; a rule keeps its slots for as long as
it exists, in every worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mcr.model.rule import Output, Rule


@dataclass(frozen=True, slots=True)
class PlacedOutput:
    """
    An output, where it counts, and the link it leaves by.

    Attributes:
        slot: of its counters and of its socket.
        version: of IP.
        ifindex: 0 where the routing table decides, or while the link is missing.
        mtu: of the link.
        link_address: of the link, 6 bytes; none on links without a header.
        as_packets: written to the link as whole packets, past the IP stack.
    """

    output: Output
    slot: int
    version: int
    ifindex: int
    mtu: int = 0
    link_address: bytes = b""
    as_packets: bool = False


@dataclass(frozen=True, slots=True)
class PlacedRule:
    """
    A rule, where it counts, and the link it listens to.

    Attributes:
        slot: of the rule's counters.
        interface_slot: of the interface's counters and ring.
    """

    rule: Rule
    slot: int
    interface_slot: int
    ifindex: int
    outputs: tuple[PlacedOutput, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """
    The rules of one worker; an empty share is how a worker learns to forget.

    Attributes:
        interfaces: ifindex and slot of those to read.  Every worker reads every interface, also one
            of which it has no rule: what cannot be steered, such as fragments, is counted where it arrives.
    """

    rules: Sequence[PlacedRule] = ()
    interfaces: tuple[tuple[int, int], ...] = ()

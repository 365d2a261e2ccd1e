"""
Classic-BPF programs for packet sockets: which member of a fanout group gets a frame.

The sockets of an interface are one group.  Its first member is the *sink*, where everything goes that no rule
wants, also what ends before its ports do, since a load beyond the frame ends a program with 0.  The others
are the rings of the workers.  So one program is filter and steering at once, and is replaced in one step.

Source: linux/filter.h; packet(7).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcr.model.bpf_code import (
    ADD,
    ADD_X,
    AND,
    CPU,
    JA,
    JEQ,
    JGE,
    JGT,
    JSET,
    KEEP_ALL,
    LD_B,
    LD_B_INDEXED,
    LD_H,
    LD_H_INDEXED,
    LD_IMM,
    LD_MEM,
    LD_W,
    LD_W_INDEXED,
    LDX_HEADER_BYTES,
    LDX_IMM,
    LDX_MEM,
    LSH,
    MAX_INSTRUCTIONS,
    MOD,
    MUL,
    NET,
    PROTOCOL,
    RET,
    RET_A,
    RSH,
    ST,
    STX,
    TAX,
    VLAN_TAG_PRESENT,
    XOR_X,
    Instruction,
    Label,
    Program,
    Steps,
    To,
    assembled,
    nothing,
    only_if,
    unless,
)
from mcr.model.endpoint import Address
from mcr.model.steering import FINAL_FACTOR, PORT_FACTOR, WORD_FACTOR, Steering

SINK = 0  # the member for what no rule wants
MAX_EXTENSIONS = 4  # as many as RFC 8200 section 4.1 foresees in front of UDP
_ETH_P_IP, _ETH_P_IPV6, _ETH_P_8021Q, _ETH_P_8021AD = 0x0800, 0x86DD, 0x8100, 0x88A8
_UDP, _FRAGMENT = 17, 44
_EXTENSIONS = (0, 43, 60)  # hop-by-hop options, routing, destination options
_LATER_FRAGMENT, _ANY_FRAGMENT = 0x1FFF, 0x3FFF  # offset; and "more fragments" (RFC 791)
_LEAF_KEYS = 24
_FOUND = "found"

# Scratch memory: where IP begins behind the network header, its EtherType, the port, and the hash.
_IP_AT, _KIND, _PORT, _NEXT, _MIXED = range(5)


@dataclass(frozen=True, slots=True)
class Range:
    """Groups with a common prefix (their first address, and its length) and ports from *first* to *last*."""

    address: Address
    prefix_length: int
    first: int
    last: int


Destination = int | Range


def steering_program(destinations: Iterable[Destination], steering: Steering, workers: int) -> Program:
    """
    Give UDP to these destinations to the ring of a worker, and all else to the sink.

    A destination is a `rule_hash` or a range.  Two may share a hash, so the worker still has to look; the
    point is that other traffic costs no copy.  With more than fits a program (about 3,000 hashes), all UDP
    goes to the workers.
    """
    by_cpu = steering is Steering.CPU
    found = [
        Instruction(LD_W, operand=CPU) if by_cpu else Instruction(LD_MEM, operand=_MIXED),
        Instruction(MOD, operand=workers),
        Instruction(ADD, operand=1),
        Instruction(RET_A),
    ]
    everything = [*_hash_of_destination(MAX_EXTENSIONS), *found]
    return _sorted_out(destinations, found, extensions=MAX_EXTENSIONS) or assembled(everything)


def unmatched_program() -> Program:
    """
    Keep untagged UDP multicast that came to the sink.

    Later fragments are left out, and IPv6 extension headers: of these packets only the beginning is read.
    """
    return assembled([*_only_multicast(_LATER_FRAGMENT), *_only_udp(), Instruction(RET, operand=KEEP_ALL)])


def bypass_program(destinations: Iterable[Destination]) -> Program:
    """Give 1 for untagged UDP multicast to these destinations that is no fragment; nothing() if too long."""
    start = [*_only_multicast(_ANY_FRAGMENT), *_only_udp()]
    return _sorted_out(destinations, [Instruction(RET, operand=1)], start=start) or nothing()


def _sorted_out(
    destinations: Iterable[Destination],
    found: Sequence[Instruction],
    *,
    start: Steps = (),
    extensions: int = 0,
) -> Program:
    """End with *found* for the destinations, with 0 for others; give an empty program if that is too long."""
    distinct = set(destinations)
    if not distinct:
        return nothing()
    wanted = sorted(one for one in distinct if isinstance(one, int))
    ranges = sorted((one for one in distinct if isinstance(one, Range)), key=str)
    program = assembled(
        [
            *start,
            *_hash_of_destination(extensions),
            *(step for number, one in enumerate(ranges) for step in _range(one, f"range {number}")),
            Instruction(LD_MEM, operand=_MIXED),
            *_search(wanted),
            Label(_FOUND),
            *found,
        ]
    )
    return program if len(program) <= MAX_INSTRUCTIONS else []


def _only_multicast(fragment: int) -> Steps:
    """End with 0 for tagged frames, unicast and what has one of the *fragment* bits."""
    return [
        Instruction(LD_W, operand=VLAN_TAG_PRESENT),
        Instruction(JEQ, 1, 0, 0),
        Instruction(RET),
        Instruction(LD_W, operand=PROTOCOL),
        Instruction(JEQ, 0, 7, _ETH_P_IP),
        Instruction(LD_H, operand=NET + 6),
        Instruction(JSET, 0, 1, fragment),
        Instruction(RET),
        Instruction(LD_B, operand=NET + 16),
        Instruction(AND, operand=0xF0),
        Instruction(JEQ, 4, 0, 0xE0),
        Instruction(RET),
        Instruction(LD_B, operand=NET + 24),
        Instruction(JEQ, 1, 0, 0xFF),
        Instruction(RET),
    ]


def _only_udp() -> Steps:
    """End with 0 where UDP does not come right behind the IP header."""
    return [
        Instruction(LD_W, operand=PROTOCOL),
        Instruction(JEQ, 0, 2, _ETH_P_IP),
        Instruction(LD_B, operand=NET + 9),
        Instruction(JA, operand=3),
        Instruction(JEQ, 1, 0, _ETH_P_IPV6),
        Instruction(RET),
        Instruction(LD_B, operand=NET + 6),
        Instruction(JEQ, 1, 0, _UDP),
        Instruction(RET),
    ]


def _range(wanted: Range, behind: str) -> Steps:
    """See whether the destination is within, else go on behind."""
    ipv4 = wanted.address.version == 4
    steps: list[Instruction | To | Label] = [
        Instruction(LD_MEM, operand=_KIND),
        *unless(JEQ, _ETH_P_IP if ipv4 else _ETH_P_IPV6, behind),
        Instruction(LD_MEM, operand=_PORT),
        *unless(JGE, wanted.first, behind),
        To(behind, JGT, wanted.last),
        Instruction(LDX_MEM, operand=_IP_AT),
    ]
    for index in range(len(wanted.address.packed) // 4):
        bits = min(32, max(0, wanted.prefix_length - 32 * index))
        mask = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
        word = int.from_bytes(wanted.address.packed[4 * index : 4 * index + 4])
        load = Instruction(LD_W_INDEXED, operand=NET + (16 if ipv4 else 24) + 4 * index)
        if bits:
            steps += [load, Instruction(AND, operand=mask), *unless(JEQ, word, behind)]
    return [*steps, To(_FOUND), Label(behind)]


def _hash_of_destination(extensions: int) -> Steps:
    """
    Note where IP begins, of which kind it is, the port, and the `rule_hash`; end with 0 for what is not UDP.

    What most packets are like is read at fixed places.  With *extensions* also so many IPv6 extension
    headers are skipped, and a second VLAN tag: the kernel has taken out one.
    """
    return [
        Instruction(LD_W, operand=PROTOCOL),
        Instruction(ST, operand=_KIND),
        Instruction(LDX_IMM),
        Instruction(STX, operand=_IP_AT),
        To("ipv4", JEQ, _ETH_P_IP),
        To("ipv6", JEQ, _ETH_P_IPV6),
        *(_behind_second_tag(extensions) if extensions else [Instruction(RET)]),
        Label("ipv4"),
        Instruction(LD_B, operand=NET + 9),
        *only_if(_UDP),
        *_port_of_ipv4(),
        Instruction(ST, operand=_PORT),
        Instruction(LD_W, operand=NET + 16),
        *_mix(),
        To("mixed"),
        Label("ipv6"),
        *_port_of_ipv6(extensions),
        Instruction(ST, operand=_PORT),
        *_mix_four(Instruction(LD_W, operand=NET + 24 + 4 * index) for index in range(4)),
        Label("mixed"),
        Instruction(LDX_MEM, operand=_PORT),
        Instruction(ADD_X),
        Instruction(MUL, operand=PORT_FACTOR),
        *_fold(13),
        Instruction(MUL, operand=FINAL_FACTOR),
        *_fold(16),
        Instruction(ST, operand=_MIXED),
    ]


def _behind_second_tag(extensions: int) -> Steps:
    """Do the same four bytes later (IEEE 802.1ad)."""
    return [
        To("tag", JEQ, _ETH_P_8021AD),
        *only_if(_ETH_P_8021Q),
        Label("tag"),
        Instruction(LDX_IMM, operand=4),
        Instruction(STX, operand=_IP_AT),
        Instruction(LD_H, operand=NET + 2),
        Instruction(ST, operand=_KIND),
        To("tagged ipv4", JEQ, _ETH_P_IP),
        *only_if(_ETH_P_IPV6),
        Instruction(LD_B, operand=NET + 4 + 6),
        *_chain_of_extensions(extensions, "tagged"),
        Instruction(ST, operand=_PORT),
        *_mix_four(Instruction(LD_W, operand=NET + 4 + 24 + 4 * index) for index in range(4)),
        To("mixed"),
        Label("tagged ipv4"),
        Instruction(LD_B, operand=NET + 4 + 9),
        *only_if(_UDP),
        Instruction(LDX_HEADER_BYTES, operand=NET + 4),
        Instruction(LD_H_INDEXED, operand=NET + 4 + 2),
        Instruction(ST, operand=_PORT),
        Instruction(LD_W, operand=NET + 4 + 16),
        *_mix(),
        To("mixed"),
    ]


def _port_of_ipv4() -> Steps:
    """Leave the port in the accumulator; the header's length may vary with options."""
    return [
        Instruction(LD_B, operand=NET),
        Instruction(JEQ, 0, 2, 0x45),
        Instruction(LD_H, operand=NET + 22),
        Instruction(JA, operand=2),
        Instruction(LDX_HEADER_BYTES, operand=NET),
        Instruction(LD_H_INDEXED, operand=NET + 2),
    ]


def _port_of_ipv6(extensions: int) -> Steps:
    """Leave the port in the accumulator, 0 for a fragment, in which a port cannot be relied on."""
    return [
        Instruction(LD_B, operand=NET + 6),
        *unless(JEQ, _UDP, "extensions"),
        Instruction(LD_H, operand=NET + 42),
        To("port"),
        Label("extensions"),
        Instruction(LDX_IMM),
        *_chain_of_extensions(extensions, "plain"),
        Label("port"),
    ]


def _chain_of_extensions(most: int, name: str) -> Steps:
    """
    Leave the port in the accumulator, which holds the number of the first header; the index is IP's place.

    Source: RFC 8200 section 4: an extension header begins with the next one's number and its own length in
    units of eight bytes without the first.
    """
    steps: list[Instruction | To | Label] = []
    for left in range(most, -1, -1):
        steps += [To(f"{name} udp", JEQ, _UDP), To(f"{name} fragment", JEQ, _FRAGMENT)]
        if left:
            steps += [
                *only_if(*_EXTENSIONS),
                Instruction(LD_B_INDEXED, operand=NET + 40),
                Instruction(ST, operand=_NEXT),
                Instruction(LD_B_INDEXED, operand=NET + 41),
                Instruction(ADD, operand=1),
                Instruction(LSH, operand=3),
                Instruction(ADD_X),
                Instruction(TAX),
                Instruction(LD_MEM, operand=_NEXT),
            ]
    return [
        *steps,
        Instruction(RET),
        Label(f"{name} udp"),
        Instruction(LD_H_INDEXED, operand=NET + 42),
        Instruction(JA, operand=1),
        Label(f"{name} fragment"),
        Instruction(LD_IMM),
    ]


def _mix_four(loads: Iterable[Instruction]) -> Steps:
    """Mix the words of an IPv6 address."""
    steps = [Instruction(LD_IMM)]
    for load in loads:
        steps += [Instruction(TAX), load, Instruction(ADD_X), *_mix()]
    return steps


def _mix() -> Sequence[Instruction]:
    return [Instruction(MUL, operand=WORD_FACTOR), *_fold(15)]


def _fold(bits: int) -> Sequence[Instruction]:
    """Xor the accumulator with itself shifted right."""
    return [Instruction(TAX), Instruction(RSH, operand=bits), Instruction(XOR_X)]


def _search(wanted: Sequence[int]) -> Sequence[Instruction | To]:
    """
    Search sorted values by halves, the last few one by one.

    Conditional jumps reach 255 instructions only, so the far half is reached by an unconditional one.
    """
    if not wanted:
        return [Instruction(RET)]  # and no jump behind it: the verifier refuses what cannot be reached
    if len(wanted) <= _LEAF_KEYS:
        tests = [Instruction(JEQ, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
        return [*tests, Instruction(RET), To(_FOUND)]
    middle = len(wanted) // 2
    lower, upper = (_search(half) for half in (wanted[:middle], wanted[middle:]))
    return [
        Instruction(JGE, 0, 1, wanted[middle]),
        Instruction(JA, operand=len(lower)),
        *lower,
        *upper,
    ]

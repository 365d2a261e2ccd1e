"""
Classic-BPF programs for packet sockets: which member of a fanout group gets a frame.

The sockets of an interface are one group.  Its first member is the *sink*, where everything goes that no rule
wants, also what ends before its ports do, since a load beyond the frame ends a program with 0.  The others
are the rings of the workers.  So one program is filter and steering at once, and is replaced in one step.

Loads are relative to the network header (SKF_NET_OFF); `packed` makes them absolute where it is known.

Source: linux/filter.h, linux/bpf_common.h; Documentation/networking/filter.rst; packet(7).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcr.model.endpoint import Address
from mcr.model.steering import FINAL_FACTOR, PORT_FACTOR, WORD_FACTOR, Steering

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
KEEP_ALL = 0x40000  # longer than any packet: keep all of it
SINK = 0  # the member for what no rule wants
MAX_EXTENSIONS = 4  # as many as RFC 8200 section 4.1 foresees in front of UDP

LD_W, LD_H, LD_B = 0x20, 0x28, 0x30  # BPF_LD | size | BPF_ABS
LD_W_INDEXED, LD_H_INDEXED, LD_B_INDEXED = 0x40, 0x48, 0x50  # BPF_LD | size | BPF_IND
LDX_HEADER_BYTES = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: four times the low nibble
LD_IMM, LDX_IMM, LD_MEM, LDX_MEM, ST, STX = 0x00, 0x01, 0x60, 0x61, 0x02, 0x03
TAX = 0x07
ADD, ADD_X, XOR_X, MUL, MOD, LSH, RSH, AND = 0x04, 0x0C, 0xAC, 0x24, 0x94, 0x64, 0x74, 0x54
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
RET, RET_A = 0x06, 0x16

NET = 0xFFF00000  # SKF_NET_OFF
PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL
CPU = 0xFFFFF024  # SKF_AD_OFF + SKF_AD_CPU
VLAN_TAG_PRESENT = 0xFFFFF030  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_NET_REACH = 0x10000  # no packet is longer

_ETH_P_IP, _ETH_P_IPV6, _ETH_P_8021Q, _ETH_P_8021AD = 0x0800, 0x86DD, 0x8100, 0x88A8
_UDP, _FRAGMENT = 17, 44
_EXTENSIONS = (0, 43, 60)  # hop-by-hop options, routing, destination options
_LATER_FRAGMENT, _ANY_FRAGMENT = 0x1FFF, 0x3FFF  # offset; and "more fragments" (RFC 791)
_LEAF_KEYS = 24
_FOUND = "found"

# Scratch memory: where IP begins behind the network header, its EtherType, the port, and the hash.
_IP_AT, _KIND, _PORT, _NEXT, _MIXED = range(5)


class Instruction(NamedTuple):
    """One ``struct sock_filter``: operation, jumps if true and if false, operand."""

    code: int
    jump_true: int = 0
    jump_false: int = 0
    operand: int = 0


class To(NamedTuple):
    """A jump to a label, if the accumulator compares so with the operand, or always."""

    label: str
    code: int = JA
    operand: int = 0


class Label(NamedTuple):
    """A place that is jumped to, always forward."""

    name: str


Program = Sequence[Instruction]
Steps = Sequence[Instruction | To | Label]


@dataclass(frozen=True, slots=True)
class Range:
    """Groups with a common prefix (their first address, and its length) and ports from *first* to *last*."""

    address: Address
    prefix_length: int
    first: int
    last: int


Destination = int | Range


def packed(program: Program, header_at: int | None = None) -> bytes:
    """
    Give the program as an array of ``struct sock_filter``, in host byte order.

    Args:
        program: with loads relative to the network header.
        header_at: where that header is in what the program sees of a frame, if it is known: the kernel
            compiles such loads, and calls a function for those that are relative.
    """
    return b"".join(
        struct.pack("=HBBI", one.code, one.jump_true, one.jump_false, from_start(one.operand, header_at))
        for one in program
    )


def from_start(operand: int, header_at: int | None) -> int:
    """Turn an offset relative to the network header into one from the start; leave other operands."""
    is_relative = header_at is not None and NET <= operand < NET + _NET_REACH
    return operand - NET + (header_at or 0) if is_relative else operand


def nothing() -> Program:
    """Keep no frame, or give it to the sink."""
    return [Instruction(RET)]


def everything() -> Program:
    """Keep all frames whole."""
    return [Instruction(RET, operand=KEEP_ALL)]


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
    return _sorted_out(destinations, found, extensions=MAX_EXTENSIONS) or _assembled(everything)


def unmatched_program() -> Program:
    """
    Keep untagged UDP multicast that came to the sink.

    Later fragments are left out, and IPv6 extension headers: of these packets only the beginning is read.
    """
    return _assembled([*_only_multicast(_LATER_FRAGMENT), *_only_udp(), Instruction(RET, operand=KEEP_ALL)])


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
    program = _assembled(
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


def _assembled(steps: Steps) -> Program:
    """Replace labels by distances; a conditional jump leads over an unconditional one, which reaches far."""
    lengths = (0 if isinstance(step, Label) else 1 if _is_short(step) else 2 for step in steps)
    places: dict[str, int] = {}
    program: list[Instruction] = []
    place = 0
    for step, length in zip(steps, lengths, strict=True):
        if isinstance(step, Label):
            places[step.name] = place
        place += length
    for step in steps:
        if isinstance(step, To):
            if step.code != JA:
                program.append(Instruction(step.code, 0, 1, step.operand))
            program.append(Instruction(JA, operand=places[step.label] - len(program) - 1))
        elif isinstance(step, Instruction):
            program.append(step)
    return program


def _is_short(step: Instruction | To | Label) -> bool:
    return not isinstance(step, To) or step.code == JA


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
        *_unless(JEQ, _ETH_P_IP if ipv4 else _ETH_P_IPV6, behind),
        Instruction(LD_MEM, operand=_PORT),
        *_unless(JGE, wanted.first, behind),
        To(behind, JGT, wanted.last),
        Instruction(LDX_MEM, operand=_IP_AT),
    ]
    for index in range(len(wanted.address.packed) // 4):
        bits = min(32, max(0, wanted.prefix_length - 32 * index))
        mask = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
        word = int.from_bytes(wanted.address.packed[4 * index : 4 * index + 4])
        load = Instruction(LD_W_INDEXED, operand=NET + (16 if ipv4 else 24) + 4 * index)
        if bits:
            steps += [load, Instruction(AND, operand=mask), *_unless(JEQ, word, behind)]
    return [*steps, To(_FOUND), Label(behind)]


def _unless(code: int, operand: int, label: str) -> Steps:
    """Jump if the comparison fails."""
    return [Instruction(code, 1, 0, operand), To(label)]


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
        *_only_if(_UDP),
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
        *_only_if(_ETH_P_8021Q),
        Label("tag"),
        Instruction(LDX_IMM, operand=4),
        Instruction(STX, operand=_IP_AT),
        Instruction(LD_H, operand=NET + 2),
        Instruction(ST, operand=_KIND),
        To("tagged ipv4", JEQ, _ETH_P_IP),
        *_only_if(_ETH_P_IPV6),
        Instruction(LD_B, operand=NET + 4 + 6),
        *_chain_of_extensions(extensions, "tagged"),
        Instruction(ST, operand=_PORT),
        *_mix_four(Instruction(LD_W, operand=NET + 4 + 24 + 4 * index) for index in range(4)),
        To("mixed"),
        Label("tagged ipv4"),
        Instruction(LD_B, operand=NET + 4 + 9),
        *_only_if(_UDP),
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
        *_unless(JEQ, _UDP, "extensions"),
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
                *_only_if(*_EXTENSIONS),
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


def _only_if(*values: int) -> Sequence[Instruction]:
    """End with 0 if the accumulator holds another value than these."""
    tests = [Instruction(JEQ, len(values) - index, 0, one) for index, one in enumerate(values)]
    return [*tests, Instruction(RET)]


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

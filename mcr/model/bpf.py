"""
Classic-BPF programs for packet sockets: where a frame goes, and whether it is worth a copy.

All loads are relative to the network header (SKF_NET_OFF), so that one program fits Ethernet and devices
without a link header, and the fanout's and the socket's view of a frame.

Source: linux/filter.h, linux/bpf_common.h; Documentation/networking/filter.rst.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcr.model.endpoint import Address
from mcr.model.steering import FINAL_FACTOR, PORT_FACTOR, WORD_FACTOR

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
KEEP_ALL = 0x40000  # longer than any packet: keep all of it

_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30  # BPF_LD | size | BPF_ABS
_LD_W_INDEXED, _LD_H_INDEXED, _LD_B_INDEXED = 0x40, 0x48, 0x50  # BPF_LD | size | BPF_IND
_LD_IMM, _LDX_IMM = 0x00, 0x01
_LD_MEM, _LDX_MEM, _ST, _STX = 0x60, 0x61, 0x02, 0x03
_TAX = 0x07
_ADD, _ADD_X, _XOR_X, _MUL, _LSH, _RSH, _AND = 0x04, 0x0C, 0xAC, 0x24, 0x64, 0x74, 0x54
_JA, _JEQ, _JGT, _JGE, _JSET = 0x05, 0x15, 0x25, 0x35, 0x45
_RET, _RET_A = 0x06, 0x16

_NET = 0xFFF00000  # SKF_NET_OFF
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL
_VLAN_TAG_PRESENT = 0xFFFFF030  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT

_ETH_P_IP, _ETH_P_IPV6, _ETH_P_8021Q, _ETH_P_8021AD = 0x0800, 0x86DD, 0x8100, 0x88A8
_UDP, _FRAGMENT = 17, 44
_EXTENSIONS = (0, 43, 60)  # hop-by-hop options, routing, destination options
MAX_EXTENSIONS = 4  # as many as RFC 8200 section 4.1 foresees in front of UDP
_LEAF_KEYS = 24

# Scratch memory: where the IP header begins behind the network header, its EtherType, the destination's port.
_IP_AT, _KIND_AT, _PORT_AT, _NEXT_AT, _MIXED_AT = range(5)


class Instruction(NamedTuple):
    """One ``struct sock_filter``: operation, jumps if true and if false, operand."""

    code: int
    jump_true: int = 0
    jump_false: int = 0
    operand: int = 0


Program = Sequence[Instruction]


def packed(program: Program) -> bytes:
    """Give the program as an array of ``struct sock_filter``, in host byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def nothing() -> Program:
    """Keep no frame."""
    return [Instruction(_RET)]


def steering_program() -> Program:
    """Return the `rule_hash` of the frame's destination; anything but UDP gets an arbitrary number."""
    return [*_find_port(), *_hash_of_destination(), Instruction(_RET_A)]


@dataclass(frozen=True, slots=True)
class Range:
    """Groups with a common prefix (their first address, and its length) and ports from *first* to *last*."""

    address: Address
    prefix_length: int
    first: int
    last: int


Destination = int | Range
Test = Sequence[Instruction | tuple[int, int]]


def filter_program(destinations: Iterable[Destination]) -> Program:
    """
    Keep UDP whose destination has one of these `rule_hash` values or lies within one of these ranges.

    Two destinations may share a hash, so the reader still has to look; the point is that other traffic costs
    no copy.  With more than fits a program (3,072 hashes), all UDP is kept.
    """
    distinct = set(destinations)
    wanted = sorted(one for one in distinct if isinstance(one, int))
    ranges = sorted((one for one in distinct if isinstance(one, Range)), key=str)
    within = [instruction for one in ranges for instruction in _range(one)]
    if not wanted and not within:
        return nothing()
    program = [*_find_port(), *within, *_hash_of_destination(), *_search(wanted)]
    return program if len(program) <= MAX_INSTRUCTIONS else all_udp()


def all_udp() -> Program:
    """Keep all UDP."""
    return [*_find_port(), Instruction(_RET, operand=KEEP_ALL)]


def unmatched_program(destinations: Iterable[Destination]) -> Program:
    """
    Keep untagged UDP multicast that `filter_program` does not keep.

    Later fragments are left out, and IPv6 extension headers: of these packets only the beginning is read.
    """
    distinct = set(destinations)
    wanted = sorted(one for one in distinct if isinstance(one, int))
    ranges = sorted((one for one in distinct if isinstance(one, Range)), key=str)
    within = [instruction for one in ranges for instruction in _range(one, found=0)]
    program = [
        *_only_multicast(),
        *_find_port(plain=True),
        *within,
        *_hash_of_destination(),
        *_search(wanted, found=0, missing=KEEP_ALL),
    ]
    return program if len(program) <= MAX_INSTRUCTIONS else nothing()


def _only_multicast() -> list[Instruction]:
    """End with 0 for tagged frames, unicast and later fragments."""
    return [
        Instruction(_LD_W, operand=_VLAN_TAG_PRESENT),
        Instruction(_JEQ, 1, 0, 0),
        Instruction(_RET),
        Instruction(_LD_W, operand=_PROTOCOL),
        Instruction(_JEQ, 0, 7, _ETH_P_IP),
        Instruction(_LD_H, operand=_NET + 6),
        Instruction(_JSET, 0, 1, 0x1FFF),
        Instruction(_RET),
        Instruction(_LD_B, operand=_NET + 16),
        Instruction(_AND, operand=0xF0),
        Instruction(_JEQ, 4, 0, 0xE0),
        Instruction(_RET),
        Instruction(_LD_B, operand=_NET + 24),
        Instruction(_JEQ, 1, 0, 0xFF),
        Instruction(_RET),
    ]


def _range(wanted: Range, found: int = KEEP_ALL) -> list[Instruction]:
    """End with *found* if the destination is within, else go on behind."""
    ipv4 = wanted.address.version == 4
    tests: list[Test] = [
        [Instruction(_LD_MEM, operand=_KIND_AT), (_JEQ, _ETH_P_IP if ipv4 else _ETH_P_IPV6)],
        [Instruction(_LD_MEM, operand=_PORT_AT), (_JGE, wanted.first)],
        [Instruction(_LDX_MEM, operand=_IP_AT)],
    ]
    for index in range(len(wanted.address.packed) // 4):
        bits = min(32, max(0, wanted.prefix_length - 32 * index))
        mask = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
        word = int.from_bytes(wanted.address.packed[4 * index : 4 * index + 4])
        load = Instruction(_LD_W_INDEXED, operand=_NET + (16 if ipv4 else 24) + 4 * index)
        if bits:
            tests.append([load, Instruction(_AND, operand=mask), (_JEQ, word)])
    return _chain([*tests, [Instruction(_LD_MEM, operand=_PORT_AT)]], wanted.last, found)


def _chain(tests: Sequence[Test], last_port: int, found: int) -> list[Instruction]:
    """Lay out tests of which the first that fails jumps behind them all."""
    total = sum(map(len, tests)) + 2  # and the test of the last port, and the end
    program: list[Instruction] = []
    for test in tests:
        for step in test:
            behind = total - len(program) - 1
            program.append(
                step if isinstance(step, Instruction) else Instruction(step[0], 0, behind, step[1])
            )
    return [*program, Instruction(_JGT, 1, 0, last_port), Instruction(_RET, operand=found)]


def _find_port(*, plain: bool = False) -> list[Instruction]:
    """
    Note where the IP header is, of which kind, and the port, or end with 0 for what is not UDP.

    The kernel takes one VLAN tag out of a frame; behind a second one IP begins four bytes later.  *plain*
    leaves that out, and IPv6 extension headers.
    """
    tag = [
        Instruction(_JEQ, 1, 0, _ETH_P_8021Q),
        Instruction(_JEQ, 0, 2, _ETH_P_8021AD),
        Instruction(_LD_H, operand=_NET + 2),
        Instruction(_LDX_IMM, operand=4),
    ]
    ipv4 = [*_port_of_ipv4(), Instruction(_JA)]
    ipv6 = _port_of_ipv6(0 if plain else MAX_EXTENSIONS)
    ipv4[-1] = Instruction(_JA, operand=len(ipv6))
    return [
        Instruction(_LDX_IMM),
        Instruction(_LD_W, operand=_PROTOCOL),
        *([] if plain else tag),
        Instruction(_STX, operand=_IP_AT),
        Instruction(_ST, operand=_KIND_AT),
        Instruction(_JEQ, 2, 0, _ETH_P_IP),
        Instruction(_JEQ, 1 + len(ipv4), 0, _ETH_P_IPV6),
        Instruction(_RET),
        *ipv4,
        *ipv6,
        Instruction(_ST, operand=_PORT_AT),
    ]


def _port_of_ipv4() -> list[Instruction]:
    """Leave the port in the accumulator; the header's length may vary with options."""
    return [
        Instruction(_LD_B_INDEXED, operand=_NET + 9),
        *_one_of(_UDP),
        Instruction(_LD_B_INDEXED, operand=_NET),
        Instruction(_AND, operand=0x0F),
        Instruction(_LSH, operand=2),
        Instruction(_ADD_X),
        Instruction(_TAX),
        Instruction(_LD_H_INDEXED, operand=_NET + 2),
    ]


def _port_of_ipv6(most_extensions: int) -> list[Instruction]:
    """
    Leave the port in the accumulator, 0 for a fragment, in which a port cannot be relied on.

    Source: RFC 8200 section 4: an extension header begins with the next one's number and its own length in
    units of eight bytes without the first.
    """
    skip = [
        Instruction(_LD_B_INDEXED, operand=_NET + 40),
        Instruction(_ST, operand=_NEXT_AT),
        Instruction(_LD_B_INDEXED, operand=_NET + 41),
        Instruction(_ADD, operand=1),
        Instruction(_LSH, operand=3),
        Instruction(_ADD_X),
        Instruction(_TAX),
        Instruction(_LD_MEM, operand=_NEXT_AT),
    ]
    chain: list[Instruction] = []
    for extensions in range(most_extensions + 1):
        step = [*_one_of(*_EXTENSIONS), *skip] if extensions else [Instruction(_RET)]
        behind = len(step) + len(chain)
        ends = [Instruction(_JEQ, behind + 1, 0, _UDP), Instruction(_JEQ, behind + 2, 0, _FRAGMENT)]
        chain = [*ends, *step, *chain]
    return [
        Instruction(_LD_B_INDEXED, operand=_NET + 6),
        *chain,
        Instruction(_LD_H_INDEXED, operand=_NET + 42),
        Instruction(_JA, operand=1),
        Instruction(_LD_IMM),
    ]


def _one_of(*values: int) -> list[Instruction]:
    """End with 0 if the accumulator holds another value than these."""
    tests = [Instruction(_JEQ, len(values) - index, 0, one) for index, one in enumerate(values)]
    return [*tests, Instruction(_RET)]


def _hash_of_destination() -> list[Instruction]:
    """Leave the `rule_hash` of what `_find_port` has found in the accumulator."""
    ipv4, ipv6 = _mix_words(16, 1), _mix_words(24, 4)
    return [
        Instruction(_LD_MEM, operand=_KIND_AT),
        Instruction(_JEQ, 0, len(ipv4) + 1, _ETH_P_IP),
        *ipv4,
        Instruction(_JA, operand=len(ipv6)),
        *ipv6,
        Instruction(_LDX_MEM, operand=_PORT_AT),
        Instruction(_ADD_X),
        Instruction(_MUL, operand=PORT_FACTOR),
        *_fold(13),
        Instruction(_MUL, operand=FINAL_FACTOR),
        *_fold(16),
    ]


def _mix_words(offset: int, count: int) -> list[Instruction]:
    """Mix so many words of the IP header."""
    mix = [Instruction(_MUL, operand=WORD_FACTOR), *_fold(15)]
    add = [Instruction(_LDX_MEM, operand=_MIXED_AT), Instruction(_ADD_X)]
    program: list[Instruction] = []
    for index in range(count):
        load = Instruction(_LD_W_INDEXED, operand=_NET + offset + 4 * index)
        before = [Instruction(_ST, operand=_MIXED_AT)] if index else []
        program += [*before, Instruction(_LDX_MEM, operand=_IP_AT), load, *(add if index else []), *mix]
    return program


def _fold(bits: int) -> list[Instruction]:
    """Xor the accumulator with itself shifted right."""
    return [Instruction(_TAX), Instruction(_RSH, operand=bits), Instruction(_XOR_X)]


def _search(wanted: Sequence[int], found: int = KEEP_ALL, missing: int = 0) -> list[Instruction]:
    """
    Search sorted values by halves, the last few one by one.

    Conditional jumps reach 255 instructions only, so the far half is reached by an unconditional one.
    """
    if len(wanted) <= _LEAF_KEYS:
        tests = [Instruction(_JEQ, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
        return [*tests, Instruction(_RET, operand=missing), Instruction(_RET, operand=found)]
    middle = len(wanted) // 2
    lower, upper = (_search(half, found, missing) for half in (wanted[:middle], wanted[middle:]))
    return [
        Instruction(_JGE, 0, 1, wanted[middle]),
        Instruction(_JA, operand=len(lower)),
        *lower,
        *upper,
    ]

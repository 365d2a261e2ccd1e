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
_LD_H_INDEXED = 0x48  # BPF_LD | BPF_H | BPF_IND
_LDX_HEADER_BYTES = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: four times the low nibble
_LD_MEM, _LDX_MEM, _ST = 0x60, 0x61, 0x02
_TAX = 0x07
_ADD_X, _XOR_X, _MUL, _RSH = 0x0C, 0xAC, 0x24, 0x74
_AND = 0x54
_JA, _JEQ, _JGT, _JGE, _JSET = 0x05, 0x15, 0x25, 0x35, 0x45
_RET, _RET_A = 0x06, 0x16

_NET = 0xFFF00000  # SKF_NET_OFF
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL
_VLAN_TAG_PRESENT = 0xFFFFF030  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT

_ETH_P_IP, _ETH_P_IPV6, _UDP, _FRAGMENT = 0x0800, 0x86DD, 17, 44
_LEAF_KEYS = 24


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
    return [*_hash_of_destination(rejects_others=False), Instruction(_RET_A)]


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
    program = [*within, *_hash_of_destination(rejects_others=True), *_search(wanted)]
    return program if len(program) <= MAX_INSTRUCTIONS else all_udp()


def all_udp() -> Program:
    """Keep all UDP."""
    return [*_hash_of_destination(rejects_others=True), Instruction(_RET, operand=KEEP_ALL)]


def unmatched_program(destinations: Iterable[Destination]) -> Program:
    """Keep untagged UDP multicast, but no later fragments, that `filter_program` does not keep."""
    distinct = set(destinations)
    wanted = sorted(one for one in distinct if isinstance(one, int))
    ranges = sorted((one for one in distinct if isinstance(one, Range)), key=str)
    within = [instruction for one in ranges for instruction in _range(one, found=0)]
    program = [
        *_only_multicast(),
        *within,
        *_hash_of_destination(rejects_others=True),
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
        [Instruction(_LD_W, operand=_PROTOCOL), (_JEQ, _ETH_P_IP if ipv4 else _ETH_P_IPV6)],
        [Instruction(_LD_B, operand=_NET + (9 if ipv4 else 6)), (_JEQ, _UDP)],
    ]
    for index in range(len(wanted.address.packed) // 4):
        bits = min(32, max(0, wanted.prefix_length - 32 * index))
        mask = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
        word = int.from_bytes(wanted.address.packed[4 * index : 4 * index + 4])
        load = Instruction(_LD_W, operand=_NET + (16 if ipv4 else 24) + 4 * index)
        if bits:
            tests.append([load, Instruction(_AND, operand=mask), (_JEQ, word)])
    if ipv4:
        load_port = [
            Instruction(_LDX_HEADER_BYTES, operand=_NET),
            Instruction(_LD_H_INDEXED, operand=_NET + 2),
        ]
    else:
        load_port = [Instruction(_LD_H, operand=_NET + 42)]
    return _chain([*tests, [*load_port, (_JGE, wanted.first)]], wanted.last, found)


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


def _hash_of_destination(*, rejects_others: bool) -> list[Instruction]:
    """Leave the hash in the accumulator, or end with 0 for what is neither IPv4 nor IPv6 (nor UDP)."""
    tail = [
        Instruction(_MUL, operand=PORT_FACTOR),
        *_fold(13),
        Instruction(_MUL, operand=FINAL_FACTOR),
        *_fold(16),
    ]
    ipv6 = [*(_only(6, _UDP, _FRAGMENT) if rejects_others else []), *_ipv6_destination()]
    ipv4 = [*(_only(9, _UDP) if rejects_others else []), *_ipv4_destination()]
    return [
        Instruction(_LD_W, operand=_PROTOCOL),
        Instruction(_JEQ, 2, 0, _ETH_P_IP),
        Instruction(_JEQ, 2 + len(ipv4), 0, _ETH_P_IPV6),
        Instruction(_RET),
        *ipv4,
        Instruction(_JA, operand=len(ipv6)),
        *ipv6,
        *tail,
    ]


def _only(offset: int, *protocols: int) -> list[Instruction]:
    """End with 0 for other protocols than these."""
    tests = [Instruction(_JEQ, len(protocols) - index, 0, one) for index, one in enumerate(protocols)]
    return [Instruction(_LD_B, operand=_NET + offset), *tests, Instruction(_RET)]


def _ipv4_destination() -> list[Instruction]:
    """Add port to the mixed address; the header's length may vary with options."""
    return [
        Instruction(_LD_W, operand=_NET + 16),
        *_mix_word(),
        Instruction(_ST, operand=0),
        Instruction(_LDX_HEADER_BYTES, operand=_NET),
        Instruction(_LD_H_INDEXED, operand=_NET + 2),
        Instruction(_LDX_MEM, operand=0),
        Instruction(_ADD_X),
    ]


def _ipv6_destination() -> list[Instruction]:
    """Add port to the mixed address; a fragment, in which a port cannot be relied on, counts as port 0."""
    program = [Instruction(_LD_W, operand=_NET + 24), *_mix_word()]
    for offset in (28, 32, 36):
        program += [
            Instruction(_TAX),
            Instruction(_LD_W, operand=_NET + offset),
            Instruction(_ADD_X),
            *_mix_word(),
        ]
    return [
        *program,
        Instruction(_ST, operand=0),
        Instruction(_LD_B, operand=_NET + 6),
        Instruction(_JEQ, 4, 0, _FRAGMENT),
        Instruction(_LDX_MEM, operand=0),
        Instruction(_LD_H, operand=_NET + 42),
        Instruction(_ADD_X),
        Instruction(_JA, operand=1),
        Instruction(_LD_MEM, operand=0),
    ]


def _mix_word() -> list[Instruction]:
    return [Instruction(_MUL, operand=WORD_FACTOR), *_fold(15)]


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

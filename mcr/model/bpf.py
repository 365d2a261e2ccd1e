"""
Classic-BPF programs for packet sockets: where a frame goes, and whether it is worth a copy.

All loads are relative to the network header (SKF_NET_OFF), so that one program fits Ethernet and devices
without a link header, and the fanout's and the socket's view of a frame.

Source: linux/filter.h, linux/bpf_common.h; Documentation/networking/filter.rst.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mcr.model.steering import FINAL_FACTOR, PORT_FACTOR, WORD_FACTOR

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
KEEP_ALL = 0x40000  # longer than any packet: keep all of it

_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30  # BPF_LD | size | BPF_ABS
_LD_H_INDEXED = 0x48  # BPF_LD | BPF_H | BPF_IND
_LDX_HEADER_BYTES = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: four times the low nibble
_LDX_MEM, _ST = 0x61, 0x02
_TAX = 0x07
_ADD_X, _XOR_X, _MUL, _RSH = 0x0C, 0xAC, 0x24, 0x74
_JA, _JEQ, _JGE = 0x05, 0x15, 0x35
_RET, _RET_A = 0x06, 0x16

_NET = 0xFFF00000  # SKF_NET_OFF
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL

_ETH_P_IP, _ETH_P_IPV6, _UDP = 0x0800, 0x86DD, 17
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


def filter_program(hashes: Iterable[int]) -> Program:
    """
    Keep UDP whose destination has one of these `rule_hash` values.

    Two destinations may share a hash, so the reader still has to look; the point is that other traffic costs
    no copy.  With more hashes than fit a program (3,072), all UDP is kept.
    """
    wanted = sorted(set(hashes))
    if not wanted:
        return nothing()
    program = [*_hash_of_destination(rejects_others=True), *_search(wanted)]
    return program if len(program) <= MAX_INSTRUCTIONS else all_udp()


def all_udp() -> Program:
    """Keep all UDP."""
    return [*_hash_of_destination(rejects_others=True), Instruction(_RET, operand=KEEP_ALL)]


def _hash_of_destination(*, rejects_others: bool) -> list[Instruction]:
    """Leave the hash in the accumulator, or end with 0 for what is neither IPv4 nor IPv6 (nor UDP)."""
    tail = [
        Instruction(_MUL, operand=PORT_FACTOR),
        *_fold(13),
        Instruction(_MUL, operand=FINAL_FACTOR),
        *_fold(16),
    ]
    ipv6 = [*_only_udp(6, rejects_others=rejects_others), *_ipv6_destination()]
    ipv4 = [
        *_only_udp(9, rejects_others=rejects_others),
        *_ipv4_destination(),
        Instruction(_JA, operand=len(ipv6)),
    ]
    return [
        Instruction(_LD_W, operand=_PROTOCOL),
        Instruction(_JEQ, 2, 0, _ETH_P_IP),
        Instruction(_JEQ, 1 + len(ipv4), 0, _ETH_P_IPV6),
        Instruction(_RET),
        *ipv4,
        *ipv6,
        *tail,
    ]


def _only_udp(offset: int, *, rejects_others: bool) -> list[Instruction]:
    if not rejects_others:
        return []
    return [Instruction(_LD_B, operand=_NET + offset), Instruction(_JEQ, 1, 0, _UDP), Instruction(_RET)]


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
    """Add port to the mixed address, without extension headers."""
    program = [Instruction(_LD_W, operand=_NET + 24), *_mix_word()]
    for offset in (28, 32, 36):
        program += [
            Instruction(_TAX),
            Instruction(_LD_W, operand=_NET + offset),
            Instruction(_ADD_X),
            *_mix_word(),
        ]
    return [*program, Instruction(_TAX), Instruction(_LD_H, operand=_NET + 42), Instruction(_ADD_X)]


def _mix_word() -> list[Instruction]:
    return [Instruction(_MUL, operand=WORD_FACTOR), *_fold(15)]


def _fold(bits: int) -> list[Instruction]:
    """Xor the accumulator with itself shifted right."""
    return [Instruction(_TAX), Instruction(_RSH, operand=bits), Instruction(_XOR_X)]


def _search(wanted: Sequence[int]) -> list[Instruction]:
    """
    Search sorted values by halves, the last few one by one.

    Conditional jumps reach 255 instructions only, so the far half is reached by an unconditional one.
    """
    if len(wanted) <= _LEAF_KEYS:
        tests = [Instruction(_JEQ, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
        return [*tests, Instruction(_RET), Instruction(_RET, operand=KEEP_ALL)]
    middle = len(wanted) // 2
    lower, upper = _search(wanted[:middle]), _search(wanted[middle:])
    return [Instruction(_JGE, 0, 1, wanted[middle]), Instruction(_JA, operand=len(lower)), *lower, *upper]

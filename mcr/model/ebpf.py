"""
Extended BPF for the ingress of an interface: what only mcr wants is kept from the host's IP stack.

A packet socket gets a copy of each frame, and the frame then goes on into the IP stack, which looks for a
route and a socket before it drops what nobody else has asked for.  That costs more than the copy.  The
program that `bypass_program` gives marks such frames as meant for another host, which is what the IP stack
looks at first; what has a UDP socket on this host stays as it is.  Devices on top of the interface (VLAN,
macvlan, ipvlan) judge by the frame's addresses and miss nothing.

Source: Documentation/bpf/standardization/instruction-set.rst; linux/bpf.h; ip_rcv_core in
net/ipv4/ip_input.c.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mcr.model import bpf, bpf_code

_ALU32, _ALU64, _JMP, _JMP32 = 0x04, 0x07, 0x05, 0x06
_MOV, _ADD, _LSH, _AND = 0xB0, 0x00, 0x60, 0x50
_FROM_REGISTER = 0x08
_JA, _JEQ, _JGT, _JNE, _JLT = 0x00, 0x10, 0x20, 0x50, 0xA0
_LOAD_WORD, _STORE_WORD = 0x61, 0x63  # BPF_LDX or BPF_STX | BPF_W | BPF_MEM
_TO_HOST_16 = 0xDC  # BPF_ALU | BPF_END | BPF_TO_BE
_CALL, _EXIT = 0x85, 0x95

# Packet loads leave their result in the accumulator; the registers from 6 on survive calls.
_A, _SCRATCH, _CONTEXT, _SAVED, _INDEX, _FRAME = 0, 1, 6, 7, 8, 10

_LENGTH, _PACKET_TYPE, _PROTOCOL, _VLAN_PRESENT = 0, 4, 16, 20  # offsets in struct __sk_buff
_LOAD_BYTES, _CHANGE_TYPE, _LOOKUP_UDP, _RELEASE = 26, 32, 85, 86  # enum bpf_func_id
_THIS_NETWORK = -1  # BPF_F_CURRENT_NETNS
_NEXT_PROGRAM = -1  # TCX_NEXT
_MULTICAST, _OTHER_HOST = 2, 3  # linux/if_packet.h
_ETH_P_IP = 0x0800

# On the stack: struct bpf_sock_tuple, and below it the scratch memory of classic BPF.
_TUPLE = -40
_IPV4_TUPLE_BYTES, _IPV6_TUPLE_BYTES = 12, 36
_KEEP, _NEXT, _IPV4, _LOOKUP, _MARK = "keep", "next", "ipv4", "lookup", "mark"

Label = int | str


class Instruction(NamedTuple):
    """One ``struct bpf_insn``, whose jump, if it is one, leads to a label."""

    code: int
    destination: int = 0
    source: int = 0
    immediate: int = 0
    offset: int = 0
    label: Label | None = None


Program = Sequence[Instruction]


def bypass_program(destinations: Iterable[bpf.Destination], link_bytes: int) -> bytes:
    """
    Give the program as an array of ``struct bpf_insn``, in host byte order; empty if it would do nothing.

    Args:
        destinations: what mcr takes from the interface.
        link_bytes: length of the link header in front of the IP header, 0 for none.
    """
    classic = bpf.bypass_program(destinations)
    if len(classic) == 1:
        return b""
    labelled: list[tuple[Label, Program]] = [(0, [_move_register(_CONTEXT, 1)])]
    labelled += [
        (number + 1, _translated(number, instruction, link_bytes))
        for number, instruction in enumerate(classic)
    ]
    # Label n + 1 stands before instruction n: jumps count from the instruction behind.
    labelled += [(label, program) for label, program in _tail(link_bytes)]
    return _assembled(labelled)


def _assembled(labelled: Sequence[tuple[Label, Program]]) -> bytes:
    places: dict[Label, int] = {}
    place = 0
    for label, program in labelled:
        places[label] = place
        place += len(program)
    packed = bytearray()
    instructions = (instruction for _, program in labelled for instruction in program)
    for place, one in enumerate(instructions):
        offset = one.offset if one.label is None else places[one.label] - place - 1
        registers = one.source << 4 | one.destination
        packed += struct.pack("=BBhI", one.code, registers, offset, one.immediate & 0xFFFFFFFF)
    return bytes(packed)


def _translated(number: int, classic: bpf_code.Instruction, link_bytes: int) -> Program:
    """Say the same in extended BPF; jumps lead to the label of the classic instruction."""
    if classic.code in _JUMPS:
        taken = number + 2 + classic.jump_true
        otherwise = number + 2 + classic.jump_false
        code = _JMP32 | _JUMPS[classic.code]
        jump = Instruction(code, _A, immediate=classic.operand, label=taken)
        return [jump, *([_go(otherwise)] if classic.jump_false else [])]
    if classic.code == bpf_code.JA:
        return [_go(number + 2 + classic.operand)]
    if classic.code == bpf_code.RET:
        return [_go(_KEEP if classic.operand else _NEXT)]
    if classic.code == bpf_code.LD_W and classic.operand in _ANCILLARY:
        return _ANCILLARY[classic.operand]
    return _PLAIN[classic.code](bpf_code.from_start(classic.operand, link_bytes))


def _tail(link_bytes: int) -> Sequence[tuple[Label, Program]]:
    """Mark what is multicast and has no socket."""
    keep = [
        Instruction(_LOAD_WORD, _A, _CONTEXT, offset=_PACKET_TYPE),
        Instruction(_JMP | _JNE, _A, immediate=_MULTICAST, label=_NEXT),
        *_ANCILLARY[bpf_code.PROTOCOL],
        Instruction(_JMP | _JEQ, _A, immediate=_ETH_P_IP, label=_IPV4),
        *_load_bytes(link_bytes + 8, _TUPLE, 32),
        *_load_bytes(link_bytes + 40, _TUPLE + 32, 4),
        _move(3, _IPV6_TUPLE_BYTES),
        _go(_LOOKUP),
    ]
    ipv4 = [
        *_load_bytes(link_bytes + 12, _TUPLE, 8),
        *_PLAIN[bpf_code.LDX_HEADER_BYTES](link_bytes),
        _move_register(2, _INDEX),
        Instruction(_ALU64 | _ADD, 2, immediate=link_bytes),
        *_call_load_bytes(_TUPLE + 8, 4),
        _move(3, _IPV4_TUPLE_BYTES),
    ]
    lookup = [
        _move_register(1, _CONTEXT),
        _move_register(2, _FRAME),
        Instruction(_ALU64 | _ADD, 2, immediate=_TUPLE),
        _move(4, _THIS_NETWORK),
        _move(5, 0),
        Instruction(_CALL, immediate=_LOOKUP_UDP),
        Instruction(_JMP | _JEQ, _A, immediate=0, label=_MARK),
        _move_register(1, _A),
        Instruction(_CALL, immediate=_RELEASE),
        _go(_NEXT),
    ]
    mark = [
        _move_register(1, _CONTEXT),
        _move(2, _OTHER_HOST),
        Instruction(_CALL, immediate=_CHANGE_TYPE),
    ]
    following = [_move(_A, _NEXT_PROGRAM), Instruction(_EXIT)]
    return [(_KEEP, keep), (_IPV4, ipv4), (_LOOKUP, lookup), (_MARK, mark), (_NEXT, following)]


def _load_bytes(at: int, to: int, count: int) -> Program:
    """Copy from the frame to the stack."""
    return [_move(2, at), *_call_load_bytes(to, count)]


def _call_load_bytes(to: int, count: int) -> Program:
    return [
        _move_register(1, _CONTEXT),
        _move_register(3, _FRAME),
        Instruction(_ALU64 | _ADD, 3, immediate=to),
        _move(4, count),
        Instruction(_CALL, immediate=_LOAD_BYTES),
    ]


def _move(register: int, value: int) -> Instruction:
    return Instruction(_ALU64 | _MOV, register, immediate=value)


def _move_register(register: int, source: int) -> Instruction:
    return Instruction(_ALU64 | _MOV | _FROM_REGISTER, register, source)


def _go(label: Label) -> Instruction:
    return Instruction(_JMP | _JA, label=label)


def _context_word(offset: int) -> Instruction:
    return Instruction(_LOAD_WORD, _A, _CONTEXT, offset=offset)


def _arithmetic(code: int) -> Callable[[int], Program]:
    """Operations have the same numbers in both; the classic ones work on 32 bits."""
    source = _INDEX if code & _FROM_REGISTER else 0
    return lambda operand: [Instruction(code & 0xF8 | _ALU32, _A, source, operand)]


def _memory(slot: int) -> int:
    return _TUPLE - 4 * (slot + 1)


def _packet_load(code: int) -> Callable[[int], Program]:
    """
    Load from the frame, if it is long enough.

    A load beyond its end would end the program with 0, which is TCX_PASS: programs behind would not be asked.
    """
    return partial(_indexed_load if code in _INDEXED else _absolute_load, code)


def _absolute_load(code: int, operand: int) -> Program:
    end = operand + _SIZES[code & _SIZE]
    return [
        _context_word(_LENGTH),
        Instruction(_JMP32 | _JLT, _A, immediate=end, label=_NEXT),
        Instruction(code, immediate=operand),
    ]


def _indexed_load(code: int, operand: int) -> Program:
    return [
        _move_register(_A, _INDEX),
        Instruction(_ALU32 | _ADD, _A, immediate=operand + _SIZES[code & _SIZE]),
        Instruction(_LOAD_WORD, _SCRATCH, _CONTEXT, offset=_LENGTH),
        Instruction(_JMP32 | _JGT | _FROM_REGISTER, _A, _SCRATCH, label=_NEXT),
        Instruction(code, 0, _INDEX, operand),
    ]


_SIZE, _SIZES = 0x18, {0x00: 4, 0x08: 2, 0x10: 1}
_INDEXED = (bpf_code.LD_W_INDEXED, bpf_code.LD_H_INDEXED, bpf_code.LD_B_INDEXED)
_ARITHMETIC = (
    bpf_code.ADD,
    bpf_code.ADD_X,
    bpf_code.XOR_X,
    bpf_code.MUL,
    bpf_code.LSH,
    bpf_code.RSH,
    bpf_code.AND,
)
_JUMPS: Mapping[int, int] = {
    code: code & 0xF0 for code in (bpf_code.JEQ, bpf_code.JGT, bpf_code.JGE, bpf_code.JSET)
}
_ANCILLARY: Mapping[int, Program] = {
    bpf_code.PROTOCOL: [_context_word(_PROTOCOL), Instruction(_TO_HOST_16, _A, immediate=16)],
    bpf_code.VLAN_TAG_PRESENT: [_context_word(_VLAN_PRESENT)],
}
_PLAIN: Mapping[int, Callable[[int], Program]] = {
    **{code: _packet_load(code) for code in (bpf_code.LD_W, bpf_code.LD_H, bpf_code.LD_B, *_INDEXED)},
    **{code: _arithmetic(code) for code in _ARITHMETIC},
    bpf_code.TAX: lambda _: [_move_register(_INDEX, _A)],
    bpf_code.LD_IMM: lambda operand: [_move(_A, operand)],
    bpf_code.LDX_IMM: lambda operand: [_move(_INDEX, operand)],
    bpf_code.ST: lambda slot: [Instruction(_STORE_WORD, _FRAME, _A, offset=_memory(slot))],
    bpf_code.STX: lambda slot: [Instruction(_STORE_WORD, _FRAME, _INDEX, offset=_memory(slot))],
    bpf_code.LD_MEM: lambda slot: [Instruction(_LOAD_WORD, _A, _FRAME, offset=_memory(slot))],
    bpf_code.LDX_MEM: lambda slot: [Instruction(_LOAD_WORD, _INDEX, _FRAME, offset=_memory(slot))],
    bpf_code.LDX_HEADER_BYTES: lambda operand: [
        _move_register(_SAVED, _A),
        *_absolute_load(bpf_code.LD_B, operand),
        Instruction(_ALU32 | _AND, _A, immediate=0x0F),
        Instruction(_ALU32 | _LSH, _A, immediate=2),
        _move_register(_INDEX, _A),
        _move_register(_A, _SAVED),
    ],
}

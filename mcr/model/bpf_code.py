"""
Classic BPF: its instructions, and how a program with labels becomes one with distances.

Loads are relative to the network header (SKF_NET_OFF); `packed` makes them absolute where it is known.

Source: linux/filter.h, linux/bpf_common.h; Documentation/networking/filter.rst.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
KEEP_ALL = 0x40000  # longer than any packet: keep all of it

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


def assembled(steps: Steps) -> Program:
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


def unless(code: int, operand: int, label: str) -> Steps:
    """Jump if the comparison fails."""
    return [Instruction(code, 1, 0, operand), To(label)]


def only_if(*values: int) -> Sequence[Instruction]:
    """End with 0 if the accumulator holds another value than these."""
    tests = [Instruction(JEQ, len(values) - index, 0, one) for index, one in enumerate(values)]
    return [*tests, Instruction(RET)]

"""
A machine for classic BPF, as the kernel runs it on a packet socket.

It knows nothing of the module that makes the programs: its numbers are those of linux/bpf_common.h, and a
program that uses anything else fails.

Source: linux/bpf_common.h, linux/filter.h; Documentation/networking/filter.rst.
"""

from collections.abc import Callable, Mapping, Sequence

MASK = 0xFFFFFFFF
NETWORK, PROTOCOL = -0x100000, -0x1000  # SKF_NET_OFF; SKF_AD_OFF + SKF_AD_PROTOCOL
CPU_NUMBER = -0x1000 + 36  # SKF_AD_OFF + SKF_AD_CPU
VLAN_TAG_PRESENT = -0x1000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)  # BPF_CLASS
IMMEDIATE, ABSOLUTE, INDIRECT, MEMORY, LENGTH, HEADER = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0  # BPF_MODE
SIZES = {0x00: 4, 0x08: 2, 0x10: 1}  # BPF_W, BPF_H, BPF_B
FROM_X = 0x08  # BPF_SRC
RETURN_A = 0x10
TAX, TXA = 0x00, 0x80
MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MEMORY_WORDS = 16  # BPF_MEMWORDS

ALU_OPERATIONS: Mapping[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << b,
    0x70: lambda a, b: a >> b,
    0x90: lambda a, b: a % b,
    0xA0: lambda a, b: a ^ b,
}
JUMPS: Mapping[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
}

Instruction = tuple[int, int, int, int]


class OutsideError(Exception):
    """A load beyond the packet: the kernel ends the program with 0."""


def check(program: Sequence[Instruction]) -> None:
    """Refuse what the kernel's bpf_check_classic() would: lengths, jumps, a last instruction that goes on."""
    assert 1 <= len(program) <= MOST_INSTRUCTIONS
    for position, (code, jump_true, jump_false, operand) in enumerate(program):
        if code & 7 == JMP:
            jumps = (operand,) if code & 0xF0 == 0 else (jump_true, jump_false)
            assert all(position + 1 + jump < len(program) for jump in jumps), position
            assert jump_true <= 255, position
            assert jump_false <= 255, position
        assert 0 <= operand <= MASK, position
    assert program[-1][0] & 7 == RET


def run(
    program: Sequence[Instruction], protocol: int, packet: bytes, *, tagged: bool = False, cpu: int = 0
) -> int:
    """
    Give what *program* returns for *packet*, which begins with its IP header, of EtherType *protocol*.

    Args:
        tagged: the kernel has taken a VLAN tag out of the frame.
        cpu: that the frame arrived on.
    """
    return Machine(protocol, packet, tagged=tagged, cpu=cpu).run(program)


class Machine:
    """Registers and scratch memory for one packet."""

    def __init__(self, protocol: int, packet: bytes, *, tagged: bool, cpu: int) -> None:
        self._tagged = tagged
        self._cpu = cpu
        self._protocol = protocol
        self._packet = packet
        self._a = self._x = 0
        self._memory = [0] * MEMORY_WORDS

    def run(self, program: Sequence[Instruction]) -> int:
        """Run to a return; a jump goes forward, so every program ends."""
        position = 0
        try:
            while True:
                code, jump_true, jump_false, operand = program[position]
                kind = code & 7
                if kind == RET:
                    return self._a if code & 0x18 == RETURN_A else operand
                if kind == JMP:
                    position += self._jump(code, jump_true, jump_false, operand)
                else:
                    self._step(code, operand)
                position += 1
        except OutsideError:
            return 0

    def _jump(self, code: int, jump_true: int, jump_false: int, operand: int) -> int:
        if code & 0xF0 == 0:
            return operand
        other = self._x if code & FROM_X else operand
        return jump_true if JUMPS[code & 0xF0](self._a, other) else jump_false

    def _step(self, code: int, operand: int) -> None:
        match code & 7:
            case 0:  # LD
                self._a = self._value(code, operand)
            case 1:  # LDX
                self._x = self._value(code, operand)
            case 2:  # ST
                self._memory[operand] = self._a
            case 3:  # STX
                self._memory[operand] = self._x
            case 4:  # ALU
                other = self._x if code & FROM_X else operand
                self._a = ALU_OPERATIONS[code & 0xF0](self._a, other) & MASK
            case 7:  # MISC
                if code & 0xF8 == TXA:
                    self._a = self._x
                else:
                    assert code & 0xF8 == TAX
                    self._x = self._a

    def _value(self, code: int, operand: int) -> int:
        size, mode = SIZES[code & 0x18], code & 0xE0
        if mode == IMMEDIATE:
            return operand
        if mode == MEMORY:
            return self._memory[operand]
        offset = operand - (1 << 32) if operand >> 31 else operand
        if mode == HEADER:
            assert size == 1
            return 4 * (self._load(offset, 1) & 0x0F)
        if mode == INDIRECT:
            return self._load(offset + self._x, size)
        assert mode == ABSOLUTE
        if offset == CPU_NUMBER:
            return self._cpu
        if offset == VLAN_TAG_PRESENT:
            return int(self._tagged)
        return self._protocol if offset == PROTOCOL else self._load(offset, size)

    def _load(self, offset: int, size: int) -> int:
        begin = offset - NETWORK
        assert begin >= 0, "only what is relative to the network header fits every device"
        if begin + size > len(self._packet):
            raise OutsideError
        return int.from_bytes(self._packet[begin : begin + size])

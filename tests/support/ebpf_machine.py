"""
A machine for the extended BPF of a program at an interface's ingress.

It knows nothing of the module that makes the programs; what else a program uses fails.

Source: Documentation/bpf/standardization/instruction-set.rst; linux/bpf.h.
"""

import operator
import struct
from dataclasses import dataclass, field

from tests.support.bpf_machine import ALU_OPERATIONS, JUMPS, MASK

MASK_64 = (1 << 64) - 1
MOST_STEPS = 100_000
STACK_BYTES = 512
CONTEXT, FRAME = 6, 10  # registers
LENGTH, PACKET_TYPE, PROTOCOL, VLAN_PRESENT = 0, 4, 16, 20  # offsets in struct __sk_buff
MULTICAST = 2
LD, LDX, STX, ALU, JMP, JMP32, ALU64 = 0, 1, 3, 4, 5, 6, 7
SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
MOVE, BIG_ENDIAN, CALL, EXIT = 0xB0, 0xD0, 0x80, 0x90
COMPARISONS = {**JUMPS, 0x50: operator.ne, 0xA0: operator.lt}
OPERATIONS = {**ALU_OPERATIONS, MOVE: lambda _, value: value}


@dataclass
class Machine:
    """
    Registers and stack for one frame.

    Attributes:
        frame: from the link header on.
        has_socket: what a look-up finds.
        asked: the tuple that was looked up: source and destination address, and ports, as on the wire.
        marked: the packet type that was set.
        released: sockets that were found and given back.
    """

    frame: bytes
    protocol: int
    packet_type: int = MULTICAST
    tagged: bool = False
    has_socket: bool = False
    asked: bytes | None = None
    marked: int | None = None
    released: int = 0
    _registers: list[int] = field(default_factory=lambda: [0] * 11)
    _stack: bytearray = field(default_factory=lambda: bytearray(STACK_BYTES))

    def run(self, program: bytes) -> int:
        """Run to the end; a load beyond the frame ends the program with 0."""
        instructions = list(struct.iter_unpack("=BBhi", program))
        self._registers[1], self._registers[FRAME] = -1 & MASK_64, STACK_BYTES
        position = 0
        try:
            for _ in range(MOST_STEPS):
                code, registers, offset, immediate = instructions[position]
                if code == JMP | EXIT:
                    return (self._registers[0] ^ 1 << 63) - (1 << 63)
                position += 1 + self._step(code, registers & 15, registers >> 4, offset, immediate)
        except IndexError:
            return 0
        raise AssertionError("no end")

    def _step(self, code: int, destination: int, source: int, offset: int, immediate: int) -> int:
        registers = self._registers
        other = registers[source] if code & 0x08 else immediate & MASK_64
        match code & 7:
            case 0:
                assert registers[CONTEXT] == -1 & MASK_64
                assert code & 0xE0 in {0x20, 0x40}
                begin = immediate + (registers[source] if code & 0xE0 == 0x40 else 0)
                registers[0] = self._load(begin, SIZES[code & 0x18])
                registers[1:6] = [0xDEAD] * 5
            case 1:
                registers[destination] = self._word(registers[source], offset)
            case 3:
                place = registers[destination] + offset
                struct.pack_into("=I", self._stack, place, registers[source] & MASK)
            case 4 | 7 if code & 0xF0 == BIG_ENDIAN:
                registers[destination] = int.from_bytes(struct.pack("=H", registers[destination] & 0xFFFF))
            case 4 | 7:
                mask = MASK if code & 7 == ALU else MASK_64
                value = (
                    other
                    if code & 0xF0 == MOVE
                    else ALU_OPERATIONS[code & 0xF0](registers[destination], other)
                )
                registers[destination] = value & mask
            case 5 | 6:
                return self._jump(code, registers[destination], other, offset, immediate)
        return 0

    def _jump(self, code: int, left: int, right: int, offset: int, immediate: int) -> int:
        if code == JMP | CALL:
            self._call(immediate)
            return 0
        if code == JMP:
            return offset
        if code & 7 == JMP32:
            left, right = left & MASK, right & MASK
        return offset if COMPARISONS[code & 0xF0](left, right) else 0

    def _word(self, base: int, offset: int) -> int:
        if base == -1 & MASK_64:
            kind = int(struct.unpack("=H", struct.pack(">H", self.protocol))[0])
            words = {LENGTH: len(self.frame), PACKET_TYPE: self.packet_type, PROTOCOL: kind}
            return {**words, VLAN_PRESENT: int(self.tagged)}[offset]
        return int(struct.unpack_from("=I", self._stack, base + offset)[0])

    def _load(self, begin: int, size: int) -> int:
        if begin + size > len(self.frame):
            raise IndexError
        return int.from_bytes(self.frame[begin : begin + size])

    def _call(self, function: int) -> None:
        registers = self._registers
        first, second, third, fourth = registers[1:5]
        assert first == (1 if function == 86 else -1 & MASK_64)
        result = 0
        match function:
            case 26:  # bpf_skb_load_bytes
                self._stack[third : third + fourth] = self.frame[second : second + fourth].ljust(
                    fourth, b"\0"
                )
            case 32:  # bpf_skb_change_type
                self.marked = second
            case 85:  # bpf_sk_lookup_udp
                assert fourth == -1 & MASK_64
                self.asked = bytes(self._stack[second : second + third])
                result = int(self.has_socket)
            case 86:  # bpf_sk_release
                self.released += 1
            case _:
                raise AssertionError(f"unknown function {function}")
        registers[:6] = [result, *[0xDEAD] * 5]

"""
The shared memory of a worker: the Python side of ``struct mcr_shared`` in ``native/mcr.h``.

One worker writes it, the supervisor reads it.  All fields are unsigned 64-bit numbers in host byte order.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap

from mcr.model.stats import IGNORED_REASONS, NOT_SENT_REASONS, InterfaceCounters, OutputCounters, RuleCounters

MAX_INTERFACES = 64
MAX_RULES = 8192
MAX_OUTPUTS = 32768

WORD_BYTES = 8
HEADER_WORDS = 8
_IGNORED_WORDS = 12
_NOT_SENT_WORDS = 14
INTERFACE_WORDS = 2 + _IGNORED_WORDS + 2
RULE_WORDS = 2
OUTPUT_WORDS = 2 + _NOT_SENT_WORDS
INTERFACES_AT = HEADER_WORDS
RULES_AT = INTERFACES_AT + MAX_INTERFACES * INTERFACE_WORDS
OUTPUTS_AT = RULES_AT + MAX_RULES * RULE_WORDS
SHARED_BYTES = (OUTPUTS_AT + MAX_OUTPUTS * OUTPUT_WORDS) * WORD_BYTES

SNAPSHOT_TRIES = 500
_HEADER = struct.Struct(f"={HEADER_WORDS}Q")


@dataclass(frozen=True, slots=True)
class WorkerHeader:
    """
    What a worker says about itself without being asked.

    Attributes:
        sequence: odd while counters are being changed.
        heartbeat_ns: CLOCK_MONOTONIC, written every 100 ms.
        generation: of the installed share.
        digest: of the installed table.
        batches: times that packets were read.
        sleeps: waits on purpose, to let a batch gather.
        polls: waits for the next packet.
    """

    abi: int
    sequence: int
    heartbeat_ns: int
    generation: int
    digest: int
    batches: int
    sleeps: int
    polls: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A copy of the counters in use.

    Attributes:
        interfaces, rules, outputs: the words of the lowest slots of each.
        consistent: the worker changed nothing while they were copied, so that the conservation laws hold.
    """

    interfaces: "memoryview[int]"
    rules: "memoryview[int]"
    outputs: "memoryview[int]"
    consistent: bool

    def interface(self, slot: int) -> InterfaceCounters:
        """Give the counters of one interface slot."""
        received, matched, *ignored = _slot(self.interfaces, slot, INTERFACE_WORDS)[
            : 2 + len(IGNORED_REASONS)
        ]
        return InterfaceCounters(received, matched, dict(zip(IGNORED_REASONS, ignored, strict=True)))

    def rule(self, slot: int) -> RuleCounters:
        """Give the counters of one rule slot."""
        return RuleCounters(*_slot(self.rules, slot, RULE_WORDS))

    def output(self, slot: int) -> OutputCounters:
        """Give the counters of one output slot."""
        sent, sent_bytes, *not_sent = _slot(self.outputs, slot, OUTPUT_WORDS)[: 2 + len(NOT_SENT_REASONS)]
        return OutputCounters(sent, sent_bytes, dict(zip(NOT_SENT_REASONS, not_sent, strict=True)))


def read_header(memory: mmap) -> WorkerHeader:
    """Read the worker's own fields."""
    return WorkerHeader(*_HEADER.unpack_from(memory))


def read_snapshot(memory: mmap, rule_slots: int, output_slots: int) -> Snapshot:
    """
    Copy the counters of all interfaces and of the lowest slots while the worker is between two batches.

    A worker that is never seen between two batches within `SNAPSHOT_TRIES` gives a copy that says so.
    """
    spans = (
        (interface_span(0)[0], MAX_INTERFACES * INTERFACE_WORDS * WORD_BYTES),
        (rule_span(0)[0], rule_slots * RULE_WORDS * WORD_BYTES),
        (output_span(0)[0], output_slots * OUTPUT_WORDS * WORD_BYTES),
    )
    copies = _copy(memory, spans)
    for _ in range(SNAPSHOT_TRIES):
        before = read_header(memory).sequence
        copies = _copy(memory, spans)
        if before % 2 == 0 and read_header(memory).sequence == before:
            return Snapshot(copies[0], copies[1], copies[2], consistent=True)
    return Snapshot(copies[0], copies[1], copies[2], consistent=False)


def _copy(memory: mmap, spans: Iterable[tuple[int, int]]) -> "list[memoryview[int]]":
    return [memoryview(memory[start : start + length]).cast("Q") for start, length in spans]


def _slot(words: "memoryview[int]", slot: int, length: int) -> "memoryview[int]":
    return words[slot * length : (slot + 1) * length]


def interface_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of an interface slot."""
    return (INTERFACES_AT + slot * INTERFACE_WORDS) * WORD_BYTES, INTERFACE_WORDS * WORD_BYTES


def rule_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of a rule slot."""
    return (RULES_AT + slot * RULE_WORDS) * WORD_BYTES, RULE_WORDS * WORD_BYTES


def output_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of an output slot."""
    return (OUTPUTS_AT + slot * OUTPUT_WORDS) * WORD_BYTES, OUTPUT_WORDS * WORD_BYTES

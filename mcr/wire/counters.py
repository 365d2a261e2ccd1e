"""
The shared memory of a worker: the Python side of ``struct mcr_shared`` in ``native/mcr.h``.

One worker writes it, the supervisor reads it.  All fields are unsigned 64-bit numbers in host byte order.
"""

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from mcr.model.endpoint import Address
from mcr.model.stats import IGNORED_REASONS, NOT_SENT_REASONS, InterfaceCounters, OutputCounters, RuleCounters
from mcr.wire.share import unmapped

MAX_INTERFACES = 64
MAX_RULES = 8192
MAX_OUTPUTS = 32768

WORD_BYTES = 8
HEADER_WORDS = 9
_IGNORED_WORDS = 12
_NOT_SENT_WORDS = 14
INTERFACE_WORDS = 2 + _IGNORED_WORDS + 2
_CURSOR_AT = (2 + _IGNORED_WORDS) * WORD_BYTES
RULE_WORDS = 2
OUTPUT_WORDS = 2 + _NOT_SENT_WORDS
INTERFACES_AT = HEADER_WORDS
RULES_AT = INTERFACES_AT + MAX_INTERFACES * INTERFACE_WORDS
OUTPUTS_AT = RULES_AT + MAX_RULES * RULE_WORDS
LATENCY_WORDS = 64
LATENCIES_AT = OUTPUTS_AT + MAX_OUTPUTS * OUTPUT_WORDS
TRACE_AT = LATENCIES_AT + MAX_RULES * LATENCY_WORDS
TRACE_ENTRIES = 4096
_TRACE_HEADER = struct.Struct("=3Q")
_TRACE_ENTRY = struct.Struct("=QQQIIIHBx16s")
_UNMATCHED_AT = TRACE_AT * WORD_BYTES + _TRACE_HEADER.size + TRACE_ENTRIES * _TRACE_ENTRY.size
UNMATCHED_ENTRIES = 256
_UNMATCHED_ENTRY = struct.Struct("=16s16sIHxxQQ")
SHARED_BYTES = _UNMATCHED_AT + UNMATCHED_ENTRIES * _UNMATCHED_ENTRY.size

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
        coalesce_ns: how long a wait on purpose is at present; 0 if there is none.
    """

    abi: int
    sequence: int
    heartbeat_ns: int
    generation: int
    digest: int
    batches: int
    sleeps: int
    polls: int
    coalesce_ns: int


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


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """
    One output of one traced datagram: ``struct mcr_trace_entry``.

    Attributes:
        number: counts from 1.
        output: its slot.
        verdict: "sent", or the reason why not.
        bytes: of UDP payload.
        ttl: as it arrived.
    """

    number: int
    received_ns: int
    sent_ns: int
    output: int
    verdict: str
    bytes: int
    source_port: int
    ttl: int
    source: Address


def read_latency(memory: mmap, slot: int) -> list[int]:
    """Read the histogram of one rule slot: `LATENCY_WORDS` counts."""
    start, length = latency_span(slot)
    return list(memoryview(memory[start : start + length]).cast("Q"))


def bucket_end_us(bucket: int) -> float:
    """Give the time below which the latencies of a bucket lie; the last one holds all longer ones too."""
    octave, quarter = divmod(bucket, 4)
    return float(1 << octave) * (4 + quarter) / 4 if bucket else 1.0


def read_trace(memory: mmap, after: int) -> list[TraceEntry]:
    """Read the entries with a higher number than *after* that are still there and complete."""
    _, _, written = _TRACE_HEADER.unpack_from(memory, TRACE_AT * WORD_BYTES)
    entries = []
    for index in range(max(after, written - TRACE_ENTRIES), written):
        at = TRACE_AT * WORD_BYTES + _TRACE_HEADER.size + index % TRACE_ENTRIES * _TRACE_ENTRY.size
        fields = _TRACE_ENTRY.unpack_from(memory, at)
        if fields[0] == index + 1:
            entries.append(_trace_entry(fields))
    return entries


def trace_request(rule_slot: int | None, every: int) -> tuple[int, bytes]:
    """Give offset and bytes to write so that the worker traces every nth datagram of a rule, or none."""
    return TRACE_AT * WORD_BYTES, struct.pack("=QQ", 0 if rule_slot is None else rule_slot + 1, every)


@dataclass(frozen=True, slots=True)
class UnmatchedEntry:
    """
    UDP multicast that matches no rule: ``struct mcr_unmatched_entry``.

    Attributes:
        interface: its slot.
        packets: that were looked at.
        last_seen_ns: CLOCK_REALTIME.
    """

    group: Address
    source: Address
    interface: int
    port: int
    packets: int
    last_seen_ns: int


def read_unmatched(memory: mmap) -> list[UnmatchedEntry]:
    """Read the entries in use, while the worker changes none of them if it leaves time for it."""
    span = slice(_UNMATCHED_AT, _UNMATCHED_AT + UNMATCHED_ENTRIES * _UNMATCHED_ENTRY.size)
    copied = memory[span]
    for _ in range(SNAPSHOT_TRIES):
        before = read_header(memory).sequence
        copied = memory[span]
        if before % 2 == 0 and read_header(memory).sequence == before:
            break
    fields = (entry for entry in _UNMATCHED_ENTRY.iter_unpack(copied) if entry[4])
    return [UnmatchedEntry(unmapped(group), unmapped(source), *rest) for group, source, *rest in fields]


def _trace_entry(fields: tuple[Any, ...]) -> TraceEntry:
    number, received_ns, sent_ns, output, verdict, length, port, ttl, source = fields
    name = NOT_SENT_REASONS[verdict - 1] if verdict else "sent"
    return TraceEntry(number, received_ns, sent_ns, output, name, length, port, ttl, unmapped(source))


def read_cursor(memory: mmap, slot: int) -> int:
    """Read how many frames of an interface's ring the worker has given back."""
    start, _ = interface_span(slot)
    return int.from_bytes(memory[start + _CURSOR_AT : start + _CURSOR_AT + WORD_BYTES], sys.byteorder)


def interface_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of an interface slot."""
    return (INTERFACES_AT + slot * INTERFACE_WORDS) * WORD_BYTES, INTERFACE_WORDS * WORD_BYTES


def counted_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of what an interface slot has counted, not its place in the ring."""
    start, _ = interface_span(slot)
    return start, _CURSOR_AT


def rule_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of a rule slot."""
    return (RULES_AT + slot * RULE_WORDS) * WORD_BYTES, RULE_WORDS * WORD_BYTES


def latency_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of a rule slot's histogram."""
    return (LATENCIES_AT + slot * LATENCY_WORDS) * WORD_BYTES, LATENCY_WORDS * WORD_BYTES


def output_span(slot: int) -> tuple[int, int]:
    """Give offset and length in bytes of an output slot."""
    return (OUTPUTS_AT + slot * OUTPUT_WORDS) * WORD_BYTES, OUTPUT_WORDS * WORD_BYTES

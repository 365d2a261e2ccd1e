"""The shared counters: where C writes them is where Python reads them."""

import errno
import fcntl
import itertools
import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.model.stats import IGNORED_REASONS, NOT_SENT_REASONS, InterfaceCounters, OutputCounters, RuleCounters
from mcr.supervisor.counters import CounterFile
from mcr.wire import counters as wire
from mcr.wire.counters import (
    HEADER_WORDS,
    LATENCY_WORDS,
    SHARED_BYTES,
    SNAPSHOT_TRIES,
    WORD_BYTES,
    WorkerHeader,
    bucket_end_us,
    interface_span,
    output_span,
    read_header,
    read_snapshot,
    rule_span,
)

WORD = struct.Struct("=Q")
SLOTS = {
    "interfaces": (interface_span, wire.MAX_INTERFACES, "struct mcr_interface_counters"),
    "rules": (rule_span, wire.MAX_RULES, "struct mcr_rule_counters"),
    "outputs": (output_span, wire.MAX_OUTPUTS, "struct mcr_output_counters"),
}


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, SHARED_BYTES) as shared:
        yield shared


def in_c(memory: mmap.mmap) -> "ffi.CData":
    """See the same memory as C does."""
    return ffi.from_buffer("struct mcr_shared *", memory)


def offset(field: str, *indexes: int) -> int:
    found: int = ffi.offsetof("struct mcr_shared", field, *indexes)
    return found


def names_of(enum: str) -> list[str]:
    elements: dict[int, str] = ffi.typeof(enum).elements
    return [elements[number] for number in range(len(elements))]


# ---- where things are ----


def test_the_memory_is_as_long_as_in_c() -> None:
    assert ffi.sizeof("struct mcr_shared") == SHARED_BYTES


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        ("MCR_MAX_INTERFACES", wire.MAX_INTERFACES),
        ("MCR_MAX_RULES", wire.MAX_RULES),
        ("MCR_MAX_OUTPUTS", wire.MAX_OUTPUTS),
    ],
)
def test_there_is_room_for_the_same_number_of_slots(constant: str, expected: int) -> None:
    assert getattr(lib, constant) == expected


def test_a_worker_says_the_same_about_itself_in_c() -> None:
    others = {*SLOTS, "latencies", "trace", "unmatched"}
    fields = [name for name, field in ffi.typeof("struct mcr_shared").fields if name not in others]

    assert fields == list(WorkerHeader.__slots__)
    assert [offset(field) for field in fields] == [WORD_BYTES * n for n in range(len(fields))]


@pytest.mark.parametrize("kind", SLOTS)
def test_slots_begin_where_they_do_in_c(kind: str) -> None:
    span, count, struct_name = SLOTS[kind]

    assert {slot: span(slot)[0] for slot in (0, 1, count - 1)} == {
        slot: offset(kind, slot) for slot in (0, 1, count - 1)
    }
    assert span(0)[1] == ffi.sizeof(struct_name)


@pytest.mark.parametrize(
    ("enum", "prefix", "reasons", "room"),
    [
        ("enum mcr_ignored", "MCR_IGNORED_", IGNORED_REASONS, "MCR_IGNORED_REASONS"),
        ("enum mcr_not_sent", "MCR_NOT_SENT_", NOT_SENT_REASONS, "MCR_NOT_SENT_REASONS"),
    ],
)
def test_reasons_are_those_of_c_in_the_same_order(
    enum: str, prefix: str, reasons: tuple[str, ...], room: str
) -> None:
    assert [name.removeprefix(prefix).lower() for name in names_of(enum)] == list(reasons)
    assert len(reasons) <= getattr(lib, room)


# ---- what is read ----


NUMBERS = st.integers(0, (1 << 64) - 1)


@given(st.lists(NUMBERS, min_size=30, max_size=30), st.integers(0, 63), st.integers(0, 9), st.integers(0, 9))
def test_what_c_writes_is_what_python_reads(
    numbers: list[int], interface_slot: int, rule_slot: int, output_slot: int
) -> None:
    with mmap.mmap(-1, SHARED_BYTES) as memory:
        write_in_c(memory, iter(numbers), (interface_slot, rule_slot, output_slot))
        snapshot = read_snapshot(memory, 10, 10)

    expected = iter(numbers)
    ignored = [next(expected) for _ in IGNORED_REASONS]
    not_sent = [next(expected) for _ in NOT_SENT_REASONS]
    assert snapshot.interface(interface_slot) == InterfaceCounters(
        next(expected), next(expected), dict(zip(IGNORED_REASONS, ignored, strict=True))
    )
    assert snapshot.rule(rule_slot) == RuleCounters(next(expected), next(expected))
    assert snapshot.output(output_slot) == OutputCounters(
        next(expected), next(expected), dict(zip(NOT_SENT_REASONS, not_sent, strict=True))
    )
    assert snapshot.consistent


def write_in_c(memory: mmap.mmap, numbers: Iterator[int], slots: tuple[int, int, int]) -> None:
    """Write the reasons, then the rest, as the C structs name them."""
    shared = in_c(memory)
    interface, rule, output = shared.interfaces[slots[0]], shared.rules[slots[1]], shared.outputs[slots[2]]
    for reason in range(len(IGNORED_REASONS)):
        interface.ignored[reason] = next(numbers)
    for reason in range(len(NOT_SENT_REASONS)):
        output.not_sent[reason] = next(numbers)
    interface.received, interface.matched = next(numbers), next(numbers)
    rule.matched, rule.bytes = next(numbers), next(numbers)
    output.sent, output.bytes = next(numbers), next(numbers)
    ffi.release(shared)


def test_the_header_is_read_field_by_field(memory: mmap.mmap) -> None:
    for number in range(HEADER_WORDS):
        WORD.pack_into(memory, number * WORD_BYTES, 100 + number)

    assert read_header(memory) == WorkerHeader(*range(100, 100 + HEADER_WORDS))


def test_a_worker_within_a_batch_gives_an_inconsistent_snapshot(memory: mmap.mmap) -> None:
    WORD.pack_into(memory, offset("sequence"), 3)

    assert not read_snapshot(memory, 1, 1).consistent


def test_a_worker_that_never_pauses_gives_an_inconsistent_snapshot(
    memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two looks it has finished one batch and is before the next: always even, never the same."""
    looks = itertools.count()
    monkeypatch.setattr(
        wire, "read_header", lambda _memory: WorkerHeader(1, 2 * next(looks), 0, 0, 0, 0, 0, 0, 0)
    )

    assert not read_snapshot(memory, 1, 1).consistent
    assert next(looks) == 2 * SNAPSHOT_TRIES


def test_a_snapshot_is_taken_again_until_it_is_consistent(
    memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look falls into a batch, the second sees one end, the third is undisturbed."""
    sequences = iter([1, 2, 4, 6, 6])

    def look(_memory: mmap.mmap) -> WorkerHeader:
        sequence = next(sequences)
        WORD.pack_into(memory, rule_span(0)[0], sequence)
        return WorkerHeader(1, sequence, 0, 0, 0, 0, 0, 0, 0)

    monkeypatch.setattr(wire, "read_header", look)
    snapshot = read_snapshot(memory, 1, 1)

    assert snapshot.consistent
    assert snapshot.rule(0).matched == 6


def test_only_slots_in_use_are_copied(memory: mmap.mmap) -> None:
    snapshot = read_snapshot(memory, 2, 3)

    assert (len(snapshot.rules), len(snapshot.outputs)) == (2 * wire.RULE_WORDS, 3 * wire.OUTPUT_WORDS)


# ---- the file ----


@pytest.fixture
def file() -> Iterator[CounterFile]:
    opened = CounterFile(0)
    yield opened
    opened.close()


def test_a_worker_cannot_take_the_memory_away(file: CounterFile) -> None:
    for length in (0, SHARED_BYTES - 1, SHARED_BYTES + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(file.fileno(), length)

    assert fcntl.fcntl(file.fileno(), fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    assert not file.header().sequence


def test_what_a_worker_writes_is_seen_at_once(file: CounterFile) -> None:
    with mmap.mmap(file.fileno(), SHARED_BYTES) as theirs:
        WORD.pack_into(theirs, rule_span(3)[0], 77)

        assert file.snapshot(4, 0).rule(3).matched == 77


def test_an_interface_counts_on_in_another_slot_and_at_the_beginning_of_its_ring(file: CounterFile) -> None:
    with mmap.mmap(file.fileno(), SHARED_BYTES) as theirs:
        start, length = interface_span(1)
        theirs[start : start + length] = b"\x01" * length
        file.count_on(2, file.counted(1))
        counted = theirs[slice(*(start + part * length for part in (1, 2)))]

        assert file.cursor(1) > 0
        assert file.cursor(2) == 0
        assert counted == b"\x01" * (length - 2 * WORD_BYTES) + bytes(2 * WORD_BYTES)
        assert theirs[start : start + length] == b"\x01" * length


@pytest.mark.parametrize("kind", SLOTS)
def test_clearing_a_slot_leaves_its_neighbours_alone(file: CounterFile, kind: str) -> None:
    span, _, _ = SLOTS[kind]
    with mmap.mmap(file.fileno(), SHARED_BYTES) as theirs:
        theirs[:] = b"\xff" * SHARED_BYTES
        file.clear(span(5))
        start, length = span(5)

        assert theirs[start : start + length] == bytes(length)
        assert theirs[:start] + theirs[start + length :] == b"\xff" * (SHARED_BYTES - length)


def test_a_closed_file_is_closed() -> None:
    file = CounterFile(1)
    descriptor = file.fileno()
    file.close()

    with pytest.raises(OSError, match="Bad file descriptor") as error:
        os.fstat(descriptor)
    assert error.value.errno == errno.EBADF


# ---- latencies ----


def test_latencies_are_told_apart_by_quarters_of_a_doubling_from_one_microsecond_on() -> None:
    ends = [bucket_end_us(bucket) for bucket in range(13)]

    assert ends == [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8]
    assert bucket_end_us(LATENCY_WORDS - 1) == 57344


@pytest.mark.parametrize("bucket", range(LATENCY_WORDS - 1))
def test_a_bucket_ends_where_it_is_said_to_end(bucket: int) -> None:
    end_ns = round(1000 * bucket_end_us(bucket))

    assert lib.mcr_relay__latency_bucket(end_ns - 1) == bucket
    assert lib.mcr_relay__latency_bucket(end_ns) == bucket + 1


@given(st.integers(0, (1 << 64) - 1) | st.integers(0, 100_000_000))
def test_a_latency_lies_below_the_end_of_its_bucket_and_not_below_that_of_the_one_before(ns: int) -> None:
    bucket = lib.mcr_relay__latency_bucket(ns)

    assert ns < 1000 * bucket_end_us(bucket) or bucket == LATENCY_WORDS - 1
    assert bucket == 0 or ns >= 1000 * bucket_end_us(bucket - 1)

"""The counters of one worker number, kept while its processes come and go."""

import fcntl
import mmap
import os

from mcr.wire.counters import (
    SHARED_BYTES,
    Snapshot,
    TraceEntry,
    UnmatchedEntry,
    WorkerHeader,
    counted_span,
    read_cursor,
    read_header,
    read_latency,
    read_snapshot,
    read_trace,
    read_unmatched,
    trace_request,
)


class CounterFile:
    """
    A memory file that worker processes write and the supervisor reads.

    It cannot be shrunk, so that no worker can pull the memory away from under the supervisor.
    """

    def __init__(self, number: int) -> None:
        self._descriptor = os.memfd_create(f"mcr-counters-{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._descriptor, SHARED_BYTES)
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = mmap.mmap(self._descriptor, SHARED_BYTES, prot=mmap.PROT_READ)

    def fileno(self) -> int:
        """Give the descriptor, to hand to a worker."""
        return self._descriptor

    def header(self) -> WorkerHeader:
        """Read what the worker says about itself."""
        return read_header(self._memory)

    def snapshot(self, rule_slots: int, output_slots: int) -> Snapshot:
        """Copy the counters of the lowest slots, consistent if the worker leaves time for it."""
        return read_snapshot(self._memory, rule_slots, output_slots)

    def cursor(self, slot: int) -> int:
        """Read how many frames of an interface's ring the worker has given back."""
        return read_cursor(self._memory, slot)

    def latency(self, slot: int) -> list[int]:
        """Read the histogram of one rule slot."""
        return read_latency(self._memory, slot)

    def trace(self, after: int) -> list[TraceEntry]:
        """Read the traced datagrams behind number *after*."""
        return read_trace(self._memory, after)

    def unmatched(self) -> list[UnmatchedEntry]:
        """Read what matched no rule."""
        return read_unmatched(self._memory)

    def ask_for_trace(self, rule_slot: int | None, every: int) -> None:
        """Let the worker trace every nth datagram of a rule, or none."""
        start, request = trace_request(rule_slot, every)
        os.pwrite(self._descriptor, request, start)

    def counted(self, slot: int) -> bytes:
        """Copy what was counted at an interface that no worker reads."""
        start, length = counted_span(slot)
        return self._memory[start : start + length]

    def count_on(self, slot: int, counted: bytes) -> None:
        """Let the counters of an interface that no worker reads yet begin with what was counted before."""
        start, _ = counted_span(slot)
        os.pwrite(self._descriptor, counted, start)

    def clear(self, span: tuple[int, int]) -> None:
        """Set a slot that no worker counts in to zero."""
        start, length = span
        os.pwrite(self._descriptor, bytes(length), start)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self._descriptor)

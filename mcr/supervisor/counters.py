"""The counters of one worker number, kept while its processes come and go."""

import fcntl
import mmap
import os

from mcr.wire.counters import SHARED_BYTES, Snapshot, WorkerHeader, read_header, read_snapshot


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

    def clear(self, span: tuple[int, int]) -> None:
        """Set a slot that no worker counts in to zero."""
        start, length = span
        os.pwrite(self._descriptor, bytes(length), start)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self._descriptor)

"""The compiled relay as an object: negative errno becomes an exception, descriptors change hands."""

from collections.abc import Sequence

from mcr._native import ffi, lib
from mcr.errors import KernelError
from mcr.wire.worker import Loop


def allow_system_calls(names: Sequence[str]) -> None:
    """
    Let every system call but the named ones fail with EPERM from now on.

    Raises:
        KernelError: the filter was refused, or a name is unknown to libseccomp.
    """
    texts = [ffi.new("char[]", name.encode()) for name in names]
    _check("filter system calls", ", ".join(names), lib.mcr_confine__system_calls(texts, len(texts)))


class Dataplane:
    """
    Rings, table and outputs of one worker; descriptors given to it are its own from then on.

    Raises:
        KernelError: from every method, when the kernel or the table refuses.
    """

    def __init__(self, counters: int) -> None:
        self._relay = lib.mcr_relay__new(counters)
        if self._relay == ffi.NULL:
            raise KernelError("map", "shared counters", ffi.errno)

    def set_number(self, worker: int, workers: int) -> None:
        """Say which one of how many workers this is."""
        _check("be worker", f"{worker} of {workers}", lib.mcr_relay__set_number(self._relay, worker, workers))

    def set_pace(self, coalesce_us: int, *, busy_poll: bool, batch: int) -> None:
        """
        Say how long to let a batch gather at high rates, whether to never sleep, and the largest batch.

        With ``COALESCE_AUTO`` the first follows from what a wait costs.
        """
        lib.mcr_relay__set_pace(self._relay, coalesce_us, busy_poll, batch)

    def attach_ring(self, slot: int, descriptor: int, frame_bytes: int, frames: int) -> None:
        """Read an interface's ring from where the shared cursor stands."""
        _check(
            "map ring of",
            f"slot {slot}",
            lib.mcr_relay__attach_ring(self._relay, slot, descriptor, frame_bytes, frames),
        )

    def attach_watch(self, slot: int, descriptor: int) -> None:
        """Look at the packets of an interface that match no rule."""
        _check("watch", f"slot {slot}", lib.mcr_relay__attach_watch(self._relay, slot, descriptor))

    def attach_packets(self, descriptors: Sequence[int]) -> None:
        """Write whole packets through packet sockets, one for each priority."""
        lib.mcr_relay__attach_packets(self._relay, descriptors)

    def attach_output(self, slot: int, descriptor: int, source: bytes, port: int) -> None:
        """Send an output's payloads through a UDP socket, or from its address (16 bytes) and port."""
        _check(
            "attach output",
            f"slot {slot}",
            lib.mcr_relay__attach_output(self._relay, slot, descriptor, source, port),
        )

    def install(self, descriptor: int, length: int) -> tuple[int, int]:
        """Replace the table by the share in a memory file; give its generation and digest."""
        _check("install share of", f"{length} bytes", lib.mcr_relay__install(self._relay, descriptor, length))
        return lib.mcr_relay__generation(self._relay), lib.mcr_relay__digest(self._relay)

    def run(self, control: int) -> Loop | None:
        """Relay until *control* is readable or a loop was found; meanwhile other threads may run."""
        result = lib.mcr_relay__run(self._relay, control)
        _check("wait for", "packets", result)
        if not result:
            return None
        found = lib.mcr_relay__loop(self._relay)
        return Loop(found.rule, *(bytes(ffi.buffer(one)) for one in (found.group, found.source)))


def _check(operation: str, subject: str, result: int) -> None:
    if result < 0:
        raise KernelError(operation, subject, -result)

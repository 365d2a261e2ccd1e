"""What only mcr wants from an interface, kept from the host's IP stack (`mcr.model.ebpf`)."""

import errno
import os

from mcr._native import lib
from mcr.errors import KernelError
from mcr.model.bpf import Destination
from mcr.model.ebpf import bypass_program

# No tcx before Linux 6.6, no bpf() or not for us: then everything works as well, only slower.
_UNAVAILABLE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES}


class Bypass:
    """
    The program at an interface's ingress; it goes with the process that holds it.

    Attributes:
        destinations: what was asked for last.
        problem: why nothing is bypassed although that was asked for, or empty.
    """

    def __init__(self, ifindex: int, link_bytes: int | None) -> None:
        self.destinations: frozenset[Destination] = frozenset()
        self.problem = "" if link_bytes is not None else "not Ethernet"
        self._ifindex = ifindex
        self._link_bytes = link_bytes
        self._descriptor: int | None = None

    @property
    def is_on(self) -> bool:
        """Say whether there is a program."""
        return self._descriptor is not None

    def set(self, destinations: frozenset[Destination]) -> None:
        """
        Bypass the stack for these destinations from now on, or not at all if the kernel refuses.

        It is not asked the same again: a large program costs it tens of milliseconds.

        Raises:
            KernelError: the kernel could and does not.
        """
        self.destinations = destinations
        if self._link_bytes is None:
            return
        self.problem = ""
        program = bypass_program(destinations, self._link_bytes)
        if program:
            self._replace(program)
        else:
            self._detach()

    def close(self) -> None:
        """Let the stack see everything again."""
        self._detach()
        self.destinations = frozenset()

    def _detach(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _replace(self, program: bytes) -> None:
        """Without the new program the old one goes as well: it is for other rules."""
        if self._descriptor is None:
            result = lib.mcr_bypass__attach(self._ifindex, program, len(program))
            self._descriptor = result if result >= 0 else None
        else:
            result = lib.mcr_bypass__replace(self._descriptor, program, len(program))
        if result < 0:
            self._detach()
            self.problem = os.strerror(-result)
            if -result not in _UNAVAILABLE:
                raise KernelError("bypass the IP stack on", f"interface {self._ifindex}", -result)

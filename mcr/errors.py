"""
Every exception of mcr, by who must act::

    McrError
    |-- UsageError       the caller asked for something impossible: names what it got and what it expected
    |   |-- RuleError      one rule, or one among others, cannot be accepted
    |   `-- ConfigError    the configuration file: every problem in it, each with its path
    |-- PeerError        the other process broke the protocol: close the channel
    |   `-- Unreachable    nobody answers at the control path
    |-- Refused          the daemon answered with an error: its code and its reason
    |-- KernelError      the kernel said no: operation, object, errno: report, perhaps retry
    `-- Bug              an invariant is false: log, exit; the parent restarts us
"""

import errno as errno_module
import os
from collections.abc import Mapping, Sequence

_HINTS = {
    errno_module.EMFILE: "raise the limit of open files: LimitNOFILE= in the unit, or ulimit -n",
    errno_module.ENOMEM: "free memory, or run fewer workers: each has a ring for each input interface",
}


class McrError(Exception):
    """Any failure that mcr reports; ``code`` is a stable lower-case word for programs."""

    code = "error"


class UsageError(McrError):
    """The caller asked for something impossible."""

    code = "usage"


class EndpointError(UsageError):
    """A text is not an endpoint, or an endpoint cannot stand where it was given."""

    code = "bad_endpoint"


class RuleError(UsageError):
    """A rule cannot be accepted; the code says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ConfigError(UsageError):
    """
    A configuration file cannot be used.

    Attributes:
        problems: one line each, ``file: path.to.key: got X, expected Y``.
    """

    code = "bad_config"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class PeerError(McrError):
    """The other process broke the protocol."""

    code = "protocol"


class Unreachable(PeerError):
    """Nobody answers at the control path."""

    code = "unreachable"


class Refused(McrError):
    """The daemon answered with an error."""

    def __init__(self, code: str, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.details = dict(details or {})


class KernelError(McrError):
    """
    The kernel refused an operation.

    Attributes:
        errno: positive error number.
        reason: its name in lower case without the E, for example ``netunreach``.
    """

    code = "kernel"

    def __init__(self, operation: str, subject: str, errno: int) -> None:
        name = errno_module.errorcode.get(errno, str(errno))
        hint = f"; {_HINTS[errno]}" if errno in _HINTS else ""
        super().__init__(f"{operation} {subject}: {os.strerror(errno)} ({name}){hint}")
        self.errno = errno
        self.reason = name.removeprefix("E").lower()


class Bug(McrError):
    """An invariant is false."""

    code = "bug"

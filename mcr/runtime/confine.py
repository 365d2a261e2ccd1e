"""
Giving privileges up for good, and proving it.

Source: capabilities(7), prctl(2), proc(5).
"""

import os
import pwd
import resource
import stat
from collections.abc import Mapping
from pathlib import Path

import prctl

from mcr.errors import KernelError, UsageError
from mcr.runtime.roles import SECCOMP_FILTER, SECCOMP_OFF, Role

PROOF_FIELDS = (
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
)
_STATUS = "/proc/self/status"
_STATUS_BYTES = 1 << 14


def require_capabilities(role: Role) -> None:
    """
    Make sure that the process has the role's capabilities, the optional ones aside.

    Raises:
        UsageError: one of them is missing; names all that are, and what to do.
    """
    needed = role.capabilities - role.optional
    missing = sorted(name for name in needed if not getattr(prctl.cap_permitted, name))
    if missing:
        names = ", ".join(f"CAP_{name.upper()}" for name in missing)
        raise UsageError(
            f"got a process without {names}, expected root with them: start it as root, "
            "and in a container add these capabilities"
        )


def closed_directory(path: Path) -> Path | None:
    """Name the first directory on the way to *path* that root without CAP_DAC_* may not pass."""
    for directory in reversed(path.absolute().parents):
        status = directory.stat()
        needed = stat.S_IXUSR if status.st_uid == 0 else stat.S_IXGRP if status.st_gid == 0 else stat.S_IXOTH
        if not status.st_mode & needed:
            return directory
    return None


def keep_capabilities(role: Role, *also: str) -> None:
    """Keep the role's capabilities and those named, also for children, and no supplementary groups."""
    absent = {name for name in role.optional if not getattr(prctl.cap_permitted, name)}
    kept = sorted(map(_capability_number, [*(role.capabilities - absent), *also]))
    os.setgroups([])
    prctl.capbset.limit(*kept)
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit(*kept)
    prctl.cap_permitted.limit(*kept)


def give_up(role: Role) -> None:
    """
    Become the role's user, for ever, with nothing but the role's capabilities; no core dumps, no ptrace.

    Raises:
        KernelError: a step was refused; the process must then end.
    """
    account = pwd.getpwnam(role.user)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        prctl.capbset.limit(*_numbers(role))
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        prctl.cap_inheritable.limit()
        prctl.cap_effective.limit(*_numbers(role))
        prctl.cap_permitted.limit(*_numbers(role))
        prctl.set_no_new_privs(role.no_new_privs)
        prctl.set_dumpable(False)
    except OSError as error:
        raise KernelError("confine", role.name, error.errno or 0) from error


class StatusFile:
    """The process's own status, opened before opening files is forbidden, read after."""

    def __init__(self) -> None:
        self._descriptor = os.open(_STATUS, os.O_RDONLY | os.O_CLOEXEC)

    def proof(self) -> dict[str, str]:
        """Read the fields that prove the confinement, and close the file."""
        text = os.pread(self._descriptor, _STATUS_BYTES, 0).decode()
        os.close(self._descriptor)
        return proof_from(text)


def proof_from(status: str) -> dict[str, str]:
    """Take the fields that matter out of the text of a /proc/PID/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {name: " ".join(fields[name].split()) for name in PROOF_FIELDS}


def expected_proof(role: Role) -> dict[str, str]:
    """Say what the status of a process in this role must show."""
    account = pwd.getpwnam(role.user)
    mask = f"{sum(1 << number for number in _numbers(role)):016x}"
    none = f"{0:016x}"
    return {
        "Uid": " ".join([str(account.pw_uid)] * 4),
        "Gid": " ".join([str(account.pw_gid)] * 4),
        "Groups": "",
        "CapInh": none,
        "CapPrm": mask,
        "CapEff": mask,
        "CapBnd": mask,
        "CapAmb": none,
        "NoNewPrivs": "1" if role.no_new_privs else "0",
        "Seccomp": SECCOMP_FILTER if role.system_calls else SECCOMP_OFF,
    }


def differences(role: Role, proof: Mapping[str, str]) -> list[str]:
    """List every field in which *proof* is not that of *role*, more as well as less."""
    expected = expected_proof(role)
    return [
        f"{name}: got {proof.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if proof.get(name) != value
    ]


def _numbers(role: Role) -> list[int]:
    return sorted(_capability_number(name) for name in role.capabilities)


def _capability_number(name: str) -> int:
    number: int = getattr(prctl, f"CAP_{name.upper()}")
    return number

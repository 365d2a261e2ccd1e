"""Who is at the other end of a control connection, and what that allows."""

import grp
import socket
import struct
from dataclasses import dataclass

GROUP_NAME = "mcr"

_SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module has no name for it
_UCRED = struct.Struct("@iII")  # struct ucred: pid, uid, gid; unix(7)
_MAX_GROUPS_BYTES = 1024  # the most that Python's getsockopt() takes: 256 groups


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kernel noted of the peer when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_credentials(connection: socket.socket) -> Credentials:
    """
    Ask the kernel who connected.

    Source: SO_PEERCRED and SO_PEERGROUPS, unix(7) and net/core/sock.c.
    """
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS_BYTES)
    except OSError:
        packed = b""  # more groups than we have room for: only the primary one counts
    return Credentials(pid, uid, frozenset([gid, *(group for (group,) in struct.iter_unpack("@I", packed))]))


def control_group() -> int | None:
    """Give the id of the group whose members may change things, if the host has it."""
    try:
        return grp.getgrnam(GROUP_NAME).gr_gid
    except KeyError:
        return None


def may_change(credentials: Credentials, group: int | None) -> bool:
    """Say whether this peer may change what the daemon does: root, and members of *group*."""
    return credentials.uid == 0 or (group is not None and group in credentials.groups)

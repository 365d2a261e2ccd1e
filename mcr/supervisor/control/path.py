"""The control socket's place in the file system."""

import errno
import os
import socket
import stat
from pathlib import Path

from mcr.errors import KernelError, UsageError

MODE = 0o660
DIRECTORY_MODE = 0o755
MAX_PATH_BYTES = 107  # sun_path without its final zero, unix(7)
CONNECT_TIMEOUT_S = 1.0


def claim_path(path: Path) -> None:
    """
    Make sure that a socket can be bound to *path*: make its directory, remove a dead daemon's socket.

    Raises:
        UsageError: a living daemon listens there, something else is there, or the path is too long.
        KernelError: the directory cannot be made, or the dead socket not be removed.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise UsageError(f"{path}: got {len(os.fsencode(path))} bytes, expected at most {MAX_PATH_BYTES}")
    try:
        _make_directory(path.parent)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError("prepare the control path", str(path), error.errno or 0) from error
    if not stat.S_ISSOCK(mode):
        raise UsageError(
            f"{path}: got something there that is no socket, expected nothing or a dead daemon's socket"
        )
    if is_alive(path):
        raise UsageError(
            f"{path}: got a path where a living daemon listens, expected another one (--control PATH)"
        )
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KernelError("remove the dead control socket", str(path), error.errno or 0) from error


def is_alive(path: Path) -> bool:
    """Say whether somebody listens at the socket *path*; in doubt, somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
    return True


def bind_socket(path: Path, group: int | None) -> socket.socket:
    """
    Bind a stream socket to *path*, claimed before, for the owner and *group*.

    The caller owns the socket and the file. Giving the file to *group* takes CAP_CHOWN.

    Raises:
        KernelError: it cannot be bound.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.bind(os.fspath(path))
        # Until listen() nobody can connect, so there is no moment at which the mode is too wide.
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(MODE)
    except OSError as error:
        listener.close()
        raise KernelError("bind the control socket", str(path), error.errno or 0) from error
    return listener


def identify(path: Path) -> tuple[int, int] | None:
    """Give device and inode of what is at *path*, None for nothing."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_directory(directory: Path) -> None:
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(DIRECTORY_MODE)  # mkdir()'s mode is subject to the umask

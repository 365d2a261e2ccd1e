"""The control socket in the file system: dead and living daemons, and what is no socket at all."""

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from mcr.errors import KernelError, UsageError
from mcr.supervisor.control.path import claim_path
from mcr.supervisor.control.session import Limits
from mcr.wire.control import Request, encode_request
from tests.support.control import SOON_S, Daemon, Raw, make_socket_file, ping_s


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "control.sock", uvloop.new_event_loop) as running:
        yield running


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    make_socket_file(path)

    with Daemon(path, uvloop.new_event_loop):
        assert ping_s(path) < SOON_S


def test_a_living_daemons_path_is_refused_and_it_goes_on(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match=f"^{daemon.path}: got a path where a living daemon listens"):
        claim_path(daemon.path)

    assert ping_s(daemon.path) < SOON_S


def test_a_living_daemon_with_a_full_queue_is_still_alive(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(os.fspath(path))
        listener.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        waiting.connect(os.fspath(path))

        with pytest.raises(UsageError, match="a living daemon listens"):
            claim_path(path)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/nowhere")])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "control.sock"
    make(path)

    with pytest.raises(UsageError, match="that is no socket"):
        claim_path(path)
    assert os.path.lexists(path)


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run" / "mcr" / "control.sock"

    claim_path(path)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(KernelError, match="prepare the control path"):
        claim_path(tmp_path / "file" / "control.sock")


def test_a_path_longer_than_the_kernel_takes_is_refused() -> None:
    with pytest.raises(UsageError, match="got 201 bytes, expected at most 107"):
        claim_path(Path("/" + "x" * 200))


def test_stopping_removes_the_socket_file_and_cuts_off_clients(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with Daemon(path, uvloop.new_event_loop, Limits(write_s=30)) as daemon:
        idle = Raw(path).greet()
        busy = Raw(path).greet()
        busy.socket.sendall(encode_request(Request(1, "rule.list")))
        busy.socket.recv(1)  # a part of the answer: the rest of it waits to be read
        begin = time.monotonic()
        daemon.stop()

        assert time.monotonic() - begin < 1
        assert idle.is_hung_up()
        assert not path.exists()
    idle.socket.close()
    busy.socket.close()


def test_stopping_leaves_a_successors_socket_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with Daemon(path, uvloop.new_event_loop):
        path.unlink()
        make_socket_file(path)

    assert path.exists()

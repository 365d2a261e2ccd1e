"""The client side, with daemons that are not there, silent, or none at all."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from mcr.client import Client
from mcr.errors import PeerError, Unreachable
from mcr.wire.codec import pack
from mcr.wire.framing import encode_frame
from tests.support.control import HELLO, Daemon, make_socket_file


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "control.sock", uvloop.new_event_loop) as running:
        yield running


def test_a_daemon_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    with (
        pytest.raises(Unreachable, match=f"^{path}: there is no such socket; check that mcrd is running"),
        Client(path),
    ):
        pass


def test_a_dead_daemon_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    make_socket_file(path)

    with pytest.raises(Unreachable, match="nobody listens there"), Client(path):
        pass


def test_a_daemon_that_says_nothing_is_unreachable_after_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        begin = time.monotonic()

        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"), Client(path, timeout_s=0.2):
            pass
        assert time.monotonic() - begin < 1


def test_a_call_has_a_deadline(daemon: Daemon) -> None:
    with (
        Client(daemon.path, timeout_s=0.2) as client,
        pytest.raises(Unreachable, match=r"no answer within 0\.2 s"),
    ):
        client.call("worker.list")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            encode_frame(pack({"hello": {"protocol": 7, "version": "7.1"}})),
            "got control protocol 7 .*, expected 1",
        ),
        (b"\x7f\xff\xff\xff", "got a frame of 2147483647 bytes"),
        (HELLO + encode_frame(pack({"id": 2, "ok": {}})), "got an answer to request 2, expected one to 1"),
        (HELLO + encode_frame(pack({"id": 1})), "expected id with ok or error"),
        (b"", "the daemon hung up"),
        (HELLO, "the daemon hung up"),
    ],
)
def test_a_peer_that_is_no_daemon_is_reported(tmp_path: Path, said: bytes, reason: str) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(PeerError, match=reason), Client(path) as client:
            client.call("ping")
        thread.join(5)

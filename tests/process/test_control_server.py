"""A real control server on a path of its own, with handlers that pretend, and clients of every kind."""

import asyncio
import contextlib
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from mcr.client import Client
from mcr.errors import Refused
from mcr.supervisor.control.access import Credentials, may_change
from mcr.wire.codec import pack
from mcr.wire.control import PROTOCOL, Request, encode_request
from mcr.wire.framing import MAX_PAYLOAD_BYTES, encode_frame
from tests.support.control import BIG, HELLO, LIMITS, SOON_S, Daemon, Raw, ping_s, wait_until

pytestmark = pytest.mark.alone
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "control.sock", request.param) as running:
        yield running


@pytest.fixture
def reachable_daemon() -> Iterator[Daemon]:
    """Run a daemon in a directory that everybody may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with Daemon(Path(directory) / "control.sock", uvloop.new_event_loop) as running:
            yield running


def test_a_client_gets_its_answer(daemon: Daemon) -> None:
    with Client(daemon.path) as client:
        assert client.call("ping") == {}
        assert client.daemon.protocol == PROTOCOL


def test_parameters_reach_the_handler_as_they_were_sent(daemon: Daemon) -> None:
    params: dict[str, object] = {"from": "239.1.1.1%eth0:1", "to": [{"to": "192.0.2.1:2", "ttl": 3}]}

    with Client(daemon.path) as client:
        assert client.call("rule.add", **params) == params


def test_refusals_arrive_with_their_code_and_leave_the_connection(daemon: Daemon) -> None:
    with Client(daemon.path) as client:
        with pytest.raises(Refused, match="got 'x', expected another") as refused:
            client.call("rule.show", rule="x")

        assert refused.value.code == "no_such_rule"
        assert client.call("ping") == {}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("rule.fly", {}, "no_such_method"),
        ("stats", {}, "no_such_method"),  # exists, but this daemon has no handler for it
        ("ping", {"a": 1}, "usage"),
        ("rule.add", {}, "usage"),
        ("version", {}, "bug"),
        ("interface.list", {}, "bug"),
    ],
)
def test_wrong_requests_and_bugs_leave_the_connection(
    daemon: Daemon, method: str, params: dict[str, object], code: str
) -> None:
    with Client(daemon.path) as client:
        with pytest.raises(Refused) as refused:
            client.call(method, **params)

        assert refused.value.code == code
        assert client.call("ping") == {}


def test_a_bug_is_logged_with_its_traceback(daemon: Daemon) -> None:
    with Client(daemon.path) as client, contextlib.suppress(Refused):
        client.call("version")

    (entry,) = [entry for entry in daemon.logs if entry["level"] == "error"]
    assert entry["method"] == "version"
    assert isinstance(entry["exc_info"], ZeroDivisionError)


def test_an_answer_longer_than_a_frame_arrives_whole(daemon: Daemon) -> None:
    assert len(BIG) * 1000 > MAX_PAYLOAD_BYTES

    with Client(daemon.path) as client:
        assert client.call("rule.list") == BIG


def test_a_slow_request_does_not_delay_a_later_one(daemon: Daemon) -> None:
    with Raw(daemon.path).greet() as client:
        client.socket.sendall(encode_request(Request(1, "worker.list")) + encode_request(Request(2, "ping")))
        first = client.receive()
        daemon.release()
        second = client.receive()

    assert first == pack({"id": 2, "ok": {}})
    assert second == pack({"id": 1, "ok": []})


def test_requests_of_one_client_are_bounded_and_all_answered(daemon: Daemon) -> None:
    with Raw(daemon.path).greet() as client:
        client.socket.sendall(
            b"".join(encode_request(Request(number, "worker.list")) for number in range(10))
        )
        wait_until(lambda: daemon.running == LIMITS.in_flight)
        assert ping_s(daemon.path) < SOON_S
        daemon.release()
        answers = {client.receive() for _ in range(10)}

    assert answers == {pack({"id": number, "ok": []}) for number in range(10)}
    assert daemon.most_running == LIMITS.in_flight


def test_a_client_that_has_said_everything_still_gets_its_answers(daemon: Daemon) -> None:
    with Raw(daemon.path).greet() as client:
        client.socket.sendall(encode_request(Request(1, "worker.list")))
        client.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: daemon.running == 1)
        daemon.release()

        assert client.receive() == pack({"id": 1, "ok": []})
        assert client.is_hung_up()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "got a frame of 1195725856 bytes"),
        (struct.pack("!I", 2**31), "got a frame of 2147483648 bytes"),
        (struct.pack("!I", 5) + b"\xc1" * 5, "expected one msgpack map"),
        (encode_frame(pack({})), "expected hello"),
        (
            encode_frame(pack({"hello": {"protocol": 2, "version": "9.9"}})),
            "got control protocol 2 .*, expected 1",
        ),
        (HELLO + struct.pack("!I", 2**31), "got a frame of 2147483648 bytes"),
        (HELLO + HELLO, "expected id"),
        (HELLO + encode_frame(pack({"id": "x", "method": "ping", "params": {}})), "expected id"),
        (HELLO + encode_frame(b"\x90"), "expected a map"),
        (
            HELLO + encode_frame(pack({"id": 1, "error": {"code": "", "message": "", "details": {}}})),
            "expected id",
        ),
    ],
)
def test_garbage_is_answered_with_an_error_and_hung_up(daemon: Daemon, sent: bytes, reason: str) -> None:
    with Raw(daemon.path) as client:
        client.socket.sendall(sent)
        assert ping_s(daemon.path) < SOON_S
        failure = client.failure()

    assert failure.id is None
    assert failure.code == "protocol"
    assert re.search(reason, failure.message)


@pytest.mark.parametrize("sent", [b"", b"\0", HELLO[:-1]], ids=["nothing", "one byte", "half a hello"])
def test_a_client_without_hello_is_hung_up_in_time(daemon: Daemon, sent: bytes) -> None:
    begin = time.monotonic()
    with Raw(daemon.path) as client:
        client.socket.sendall(sent)
        assert ping_s(daemon.path) < SOON_S
        failure = client.failure()

    assert "incomplete frame" in failure.message
    # uvloop keeps time in whole milliseconds.
    assert LIMITS.hello_s - 0.002 <= time.monotonic() - begin < LIMITS.hello_s + 1


def test_a_frame_that_trickles_does_not_extend_its_deadline(daemon: Daemon) -> None:
    frame = encode_request(Request(1, "ping"))
    with Raw(daemon.path).greet() as client:
        begin = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in frame[:-1]:
                client.socket.sendall(bytes([byte]))
                time.sleep(4 * LIMITS.frame_s / len(frame))
        assert ping_s(daemon.path) < SOON_S

        assert client.failure().code == "protocol"
        assert time.monotonic() - begin < 3 * LIMITS.frame_s


def test_a_client_may_be_silent_between_frames(daemon: Daemon) -> None:
    with Raw(daemon.path).greet() as client:
        time.sleep(
            max(LIMITS.hello_s, LIMITS.frame_s) * 1.5
        )  # the only proof of a deadline that is not there
        client.socket.sendall(encode_request(Request(1, "ping")))

        assert client.receive() == pack({"id": 1, "ok": {}})


def test_a_client_that_does_not_read_is_cut_off(daemon: Daemon) -> None:
    with Raw(daemon.path).greet() as client:
        client.socket.sendall(b"".join(encode_request(Request(number, "rule.list")) for number in range(3)))
        wait_until(lambda: any("does not read" in str(entry["event"]) for entry in daemon.logs))

        assert ping_s(daemon.path) < SOON_S


def test_pings_are_answered_while_a_client_does_not_read(daemon: Daemon) -> None:
    with Raw(daemon.path).greet() as client:
        client.socket.sendall(encode_request(Request(1, "rule.list")))

        client.socket.recv(1)
        assert ping_s(daemon.path) < SOON_S


def test_surplus_clients_are_told_so_and_the_others_stay(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon.path)) for _ in range(LIMITS.clients)]
        with pytest.raises(Refused, match="got 4 clients already") as refused, Client(daemon.path):
            pass

        assert refused.value.code == "too_many_clients"
        assert [client.call("ping") for client in clients] == [{}] * LIMITS.clients

    wait_until(lambda: is_served(daemon.path))


def is_served(path: Path) -> bool:
    try:
        return ping_s(path) < SOON_S
    except Refused:
        return False


def test_the_socket_is_for_owner_and_group_only(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("uid", "groups", "group", "permitted"),
    [
        (0, {5}, None, True),
        (7, {5, 9}, 9, True),
        (7, {5}, 9, False),
        (7, {5}, None, False),
        (0, {5}, 9, True),
    ],
)
def test_root_and_the_group_may_change_things(
    uid: int, groups: set[int], group: int | None, *, permitted: bool
) -> None:
    assert may_change(Credentials(1, uid, frozenset(groups)), group) is permitted


# Everything is imported before root is given up: the interpreter may live where nobody can read.
AS_NOBODY = """
import os, sys
from mcr.client import Client
from mcr.errors import McrError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    with Client(sys.argv[1]) as client:
        print(client.call("ping"))
        client.call("rule.add", **{"from": "a", "to": []})
except McrError as error:
    print(error.code, error)
"""


def run_as_nobody(path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, os.fspath(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


@needs_root
def test_an_unprivileged_user_may_look_but_not_change(reachable_daemon: Daemon) -> None:
    reachable_daemon.path.chmod(0o666)

    assert run_as_nobody(reachable_daemon.path).splitlines() == [
        "{}",
        "not_permitted got rule.add from an unprivileged user, expected root or a member of group mcr",
    ]


@needs_root
def test_an_unprivileged_user_cannot_even_connect_by_default(reachable_daemon: Daemon) -> None:
    output = run_as_nobody(reachable_daemon.path)

    assert output.startswith("unreachable")
    assert "run this as root or as a member of group mcr" in output

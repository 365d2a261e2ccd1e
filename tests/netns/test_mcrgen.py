"""``mcrgen`` between two network namespaces, judged by its own accounts and by the kernel's counters."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

TREE = Path(__file__).resolve().parents[2]
DEADLINE_S = 30
GROUP_V4 = "239.9.1.1%{}:5001"
GROUP_V6 = "[ff3e::8000:101%{}]:5001"

# Sends exactly these datagrams from a plain socket: arguments are group, interface, a JSON list of
# [sequence, total, length sent], each 200 bytes long before it is cut.
HAND_MADE = """
import json, socket, struct, sys
from mcr._native import ffi, lib
group, interface, datagrams = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
request = struct.pack("=4s4si", b"", b"", socket.if_nametoindex(interface))
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
for sequence, total, length in datagrams:
    buffer = ffi.new("uint8_t[]", 200)
    lib.mcr_generated__write(buffer, 200, 0, sequence, total, 1)
    sock.sendto(bytes(buffer)[:length], (group, 5001))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def in_namespace(namespace: str, *arguments: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *arguments]


@dataclass(frozen=True)
class Wire:
    """Two namespaces with a veth pair; each knows its end by the same name as its namespace."""

    left: str
    right: str

    def run(self, namespace: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            in_namespace(namespace, sys.executable, *arguments),
            cwd=TREE,
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def send(self, *arguments: str, to: str = GROUP_V4, status: int = 0) -> Any:
        """Send from the left end; give the report."""
        to = to.format(self.left)
        done = self.run(self.left, "-m", "mcr.gen.main", "send", "--to", to, *arguments, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    def send_by_hand(self, *datagrams: tuple[int, int, int]) -> None:
        done = self.run(self.left, "-c", HAND_MADE, "239.9.1.1", self.left, json.dumps(datagrams))
        assert done.returncode == 0, done.stderr

    @contextmanager
    def receiving(self, *arguments: str, source: str = GROUP_V4) -> Iterator["Receiver"]:
        """Receive at the right end, from when it listens; it is gone at the end."""
        source = source.format(self.right)
        command = [sys.executable, "-m", "mcr.gen.main", "receive", "--from", source, *arguments, "--json"]
        with subprocess.Popen(
            in_namespace(self.right, *command),
            cwd=TREE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Receiver(process)
            finally:
                process.kill()


class Receiver:
    """A receiver that listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.wait_for_line("listening")

    def wait_for_line(self, beginning: str) -> str:
        """Read standard error up to a line."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + DEADLINE_S
        line = ""
        while not line.startswith(beginning):
            ready, _, _ = select.select([self.process.stderr], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no line {beginning!r} within {DEADLINE_S} s"
            line = self.process.stderr.readline()
            assert line, f"ended without a line {beginning!r}"
        return line

    def report(self, status: int = 0) -> Any:
        """Wait for the end; give the report."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == status, err
        report = json.loads(out)
        assert report["received"] == report["distinct"] + report["duplicated"] + report["stale"]
        assert report["socket_dropped"] == 0
        return report


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    # Names of interfaces have at most 15 bytes.
    left, right = (f"mcrgen-{side}{os.getpid() % 100000}" for side in "lr")
    made = []
    try:
        for namespace in (left, right):
            ip("netns", "add", namespace)
            made.append(namespace)
        ip("-n", left, "link", "add", left, "type", "veth", "peer", "name", right, "netns", right)
        for namespace, number in ((left, 1), (right, 2)):
            ip("-n", namespace, "addr", "add", f"10.99.0.{number}/24", "dev", namespace)
            ip("-n", namespace, "addr", "add", f"10.99.0.1{number}/24", "dev", namespace)
            ip("-n", namespace, "addr", "add", f"fd99::{number}/64", "dev", namespace, "nodad")
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", namespace, "up")
        yield Wire(left, right)
    finally:
        for namespace in made:
            ip("netns", "del", namespace)


@pytest.mark.parametrize("engine", ["udp", "ethernet"])
@pytest.mark.parametrize("group", [GROUP_V4, GROUP_V6], ids=["v4", "v6"])
def test_every_datagram_arrives_once_whole_and_in_order(wire: Wire, group: str, engine: str) -> None:
    with wire.receiving("--count", "20k", "--max-loss", "0", "--linger", "0.1", source=group) as receiver:
        sent = wire.send("--count", "20k", "--rate", "20k", "--size", "1001", "--engine", engine, to=group)
        got = receiver.report()

    assert sent["engine"] == engine
    assert sent["sent"] == 20_000
    assert sent["not_sent"] == 0
    assert got["distinct"] == got["received"] == 20_000
    assert got["bytes"] == sent["bytes"] == 20_000 * 1001
    assert got["ended"] == "count"
    for wrong in (
        "lost",
        "duplicated",
        "reordered",
        "corrupted",
        "foreign",
        "checksum_errors",
        "clock_behind",
    ):
        assert got[wrong] == 0, wrong
    assert 0 < got["latency_us"]["p50"] <= got["latency_us"]["p99"] <= got["latency_us"]["max"]


@pytest.mark.alone
@pytest.mark.parametrize("engine", ["udp", "ethernet"])
@pytest.mark.parametrize("group", [GROUP_V4, GROUP_V6], ids=["v4", "v6"])
def test_sixty_four_flows_lose_nothing_of_100k_datagrams(wire: Wire, group: str, engine: str) -> None:
    common = ("--count", "100k", "--flows", "64")
    with wire.receiving(*common, "--max-loss", "0", source=group) as receiver:
        wire.send(*common, "--rate", "40k", "--size", "300", "--engine", engine, to=group)
        got = receiver.report()

    assert got["distinct"] == 100_000
    assert got["silent_flows"] == got["misdirected"] == got["foreign"] == 0


def test_a_thousand_flows_can_be_told_apart(wire: Wire) -> None:
    common = ("--count", "10240", "--flows", "1024")
    with wire.receiving(*common, "--max-loss", "0") as receiver:
        memberships = wire.run(wire.right, "-c", "print(open('/proc/net/igmp').read())").stdout
        wire.send(*common, "--rate", "20k", "--size", "100")
        got = receiver.report()

    assert got["distinct"] == 10_240
    assert len(memberships.split()) > 1024
    assert "010109EF" in memberships


@pytest.mark.parametrize("group", [GROUP_V4, GROUP_V6], ids=["v4", "v6"])
def test_datagrams_above_the_mtu_leave_in_fragments(wire: Wire, group: str) -> None:
    with wire.receiving("--count", "200", "--max-loss", "0", source=group) as receiver:
        sent = wire.send("--count", "200", "--rate", "2k", "--size", "9000", to=group)
        got = receiver.report()

    assert sent["engine"] == "udp"
    assert got["bytes"] == 200 * 9000


def test_super_frames_are_split_into_their_datagrams(wire: Wire) -> None:
    with wire.receiving("--count", "1005", "--flows", "3", "--max-loss", "0") as receiver:
        wire.send("--count", "1005", "--flows", "3", "--rate", "20k", "--size", "1000", "--segment", "8")
        got = receiver.report()

    assert got["distinct"] == 1005
    assert got["messages"] == 3 * 42  # 335 = 41 x 8 + 7 datagrams of each flow
    assert got["corrupted"] == 0


def test_a_duration_tells_the_receiver_at_the_end_how_many_there_were(wire: Wire) -> None:
    with wire.receiving("--count", "1G", "--idle", "0.5", "--flows", "2") as receiver:
        sent = wire.send("--duration", "0.5", "--rate", "2k", "--size", "100", "--flows", "2")
        receiver.process.send_signal(signal.SIGTERM)
        got = receiver.report()

    assert 500 <= sent["sent"] <= 1001 + 2  # what the rate gives, and one more for each flow
    assert got["distinct"] == sent["sent"]


def test_a_unicast_destination_works_too(wire: Wire) -> None:
    with wire.receiving("--count", "100", "--max-loss", "0", source="10.99.0.2:5001") as receiver:
        sent = wire.send("--count", "100", "--rate", "10k", "--size", "100", to="10.99.0.2:5001")
        got = receiver.report()

    assert sent["engine"] == "udp"
    assert got["distinct"] == 100


@pytest.mark.parametrize("engine", ["udp", "ethernet"])
def test_only_the_wanted_source_is_received(wire: Wire, engine: str) -> None:
    common = ("--rate", "10k", "--size", "100", "--count", "100", "--engine", engine)
    wanted = "10.99.0.11@232.9.1.1%{}:5001"
    with wire.receiving("--count", "100", "--max-loss", "0", "--linger", "0.1", source=wanted) as receiver:
        wire.send(*common, to="10.99.0.1@232.9.1.1%{}:5001")
        wire.send(*common, to=wanted)
        got = receiver.report()

    assert got["received"] == got["distinct"] == 100
    assert got["duplicated"] == got["foreign"] == 0


def test_an_unwanted_source_that_another_program_joined_is_foreign(wire: Wire) -> None:
    common = ("--rate", "10k", "--size", "100", "--count", "100")
    wanted = "10.99.0.11@232.9.1.1%{}:5001"
    everybody = "232.9.1.1%{}:5001"
    with (
        wire.receiving("--count", "200", source=everybody),
        wire.receiving("--count", "100", source=wanted) as receiver,
    ):
        wire.send(*common, to="10.99.0.1@232.9.1.1%{}:5001")
        wire.send(*common, to=wanted)
        got = receiver.report()

    assert got["received"] == got["distinct"] == got["foreign"] == 100


def test_loss_repetition_and_disorder_are_each_counted(wire: Wire) -> None:
    sequences = [0, 1, 3, 2, 2, 7, 9]
    cut = (8, 10, 199)
    with wire.receiving("--count", "10", "--idle", "0.3", "--max-loss", "0") as receiver:
        wire.send_by_hand(*((sequence, 10, 200) for sequence in sequences), cut, (0, 0, 3))
        got = receiver.report(status=1)

    assert got["ended"] == "idle"
    counts = {
        "received": 7,
        "distinct": 6,
        "lost": 4,
        "duplicated": 1,
        "reordered": 1,
        "corrupted": 1,
        "foreign": 1,
    }
    assert {name: got[name] for name in counts} == counts
    assert got["problems"] == [
        "got 4 lost, 1 corrupted and 0 misdirected datagrams, expected at most 0",
    ]


def test_a_receiver_that_wants_more_than_was_sent_reports_the_rest_as_lost(wire: Wire) -> None:
    with wire.receiving("--count", "1000", "--idle", "0.3", "--max-loss", "99") as receiver:
        wire.send("--count", "900", "--rate", "10k", "--size", "100")
        got = receiver.report(status=1)

    assert got["lost"] == 100
    assert got["expected"] == 1000


def test_accepted_loss_is_no_failure(wire: Wire) -> None:
    with wire.receiving("--count", "1000", "--idle", "0.3", "--max-loss", "100") as receiver:
        wire.send("--count", "900", "--rate", "10k", "--size", "100")
        got = receiver.report(status=0)

    assert got["lost"] == 100


def test_a_silent_flow_is_not_hidden(wire: Wire) -> None:
    with wire.receiving("--duration", "1", "--flows", "3", "--max-loss", "0") as receiver:
        wire.send("--count", "200", "--rate", "10k", "--size", "100", "--flows", "2")
        got = receiver.report(status=1)

    assert got["silent_flows"] == 1
    assert got["lost"] == 100


def test_nothing_at_all_is_a_complete_loss(wire: Wire) -> None:
    with wire.receiving("--count", "50", "--wait", "0.2", "--max-loss", "49") as receiver:
        got = receiver.report(status=1)

    assert got["ended"] == "wait"
    assert got["lost"] == 50
    assert got["latency_us"]["p50"] is None


def test_a_signal_ends_the_receiver_with_a_full_report(wire: Wire) -> None:
    with wire.receiving("--count", "1000", "--wait", "60", "--idle", "60", "--progress") as receiver:
        wire.send("--count", "10", "--rate", "1k", "--size", "100")
        progress = json.loads(receiver.wait_for_line("{"))
        receiver.process.send_signal(signal.SIGINT)
        got = receiver.report()

    assert progress["kind"] == "progress"
    assert got["ended"] == "signal"
    assert got["distinct"] == 10
    assert got["lost"] == 990


def test_what_cannot_be_sent_is_reported_by_reason(wire: Wire) -> None:
    sent = wire.send("--count", "20", "--rate", "max", "--size", "100", to="203.0.113.1:5001", status=1)

    assert sent["not_sent"] == 20
    assert sent["errors"] == {"ENETUNREACH": 20}
    assert "got 0 datagrams sent, expected 20" in sent["problems"][0]


@pytest.mark.alone
def test_the_rate_is_held(wire: Wire) -> None:
    sent = wire.send("--count", "1000", "--rate", "2000", "--size", "100")

    # Never faster; a stall at the very end of the half second makes it slower.
    assert 1000 < sent["rate_pps"] < 2010

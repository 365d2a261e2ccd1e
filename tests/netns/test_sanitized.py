"""Real packets through a packet path that is built with sanitizers, in real, confined workers."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.frames import TCP, Packet
from tests.support.lab import TREE, Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.sanitized import LIBRARIES, Sanitized, build, loaded, reports
from tests.support.stream import OUTPUT, RULE, streaming
from tests.support.traffic import Inlet, Tap, receiving, send

COUNT = 1000
FAULTY = TREE / "tests" / "support" / "faulty.py"
# input, output, how it is sent, where it arrives; the port of the input is the name of the rule
FLOWS = [
    ("239.1.2.1%{}:5001", {"to": "[ff35:2::1%r1]:6001"}, {"size": 1000}, "[ff35:2::1%b0]:6001"),
    ("[ff35:1::2%{}]:5002", {"to": "239.2.2.2%r1:6002", "dscp": 46}, {"size": 1400}, "239.2.2.2%b0:6002"),
    ("239.1.2.3%{}:5003", {"to": "239.2.2.3%r1:6003"}, {"size": 5000}, "239.2.2.3%b0:6003"),
    (
        "239.1.2.4%{}:5004",
        {"to": "239.2.2.4%r1:6004", "ttl": "decrement"},
        {"size": 999, "segment": 16},
        "239.2.2.4%b0:6004",
    ),
    (
        "239.1.2.5%{}:5005",
        {"to": "239.2.2.5%r1:6005", "source": "keep"},
        {"size": 999, "segment": 16},
        "239.2.2.5%b0:6005",
    ),
    (
        "239.1.2.6%{}:5006",
        {"to": "239.2.2.6%r1:6006", "source": "keep"},
        {"size": 5000},
        "239.2.2.6%b0:6006",
    ),
    (
        "[ff35:1::7%{}]:5007",
        {"to": "[ff35:2::7%r1]:6007", "source": "keep"},
        {"size": 41},
        "[ff35:2::7%b0]:6007",
    ),
    (
        "239.7.0.0/24%{}:5008",
        {"to": "239.2.3.0/24%r1:+1000"},
        {"size": 600, "flows": 50},
        "239.2.3.1%b0:6008",
    ),
]
COPIES = {"name": "copies", "from": "239.1.2.9%r0:5009", "to": [f"239.2.4.{n}%r1:6009" for n in range(1, 21)]}


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Sanitized:
    return build(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture
def line(line: Line) -> Line:
    """Let the sink take datagrams from sources that it has no route to."""
    for device in ("all", "b0"):
        line.sink.set(f"ipv4/conf/{device}/rp_filter", "0")
    return line


def test_a_fault_in_a_confined_process_is_reported(sanitized: Sanitized) -> None:
    done = subprocess.run([sanitized.python, FAULTY], check=False, capture_output=True, text=True, timeout=20)

    assert done.returncode != 0
    assert any("heap-buffer-overflow" in line for line in reports(done.stderr)), done.stderr


def test_what_a_sanitized_worker_relays_arrives_without_a_report(
    line: Line, tmp_path: Path, sanitized: Sanitized
) -> None:
    rules = [
        {"name": given[-4:], "from": given.format("r0"), "to": [output]} for given, output, _, _ in FLOWS
    ]
    config = {"steering": "hash", "workers": 2, "rules": [*rules, COPIES, RULE]}
    daemon = Daemon(line.relay, tmp_path, config, command=sanitized.mcrd)
    with judging(daemon), daemon:
        workers = daemon.workers()
        for worker in workers:
            assert_sanitized(worker["pid"], sanitized)
        for given, _, options, arrives in FLOWS:
            relay_one(line, daemon, given, options, arrives)
        relay_copies(line, daemon)
        change_rules(line, daemon)
        send_wrong_frames(line)
        assert_conservation(daemon.stats())
        assert [worker["pid"] for worker in daemon.workers()] == [worker["pid"] for worker in workers]


@contextmanager
def judging(daemon: Daemon) -> Iterator[None]:
    """Assert that no sanitizer has said anything; whatever else went wrong, its report explains it."""
    try:
        yield
    finally:
        assert not reports(daemon.log()), daemon.log()


def assert_sanitized(pid: int | None, sanitized: Sanitized) -> None:
    assert pid is not None
    files = loaded(pid)
    assert str(sanitized.extension) in files
    for library in LIBRARIES:
        assert any(Path(file).name.startswith(library) for file in files), library


def relay_one(line: Line, daemon: Daemon, given: str, options: dict[str, int], arrives: str) -> None:
    to = given.format("a0").replace(".0/24", ".1")
    flows = options.get("flows", 1)
    with receiving(line.sink, arrives, count=COUNT, linger=0.05, flows=flows) as receiver:
        sent = send(line.source, to, rate="10k", count=COUNT, ttl=8, **options)
        assert_all_arrived(sent, receiver.report(), daemon.stats())


def relay_copies(line: Line, daemon: Daemon) -> None:
    with receiving(line.sink, "239.2.4.1%b0:6009", count=20 * 200, linger=0.05, flows=20) as receiver:
        sent = send(line.source, "239.1.2.9%a0:5009", rate="2k", size=800, count=200)
        assert_all_arrived(sent, receiver.report(), daemon.stats(), copies=20)


def change_rules(line: Line, daemon: Daemon) -> None:
    """Load table after table under traffic, with latencies read and datagrams traced."""
    with streaming(line, daemon, rate="5k", size=500) as stream, daemon.client() as client:
        client.call("trace.on", rule="stream", sample=10, seconds=60)
        for number in range(20):
            given = f"10.1.0.{number + 1}@239.1.{number}.0/28%r0:5001-5008"
            outputs = [{"to": f"239.5.0.{n}%r1:6010", "rate": "100pps"} for n in range(1, 2 + number)]
            client.call("rule.add", name=f"p{number}", to=outputs, **{"from": given})
            client.call("stats", latency=True)
        for number in range(20):
            client.call("rule.del", rule=f"p{number}")
        assert client.call("trace.show")
        outcome = stream.finish()
    assert_all_arrived(outcome.sent, outcome.got, outcome.stats)


def send_wrong_frames(line: Line) -> None:
    """Cut a frame at every length, and make it wrong in other ways; a good one comes last."""
    packet = Packet("10.1.0.1", "239.1.1.1", 5001, b"payload")
    whole, last = packet.frame(), replace(packet, payload=b"last")
    wrong = [
        packet.wrong_checksum(),
        replace(packet, options=b"\x01" * 40),
        replace(packet, protocol=TCP),
        replace(packet, vlan=7),
        replace(packet, payload=b""),
    ]
    with Inlet(line.sink, OUTPUT.format("b0")) as inlet, Tap(line.source, "a0") as tap:
        tap.send(*(whole[:length] for length in range(14, len(whole))), *(one.frame() for one in wrong))
        tap.send(last.frame())
        came = inlet.take_until(last.payload)

    assert {datagram.payload for datagram in came} <= {b"", packet.payload}

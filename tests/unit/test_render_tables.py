"""What ``mcrctl`` prints for given answers, to the letter, and with ``--json`` the answers themselves."""

import json
import time
from collections.abc import Iterator

import pytest

from mcr.cli import render
from mcr.wire.documents import (
    LatencyDocument,
    StatsDocument,
    TracedDocument,
    TraceDocument,
    UnmatchedDocument,
    WorkerDocument,
)
from tests.support.documents import IN, OUT, STATS, WORKER
from tests.support.fake_client import FakeClient, run

NOW = 1_795_172_408.0  # 2026-11-20 11:00:08 UTC

SENT: TracedDocument = {
    "worker": 0,
    "number": 1,
    "time": NOW + 0.52,
    "source": "10.0.0.9:40000",
    "ttl": 1,
    "bytes": 1000,
    "to": OUT,
    "verdict": "sent",
    "delay_us": 47.26,
}
NOT_SENT: TracedDocument = {
    **SENT,
    "worker": 11,
    "number": 2,
    "time": NOW + 1.000002,
    "source": "[2001:db8::9]:5",
    "ttl": 255,
    "bytes": 0,
    "to": None,
    "verdict": "no_buffer",
    "delay_us": 12345.0,
}
TRACE: TraceDocument = {"rule": "camera-1", "active": False, "entries": [SENT, NOT_SENT]}
TRACE_TEXT = """\
TIME             WORKER  SOURCE           TTL  BYTES  TO                   VERDICT    DELAY US
11:00:08.520000       0  10.0.0.9:40000     1   1000  239.2.2.2%eth1:6000  sent           47.3
11:00:09.000002      11  [2001:db8::9]:5  255      0  -                    no_buffer   12345.0"""

UNMATCHED: list[UnmatchedDocument] = [
    {
        "interface": "eth0",
        "group": "239.9.9.9",
        "port": 5001,
        "source": "10.0.0.9",
        "packets": 12,
        "last_seen": NOW - 3.4,
    },
    {
        "interface": "eth1.5",
        "group": "ff15::2:1",
        "port": 65535,
        "source": "fe80::9",
        "packets": 123456,
        "last_seen": NOW - 7384,
    },
    {
        "interface": "eth0",
        "group": "224.0.0.1",
        "port": 1,
        "source": "0.0.0.0",  # noqa: S104 - a host that has no address yet
        "packets": 1,
        "last_seen": NOW + 5,  # a clock that was set back
    },
]
UNMATCHED_TEXT = """\
DESTINATION               SOURCE    PACKETS  LAST SEEN
239.9.9.9%eth0:5001       10.0.0.9       12  3s
[ff15::2:1%eth1.5]:65535  fe80::9    123456  2h3m
224.0.0.1%eth0:1          0.0.0.0         1  0s"""

LATENCY: LatencyDocument = {"count": 5, "p50": 28.0, "p99": 1024.5, "p999": 2048.0, "max": 2048.0}
NO_LATENCY: LatencyDocument = {"count": 0, "p50": None, "p99": None, "p999": None, "max": None}
LATENCIES: StatsDocument = {
    **STATS,
    "rules": [
        {**STATS["rules"][0], "latency_us": LATENCY},
        {**STATS["rules"][0], "name": "b", "from": IN, "outputs": [], "latency_us": NO_LATENCY},
    ],
}
LATENCIES_TEXT = """\
INTERFACE  RECEIVED  MATCHED  IGNORED               KERNEL-DROPPED
eth0             12        5  7 (no_rule 5, tcp 2)               1

RULE      STATE   MATCHED  TO                   SENT  BYTES  NOT SENT
camera-1  active        5  239.2.2.2%eth1:6000     5   5000  0
                           192.0.2.7:6000          2   2000  3 (netunreach 3)

RULE      DATAGRAMS  P50 US  P99 US  P99.9 US  MAX US
camera-1          5    28.0  1024.5    2048.0  2048.0
b                 0       -       -         -       -"""

WORKERS: list[WorkerDocument] = [
    WORKER,
    {
        **WORKER,
        "worker": 1,
        "pid": None,
        "cpu": 12,
        "state": "down",
        "since_s": 8.0,
        "restarts": 3,
        "rules": 0,
        "expected_digest": "00000000000000ff",
        "installed_digest": "00000000000000ff",
        "resident_bytes": None,
        "ring_bytes": 0,
        "coalesce_us": None,
    },
]
WORKERS_TEXT = """\
WORKER  PID  CPU  STATE  SINCE  RESTARTS  RULES  EXPECTED          INSTALLED         MEMORY  RINGS
     0  812    3  ready  1h2m          0      2  12345678901234e5  -                 30 MiB  4.0 MiB
     1    -   12  down   8s            3      0  00000000000000ff  00000000000000ff  -       -"""

ANSWERS = {
    "trace show": (TRACE, TRACE_TEXT),
    "unmatched list": (UNMATCHED, UNMATCHED_TEXT),
    "stats --latency": (LATENCIES, LATENCIES_TEXT),
    "worker list": (WORKERS, WORKERS_TEXT),
}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let it be `NOW`, in Greenwich."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    with monkeypatch.context() as environment:
        environment.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    return FakeClient.install(monkeypatch)


@pytest.mark.parametrize("words", ANSWERS)
def test_answers_are_tables(client: type[FakeClient], capsys: pytest.CaptureFixture[str], words: str) -> None:
    client.answer, text = ANSWERS[words]

    assert run(*words.split()) == 0

    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("words", ANSWERS)
def test_answers_are_printed_as_they_are_with_json(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], words: str
) -> None:
    client.answer, _ = ANSWERS[words]

    assert run("--json", *words.split()) == 0

    assert json.loads(capsys.readouterr().out) == client.answer


@pytest.mark.parametrize(
    ("words", "empty", "text"),
    [
        ("trace show", {"rule": None, "active": False, "entries": []}, ""),
        ("unmatched list", [], "nothing unmatched\n"),
        ("stats --latency", {**STATS, "interfaces": [], "rules": []}, "no interfaces\n\nno rules\n"),
        ("worker list", [], "no workers\n"),
    ],
)
def test_nothing_is_said_as_such(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], words: str, empty: object, text: str
) -> None:
    client.answer = empty

    assert run(*words.split()) == 0

    assert capsys.readouterr().out == text


class Following(FakeClient):
    """Has a datagram more each time it is asked, and then no more."""

    def call(self, method: str, **params: object) -> object:
        super().call(method, **params)
        return [{**TRACE, "active": True, "entries": [SENT]}, {**TRACE, "entries": [NOT_SENT]}][
            len(self.asked) - 1
        ]


def test_a_trace_is_followed_from_what_was_seen_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Following.install(monkeypatch)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    assert run("trace", "show", "--follow", "--json") == 0

    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [document["entries"] for document in documents] == [[SENT], [NOT_SENT]]
    assert Following.asked == [("trace.show", {"after": {}}), ("trace.show", {"after": {"0": 1}})]
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "11:00:08.000000"), (0.5, "11:00:08.500000"), (0.9999997, "11:00:09.000000")],
)
def test_times_are_rounded_to_microseconds_as_a_whole(fraction: float, text: str) -> None:
    trace: TraceDocument = {**TRACE, "entries": [{**SENT, "time": NOW + fraction}]}

    assert render.show_trace(trace).splitlines()[1].startswith(f"{text} ")


@pytest.mark.parametrize(
    ("sample", "text"),
    [(1, "tracing every datagram of x for 60 s"), (100, "tracing one of 100 datagrams of x for 60 s")],
)
def test_what_is_traced_is_said(sample: int, text: str) -> None:
    assert render.show_tracing({"rule": "x", "sample": sample, "seconds": 60}) == text

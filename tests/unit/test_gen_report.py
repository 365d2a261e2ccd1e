import json
from dataclasses import replace

import pytest

from mcr.gen.latency import Latency
from mcr.gen.report import FlowLoss, Progress, ReceiveReport, SendReport, render

SENT = SendReport(
    to="239.1.1.1%eth0:5001",
    engine="udp",
    flows=1,
    payload_bytes=1000,
    wanted=1001,
    wanted_rate_pps=1000,
    sent=1001,
    not_sent=0,
    errors={},
    retries=0,
    bytes=1_001_000,
    seconds=1.0,
    worst_lag_us=12.5,
    interface_dropped=0,
)
RECEIVED = ReceiveReport(
    source="239.1.1.1%eth0:5001",
    flows=1,
    ended="count",
    still_arriving=False,
    expected=1001,
    received=1001,
    distinct=1001,
    lost=0,
    duplicated=0,
    stale=0,
    reordered=0,
    corrupted=0,
    foreign=0,
    misdirected=0,
    silent_flows=0,
    bytes=1_001_000,
    seconds=1.0,
    messages=1001,
    latency_us=Latency(1.0, 2.0, 3.0, 4.0),
    clock_behind=0,
    socket_dropped=0,
    checksum_errors=0,
    lossy_flows=(),
    max_loss=None,
)


def test_rates_are_between_the_first_and_the_last_datagram() -> None:
    assert SENT.rate_pps == 1000
    assert RECEIVED.rate_pps == 1000
    assert replace(RECEIVED, received=1, seconds=0.0).rate_pps == 0


def test_a_rate_that_was_not_held_is_said() -> None:
    slow = replace(SENT, wanted_rate_pps=2000)

    assert not slow.held_rate
    assert "COULD NOT HOLD THE RATE" in render(slow, as_json=False)
    assert "COULD NOT" not in render(SENT, as_json=False)
    assert replace(slow, wanted_rate_pps=0).held_rate


def test_what_was_not_sent_is_a_problem_with_its_reason() -> None:
    failed = replace(SENT, sent=1000, not_sent=1, errors={"ENETUNREACH": 1})

    assert SENT.problems() == []
    assert failed.problems() == ["got 1000 datagrams sent, expected 1001 (ENETUNREACH: 1)"]
    assert replace(SENT, sent=900).problems() == ["got 900 datagrams sent, expected 1001"]
    assert replace(failed, wanted=None).problems()


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("lost", replace(RECEIVED, lost=3)),
        ("corrupted", replace(RECEIVED, corrupted=3)),
        ("misdirected", replace(RECEIVED, misdirected=3)),
    ],
)
def test_more_than_the_accepted_loss_is_a_problem(kind: str, bad: ReceiveReport) -> None:
    assert bad.problems() == []
    assert replace(bad, max_loss=3).problems() == []
    [problem] = replace(bad, max_loss=2).problems()
    assert f"3 {kind}" in problem
    assert "expected at most 2" in problem


def test_a_silent_flow_is_a_problem_even_if_nobody_knows_how_much_is_missing() -> None:
    silent = replace(RECEIVED, flows=64, silent_flows=2)

    assert silent.problems() == []
    assert replace(silent, max_loss=0).problems() == ["got nothing for 2 of 64 flows, expected some for each"]


def test_exceptional_counts_are_shown_only_when_there_are_any() -> None:
    assert "misdirected" not in render(RECEIVED, as_json=False)
    assert "misdirected" in render(replace(RECEIVED, misdirected=1), as_json=False)
    assert "bad checksums" in render(replace(RECEIVED, checksum_errors=1), as_json=False)


def test_the_document_has_every_count() -> None:
    document = json.loads(render(replace(RECEIVED, lossy_flows=(FlowLoss("a", 1, 2),)), as_json=True))

    assert document["kind"] == "receive"
    assert document["latency_us"] == {"p50": 1.0, "p99": 2.0, "p999": 3.0, "max": 4.0}
    assert document["lossy_flows"] == [{"destination": "a", "lost": 1, "received": 2}]
    assert document["rate_pps"] == 1000
    assert json.loads(render(SENT, as_json=True))["held_rate"] is True


def test_progress_is_one_line_in_both_forms() -> None:
    progress = Progress(3, 1234.5, 6, Latency(1.0, 2.0, None, None))

    words = " ".join(progress.line(as_json=False).split())

    assert words == "3 s 1,234 pps 6 lost p50 1.0 us, p99 2.0 us"
    assert json.loads(progress.line(as_json=True))["lost"] == 6

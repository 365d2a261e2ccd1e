"""Relays that feed each other or themselves."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.lab import Lab, Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.listener import Listener, payloads_of
from tests.support.traffic import Outlet, receiving, send
from tests.support.wait import wait_for

GROUP, BACK = "239.1.1.1", "239.1.1.2"
# A loop is found after a hundred times; a batch is finished before it is broken, and there are two relays.
MOST_OF_A_LOOP = 5000
LAST = b"the last one"


@contextmanager
def a_ring_of_two_daemons(lab: Lab, directory: Path) -> Iterator[tuple[Line, Daemon, Daemon]]:
    """Let two relays pass everything on to each other: no rule of one of them feeds itself."""
    line = lab.line()
    other = line.sink
    forth = {"name": "forth", "from": f"{GROUP}%r0:5001", "to": [f"{GROUP}%r1:5001"]}
    out = {"name": "out", "from": f"{BACK}%r1:5001", "to": [f"{GROUP}%r1:5001"]}
    back = {"name": "back", "from": f"{GROUP}%b0:5001", "to": [f"{BACK}%b0:5001"]}
    for name in ("one", "two"):
        (directory / name).mkdir()
    with (
        Daemon(line.relay, directory / "one", {"rules": [forth, out]}) as one,
        Daemon(other, directory / "two", {"rules": [back]}) as two,
    ):
        yield line, one, two


def test_two_daemons_that_feed_each_other_do_not_storm(lab: Lab, tmp_path: Path) -> None:
    with a_ring_of_two_daemons(lab, tmp_path) as (line, one, two):
        with Outlet(line.source, f"{GROUP}%a0:5001", ttl=3) as outlet:
            outlet.send(b"round and round")
        wait_for("a broken loop", lambda: "loop broken" in one.log() + two.log())
        quiet = [-1]

        def is_over() -> bool:
            quiet.append(rule_stats(two.call("stats"), "back")["matched"])
            return quiet[-1] == quiet[-2] > 0

        wait_for("the end of the loop", is_over)
        stats = [one.stats(), two.stats()]
        # What comes now has its time to live, and is not lost.
        with Outlet(line.source, f"{GROUP}%a0:5001", ttl=8) as outlet:
            outlet.send(LAST)
        two.wait_for_stats("what came later", lambda now: rule_stats(now, "back")["matched"] > quiet[-1])
        log = one.log() + two.log()

    assert quiet[-1] < MOST_OF_A_LOOP
    found = [line for line in log.splitlines() if "loop broken" in line]
    assert found
    for line_of_log in found:
        assert re.search(r"rule=(out|back)\b", line_of_log), line_of_log
        assert re.search(rf"group=({re.escape(GROUP)}|{re.escape(BACK)})\b", line_of_log), line_of_log
        assert re.search(r"source=10\.2\.0\.[12]\b", line_of_log), line_of_log
    assert sum(rule["loops"] for one_stats in stats for rule in one_stats["rules"]) == len(found)
    for one_stats in stats:
        assert_conservation(one_stats)


def test_a_source_that_repeats_itself_loses_nothing(line: Line, tmp_path: Path) -> None:
    """2,000 equal datagrams a second, with a time to live of 8: no loop, however alike they are."""
    rule = {"name": "one", "from": f"{GROUP}%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    count = 4000
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, f"{GROUP}%a0:5001", ttl=8) as outlet,
    ):
        outlet.send(*[b"the same again"] * count, LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert payloads_of(came) == [b"the same again"] * count + [LAST]
    assert rule_stats(stats, "one")["loops"] == 0
    assert "loop broken" not in daemon.log()
    assert_conservation(stats)


@pytest.mark.alone
@pytest.mark.parametrize("ttl", ["auto", "decrement"])
def test_a_source_that_repeats_itself_steadily_loses_nothing_in_two_relays(
    lab: Lab, tmp_path: Path, ttl: str
) -> None:
    """2,000 equal datagrams a second for two seconds, with a time to live that lasts."""
    line, last = lab.line(), lab.host("last")
    lab.cable(line.sink, "c0", last, "d0")
    first = {"name": "first", "from": f"{GROUP}%r0:5001", "to": [{"to": f"{BACK}%r1:5001", "ttl": ttl}]}
    second = {"name": "second", "from": f"{BACK}%b0:5001", "to": [{"to": "239.2.2.2%c0:6000", "ttl": ttl}]}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        Daemon(line.relay, tmp_path / "one", {"rules": [first]}) as one,
        Daemon(line.sink, tmp_path / "two", {"rules": [second]}) as two,
        Listener(last, "239.2.2.2%d0:6000") as listener,
        Outlet(line.source, f"{GROUP}%a0:5001", ttl=8) as outlet,
    ):
        outlet.send_steadily(b"the same again", rate_pps=2000, count=4000)
        outlet.send(LAST)
        came = listener.take_until(LAST)
        stats = [one.stats(), two.stats()]
        log = one.log() + two.log()

    assert payloads_of(came) == [b"the same again"] * 4000 + [LAST]
    assert {datagram.ttl for datagram in came} == {6}
    assert [rule["loops"] for one_stats in stats for rule in one_stats["rules"]] == [0, 0]
    assert "loop broken" not in log
    for one_stats in stats:
        assert_conservation(one_stats)


@pytest.mark.alone
def test_datagrams_of_a_ttl_of_one_that_differ_lose_nothing(line: Line, tmp_path: Path) -> None:
    """What every socket sends by default is watched, and found to be no loop."""
    rule = {"name": "one", "from": f"{GROUP}%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=40_000, linger=0.1) as receiver,
    ):
        sent = send(line.source, f"{GROUP}%a0:5001", rate="40k", size=500, count=40_000, ttl=1)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert rule_stats(stats, "one")["loops"] == 0


def test_own_frames_are_not_relayed_again(line: Line, tmp_path: Path) -> None:
    """Two rules meet on one interface: what leaves there by one is no input of the other."""
    for device in ("all", "b0"):
        line.sink.set(f"ipv4/conf/{device}/rp_filter", "0")
    kept = {"interface": "r1", "address": "239.2.2.3", "port": 6000, "source": "keep"}
    rules = [
        {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000", kept]},
        {"name": "two", "from": "239.2.2.2%r1:6001", "to": ["239.3.3.3%r0:7000"]},
        {"name": "three", "from": "239.2.2.3%r1:6001", "to": ["239.3.3.3%r0:7001"]},
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000", "239.2.2.3%b0:6000") as listener,
        Outlet(line.source, "239.1.1.1%a0:5001") as outlet,
        Outlet(line.sink, "239.2.2.2%b0:6001") as probe,
    ):
        outlet.send(*[b"once"] * 50)
        assert payloads_of([listener.take() for _ in range(100)]) == [b"once"] * 100
        probe.send(LAST)
        stats = daemon.wait_for_stats("the probe", lambda now: rule_stats(now, "two")["matched"] == 1)

    assert rule_stats(stats, "three")["matched"] == 0
    received = next(one["received"] for one in stats["interfaces"] if one["name"] == "r1")
    assert received == 1
    assert ignored(stats, "r1") == {}
    assert_conservation(stats)

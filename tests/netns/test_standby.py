"""The timer that a worker keeps pending while datagrams come one by one (``native/src/standby.h``)."""

from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import receiving, sending
from tests.support.wait import wait_for

COUNT = 20_000
RULE = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}


def one_shots(daemon: Daemon) -> Iterator[str]:
    """Give what is left of each worker's timers that do not repeat (proc_pid_fdinfo(5))."""
    for worker in daemon.workers():
        for path in Path(f"/proc/{worker['pid']}/fdinfo").iterdir():
            fields = dict(line.split(":", 1) for line in path.read_text("ascii").splitlines() if ":" in line)
            if fields.get("it_interval", "").strip() == "(0, 0)":
                yield fields["it_value"].strip()


def is_pending(daemon: Daemon) -> bool:
    return any(left != "(0, 0)" for left in one_shots(daemon))


def test_a_timer_is_pending_while_datagrams_are_close_and_only_then(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
    ):
        before = [is_pending(daemon) for _ in range(10)]
        with sending(line.source, "239.1.1.1%a0:5001", rate="10k", size=100, count=COUNT) as sender:
            wait_for("a pending timer", lambda: is_pending(daemon))
            sent = sender.report()
        got = receiver.report()
        after = [is_pending(daemon) for _ in range(10)]
        assert len(list(one_shots(daemon))) == len(daemon.workers())
        assert_all_arrived(sent, got, daemon.stats())

    assert before == after == [False] * 10

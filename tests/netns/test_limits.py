"""Kernels that grant little."""

import random
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import receiving, send

GROUPS = 2_000
KEEPERS = 1_000


def test_two_thousand_rules_pass_where_sockets_get_little_memory_for_options(
    line: Line, tmp_path: Path
) -> None:
    """20,480 bytes, which a filter counts against, are what Linux before 6.7 grants."""
    line.relay.set("core/optmem_max", "20480")
    numbers = random.Random(3).sample(range(1 << 16), GROUPS)
    rules = [
        {"from": f"239.1.{number >> 8}.{number & 255}%r0:5001", "to": ["239.2.2.2%r1:6000"]}
        for number in numbers
    ]
    group = rules[-1]["from"]
    assert isinstance(group, str)
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=1000, wait=2, linger=0.1) as receiver,
    ):
        sent = send(line.source, group.replace("r0", "a0"), rate="10k", size=100, count=1000)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


def test_a_thousand_outputs_that_keep_the_source_are_gone_in_time(line: Line, tmp_path: Path) -> None:
    """The kernel takes 10 ms and more to close a packet socket; leaving `Daemon` asserts an end in time."""
    line.sink.set("ipv4/conf/all/rp_filter", "0")
    line.sink.set("ipv4/conf/b0/rp_filter", "0")
    groups = [f"239.1.{number >> 8}.{number & 255}" for number in range(KEEPERS)]
    to = {"to": "keep%r1", "source": "keep"}
    rules = [{"from": f"{group}%r0:5001", "to": [to]} for group in groups]
    with Daemon(line.relay, tmp_path, {"rules": rules}):
        for group in (groups[0], groups[-1]):
            with receiving(line.sink, f"{group}%b0:5001", count=500, linger=0.1) as receiver:
                sent = send(line.source, f"{group}%a0:5001", rate="10k", size=100, count=500)
                got = receiver.report()
            assert (sent["sent"], got["received"], got["lost"]) == (500, 500, 0)

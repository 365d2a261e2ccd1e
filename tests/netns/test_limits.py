"""Kernels that grant little."""

import random
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import receiving, send

GROUPS = 2_000


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

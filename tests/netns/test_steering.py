"""Every frame reaches exactly one worker, and that worker has its rule."""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from mcr.model.endpoint import consecutive, parse_endpoint
from mcr.model.steering import rule_hash
from tests.support.daemon import Daemon
from tests.support.lab import Lab, Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import receiving, send, sending
from tests.support.wait import wait_for

FLOWS = 64
COUNT = 12_800
CPUS = sorted(os.sched_getaffinity(0))


def output_of(cpu: int, device: str) -> str:
    """Give the first output of a CPU's flows; on one port the receivers would hear each other's groups."""
    return f"239.2.{cpu}.1%{device}:{6000 + cpu}"


def rules_for_flows() -> Iterator[dict[str, object]]:
    """Give one rule for every flow from every CPU."""
    for cpu in CPUS:
        inputs = consecutive(parse_endpoint(f"239.1.{cpu}.1%r0:5001"), FLOWS)
        outputs = consecutive(parse_endpoint(output_of(cpu, "r1")), FLOWS)
        for number, (source, output) in enumerate(zip(inputs, outputs, strict=True)):
            yield {"name": f"{cpu}-{number}", "from": str(source), "to": [str(output)]}


def random_rules(count: int) -> list[dict[str, object]]:
    """Give rules with random groups and ports, always the same ones."""
    dice = random.Random(2)
    rules: list[dict[str, object]] = []
    for number in range(count):
        port = dice.randrange(1024, 65536)
        v4 = IPv4Address("239.0.0.0") + dice.randrange(1 << 24)
        v6 = IPv6Address("ff3e::8000:0") + dice.randrange(1 << 31)
        source = f"{v4}%r0:{port}" if dice.random() < 0.7 else f"[{v6}%r0]:{port}"
        rules.append({"name": f"n{number}", "from": source, "to": ["239.2.2.2%r1:6000"]})
    return rules


@pytest.mark.parametrize("steering", ["cpu", "hash"])
def test_every_packet_of_64_flows_from_every_cpu_is_relayed_exactly_once(
    line: Line, tmp_path: Path, steering: str
) -> None:
    config = {"steering": steering, "rules": [*rules_for_flows()]}
    common = {"flows": FLOWS, "count": COUNT}
    with Daemon(line.relay, tmp_path, config) as daemon, ExitStack() as stack:
        receivers = [
            stack.enter_context(receiving(line.sink, output_of(cpu, "b0"), **common, linger=0.2))
            for cpu in CPUS
        ]
        senders = [
            stack.enter_context(
                sending(line.source, f"239.1.{cpu}.1%a0:5001", **common, rate="10k", size=500, cpu=cpu)
            )
            for cpu in CPUS
        ]
        reports = [
            (sender.report(), receiver.report()) for sender, receiver in zip(senders, receivers, strict=True)
        ]
        rules, workers, interface = daemon.rules(), daemon.workers(), daemon.interface("r0")
        stats = daemon.stats()

    for sent, got in reports:
        assert_all_arrived(sent, got, stats)
    everybody = [worker["worker"] for worker in workers]
    assert interface["steering"] == steering
    assert len(rules) == FLOWS * len(CPUS)
    for rule in rules:
        assert rule["workers"] == everybody if steering == "cpu" else len(rule["workers"]) == 1


@pytest.mark.parametrize("workers", [2, 4])
def test_a_thousand_random_rules_are_shared_fairly_under_hash(
    line: Line, tmp_path: Path, workers: int
) -> None:
    config = {"steering": "hash", "workers": workers, "rules": random_rules(1000)}
    with Daemon(line.relay, tmp_path, config) as daemon:
        shares = [worker["rules"] for worker in daemon.workers()]
        rules = daemon.rules()

    assert sum(shares) == 1000
    assert max(shares) <= 1.25 * 1000 / workers
    for rule in rules:
        source = parse_endpoint(rule["from"])
        assert rule["workers"] == [rule_hash(source.address, source.port) % workers]


def test_every_worker_holds_every_rule_under_cpu(line: Line, tmp_path: Path) -> None:
    config = {"steering": "cpu", "workers": 2, "rules": random_rules(1000)}
    with Daemon(line.relay, tmp_path, config) as daemon:
        workers = daemon.workers()

    assert [worker["rules"] for worker in workers] == [1000, 1000]
    assert workers[0]["installed_digest"] == workers[1]["installed_digest"]


@pytest.mark.parametrize(("queues", "steering"), [(1, "hash"), (2, "cpu")])
def test_auto_steering_follows_the_receive_queues(
    lab: Lab, tmp_path: Path, queues: int, steering: str
) -> None:
    line = lab.line(queues=queues)
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with Daemon(line.relay, tmp_path, {"workers": 2, "rules": [rule]}) as daemon:
        interface = daemon.interface("r0")

    assert (interface["steering"], interface["receive_queues"]) == (steering, queues)
    assert str(queues) in interface["reason"]


def test_hash_steering_stays_exact_after_the_interface_was_down(line: Line, tmp_path: Path) -> None:
    config = {"steering": "hash", "workers": 4, "rules": [*rules_for_flows()]}
    with Daemon(line.relay, tmp_path, config) as daemon:
        line.relay.ip("link set r0 down")
        daemon.wait_for_rules("pending")
        line.relay.ip("link set r0 up")
        daemon.wait_for_rules("active")
        daemon.wait_until_open()
        wait_for("a0 to be up", lambda: line.source.is_up("a0"))
        with receiving(line.sink, output_of(0, "b0"), flows=FLOWS, count=COUNT, linger=0.2) as receiver:
            sent = send(line.source, "239.1.0.1%a0:5001", flows=FLOWS, count=COUNT, rate="10k", size=500)
            got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)

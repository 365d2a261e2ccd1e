"""The conservation laws that every packet test asserts, and what it means that nothing was lost."""

from pathlib import Path
from typing import Any

from mcr.wire.documents import StatsDocument

WRONG = ("lost", "duplicated", "corrupted", "misdirected", "foreign", "stale", "silent_flows")


def assert_conservation(stats: StatsDocument) -> None:
    """Everything that was received has a fate, and so has everything that was matched, at each output."""
    assert stats["consistent"] is True
    for interface in stats["interfaces"]:
        fates = interface["matched"] + sum(interface["ignored"].values())
        assert interface["received"] == fates, interface
    for rule in stats["rules"]:
        for output in rule["outputs"]:
            assert rule["matched"] == output["sent"] + sum(output["not_sent"].values()), rule


def assert_all_arrived(sent: Any, got: Any, stats: StatsDocument, *, copies: int = 1) -> None:
    """
    Every datagram that mcrgen sent was received once and whole, at each of so many addresses.

    A failure says where it got lost.
    """
    evidence = where_lost(sent, got, stats)
    assert sent["not_sent"] == 0, evidence
    assert got["received"] == got["distinct"] == copies * sent["sent"], evidence
    assert {name: got[name] for name in WRONG} == dict.fromkeys(WRONG, 0), evidence
    assert_conservation(stats)


def where_lost(sent: Any, got: Any, stats: StatsDocument) -> str:
    """Say what every station from sender to receiver has counted, in the order of the stations."""
    outputs = [output for rule in stats["rules"] for output in rule["outputs"]]
    stations = {
        "sender": {name: sent[name] for name in ("sent", "not_sent", "interface_dropped", "worst_lag_us")},
        "backlogs of all CPUs dropped since the machine started": softnet_dropped(),
        "interfaces": stats["interfaces"],
        "all rules matched": sum(rule["matched"] for rule in stats["rules"]),
        "all outputs sent": sum(output["sent"] for output in outputs),
        "not sent": [output["not_sent"] for output in outputs if output["not_sent"]],
        "receiver": {name: got[name] for name in ("ended", "received", "distinct", "socket_dropped", *WRONG)},
    }
    return "\n".join(f"{name}: {counted}" for name, counted in stations.items())


def softnet_dropped() -> int:
    """
    Count frames that the kernel dropped between two interfaces because a CPU's backlog was full.

    Source: softnet_seq_show() in net/core/net-procfs.c: hexadecimal, one line per CPU, the second column.
    """
    lines = Path("/proc/net/softnet_stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1], 16) for line in lines)

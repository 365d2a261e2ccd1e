"""The figures of a trial: what they are called, and how they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: its heading, what it means, how it is written, and by what it is divided for that."""

    title: str
    meaning: str
    format: str = "{:,.0f}"
    unit: float = 1

    def text(self, value: float | None) -> str:
        """Write a value; a dash for one that this relay does not have."""
        return "-" if value is None else self.format.format(value / self.unit)


METRICS: Mapping[str, Metric] = {
    "offered_pps": Metric("offered kpps", "sent by the sender, per second", "{:,.1f}", 1000),
    "crowd_pps": Metric("crowd kpps", "sent to groups that have no rule, per second", "{:,.1f}", 1000),
    "relayed_pps": Metric("relayed kpps", "arrived at the receiver, per second", "{:,.1f}", 1000),
    "sent": Metric("sent", "datagrams that the sender sent"),
    "received": Metric("received", "distinct datagrams that arrived"),
    "lost": Metric("lost", "datagrams that should have arrived and did not"),
    "wrong": Metric("wrong", "repeated, corrupted, misdirected or foreign datagrams"),
    "ring_dropped": Metric("dropped at ring", "no room in the receive rings of mcr"),
    "backlog_dropped": Metric("dropped in backlog", "no room in the queue between two ends of a veth"),
    "receiver_dropped": Metric("dropped at receiver", "no room in the receiver's socket, in pieces"),
    "not_sent": Metric("not sent", "received by mcr and not relayed, by its own counters"),
    "batch": Metric("per call", "datagrams that arrived in one piece, as they left in one call", "{:,.1f}"),
    "relay_ns": Metric("relay ns", "CPU time of the relay's processes, per datagram that arrived"),
    "busy_ns": Metric(
        "busy ns", "busy time of all CPUs, sender and sink included, per datagram that arrived"
    ),
    "relay_percent": Metric("relay CPU %", "CPU time of the relay's processes, of one CPU", "{:,.2f}"),
    "least_share": Metric("least share", "of that, the part of the least busy worker", "{:.2f}"),
    "p50_us": Metric("p50 us", "median latency from sender to receiver"),
    "p99_us": Metric("p99 us", "latency that one datagram in a hundred exceeds"),
    "steal_percent": Metric("steal %", "time that the hypervisor gave to others", "{:,.1f}"),
    "others_percent": Metric("others %", "how busy the CPUs were before, with other things", "{:,.0f}"),
    "daemon_percent": Metric("CPU %", "CPU time of the whole daemon, of one CPU", "{:,.3f}"),
    "resident_mib": Metric("resident MiB", "memory of the largest worker, without its rings", "{:,.1f}"),
    "ring_mib": Metric("rings MiB", "receive rings of that worker", "{:,.1f}"),
    "shown_resident_mib": Metric("shown resident", "the same as `mcrctl worker list` has it", "{:,.1f}"),
    "shown_ring_mib": Metric("shown rings", "the same as `mcrctl worker list` has it", "{:,.1f}"),
}


def medians(samples: Sequence[Sample]) -> Sample:
    """Give the median of each figure that every sample has."""
    names = [name for name in METRICS if samples and all(name in sample for sample in samples)]
    return {name: median(sample[name] for sample in samples) for name in names}

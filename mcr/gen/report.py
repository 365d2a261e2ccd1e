"""What was sent and what was received: values, a table for people, a document for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mcr.gen.latency import Latency

HELD_SHARE = 0.98  # of the wanted rate; below it the report says that the rate could not be held
SHOWN_FLOWS = 10


@dataclass(frozen=True, slots=True)
class FlowLoss:
    """One destination where datagrams are missing."""

    destination: str
    lost: int
    received: int


@dataclass(frozen=True, slots=True)
class SendReport:
    """
    What a sender did.

    Attributes:
        wanted: datagrams asked for, None if it was a duration.
        wanted_rate_pps: 0 stands for as fast as it goes.
        errors: datagrams that were not sent, by the name of the error.
        retries: times that the kernel had no buffer and was asked again.
        worst_lag_us: longest delay of a datagram behind its time.
        interface_dropped: by the interface on the way out meanwhile, whoever sent them; None if unknown.
    """

    to: str
    engine: str
    flows: int
    payload_bytes: int
    wanted: int | None
    wanted_rate_pps: float
    sent: int
    not_sent: int
    errors: Mapping[str, int]
    retries: int
    bytes: int
    seconds: float
    worst_lag_us: float
    interface_dropped: int | None

    @property
    def rate_pps(self) -> float:
        """Datagrams per second between the first and the last burst."""
        return rate(self.sent, self.seconds)

    @property
    def held_rate(self) -> bool:
        """Say whether the wanted rate was reached."""
        return (
            self.wanted_rate_pps == 0 or self.sent <= 1 or self.rate_pps >= HELD_SHARE * self.wanted_rate_pps
        )

    def problems(self) -> list[str]:
        """Say why the sending failed; empty if it did not."""
        expected = self.sent + self.not_sent if self.wanted is None else self.wanted
        if self.sent >= expected:
            return []
        return [f"got {self.sent} datagrams sent, expected {expected}{_in_words(self.errors)}"]

    def document(self) -> dict[str, object]:
        """Give the JSON document."""
        derived = {"rate_pps": round(self.rate_pps, 1), "held_rate": self.held_rate}
        return {"kind": "send", **asdict(self), **derived, "problems": self.problems()}

    def rows(self) -> list[tuple[str, str]]:
        """Give the lines of the table."""
        wanted = "max" if self.wanted_rate_pps == 0 else f"{self.wanted_rate_pps:,.0f}"
        held = "" if self.held_rate else "   COULD NOT HOLD THE RATE"
        rows = [
            ("to", f"{self.to}, {self.flows} flows" if self.flows > 1 else self.to),
            ("engine", self.engine),
            ("sent", f"{self.sent:,} datagrams of {self.payload_bytes:,} bytes"),
            ("not sent", f"{self.not_sent:,}{_in_words(self.errors)}"),
            ("seconds", f"{self.seconds:.3f}"),
            ("rate", f"{self.rate_pps:,.0f} pps, wanted {wanted}{held}"),
            ("worst lag", f"{self.worst_lag_us:,.0f} us"),
        ]
        if self.interface_dropped:
            rows.append(("interface", f"{self.interface_dropped:,} dropped on the way out"))
        return rows


@dataclass(frozen=True, slots=True)
class ReceiveReport:
    """
    What a receiver saw.

    Attributes:
        ended: why it stopped: count, idle, wait, duration or signal.
        still_arriving: datagrams were still coming then.
        lost: announced by the sender and missing, or missing between those that came; what a sender had still
            to send when a duration or a signal ended the receiver is among them.
        expected: distinct datagrams asked for, None if it was a duration.
        received: whole datagrams of ours, repeated ones included.
        distinct: the same without repetitions.
        stale: so far behind that a repetition could not be told; not distinct.
        corrupted: ours, but header, length or content wrong.  They are not received, so they are lost too.
        foreign: not from mcrgen, or not from a sender or for a flow that was asked for.
        misdirected: of another flow than the first datagram at that destination.
        silent_flows: destinations at which nothing arrived.
        messages: reads of the socket; fewer than datagrams where the kernel merged some.
        clock_behind: datagrams that arrived before they were sent; their latency counts as 0.
        socket_dropped: dropped by the kernel at this socket because the receiver was slow, or by checksum;
            what arrived in one piece counts as one.
        checksum_errors: wrong UDP checksums meanwhile, at any socket of this network namespace.
        lossy_flows: the destinations that miss most, at most SHOWN_FLOWS of them.
        max_loss: lost, corrupted and misdirected datagrams that are accepted; None accepts all.
    """

    source: str
    flows: int
    ended: str
    still_arriving: bool
    expected: int | None
    received: int
    distinct: int
    lost: int
    duplicated: int
    stale: int
    reordered: int
    corrupted: int
    foreign: int
    misdirected: int
    silent_flows: int
    bytes: int
    seconds: float
    messages: int
    latency_us: Latency
    clock_behind: int
    socket_dropped: int
    checksum_errors: int
    lossy_flows: Sequence[FlowLoss]
    max_loss: int | None

    @property
    def rate_pps(self) -> float:
        """Datagrams per second between the first and the last."""
        return rate(self.received, self.seconds)

    def problems(self) -> list[str]:
        """Say why this is not what --max-loss accepts; empty if it is, or without --max-loss."""
        if self.max_loss is None:
            return []
        problems = []
        if self.lost + self.corrupted + self.misdirected > self.max_loss:
            got = f"{self.lost} lost, {self.corrupted} corrupted and {self.misdirected} misdirected datagrams"
            problems.append(f"got {got}, expected at most {self.max_loss}")
        if self.silent_flows:
            problems.append(
                f"got nothing for {self.silent_flows} of {self.flows} flows, expected some for each"
            )
        return problems

    def document(self) -> dict[str, object]:
        """Give the JSON document."""
        return {
            "kind": "receive",
            **asdict(self),
            "rate_pps": round(self.rate_pps, 1),
            "problems": self.problems(),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Give the lines of the table."""
        latency, expected = self.latency_us, "" if self.expected is None else f", expected {self.expected:,}"
        rows = [
            ("from", f"{self.source}, {self.flows} flows" if self.flows > 1 else self.source),
            ("ended by", self.ended + (", datagrams still arriving" if self._is_cut_short else "")),
            ("received", f"{self.received:,} datagrams, {self.distinct:,} distinct{expected}"),
            ("lost", f"{self.lost:,}"),
            ("duplicated", f"{self.duplicated:,}"),
            ("reordered", f"{self.reordered:,}"),
            ("corrupted", f"{self.corrupted:,}"),
            ("foreign", f"{self.foreign:,}"),
            ("socket dropped", f"{self.socket_dropped:,}"),
            ("bytes", f"{self.bytes:,}"),
            ("seconds", f"{self.seconds:.3f}"),
            ("rate", f"{self.rate_pps:,.0f} pps"),
            (
                "latency",
                latency.line(),
            ),
        ]
        return rows + self._exceptional_rows()

    @property
    def _is_cut_short(self) -> bool:
        return self.still_arriving and self.ended != "count"

    def _exceptional_rows(self) -> list[tuple[str, str]]:
        """Give lines for what is normally zero."""
        counts = {
            "stale": self.stale,
            "misdirected": self.misdirected,
            "silent flows": self.silent_flows,
            "bad checksums": self.checksum_errors,
            "clock behind": self.clock_behind,
        }
        rows = [(name, f"{count:,}") for name, count in counts.items() if count]
        rows += [
            ("", f"{flow.destination}: {flow.lost:,} lost, {flow.received:,} received")
            for flow in self.lossy_flows
        ]
        return rows


@dataclass(frozen=True, slots=True)
class Progress:
    """What the last second brought; *lost* counts from the beginning and knows only gaps."""

    second: int
    rate_pps: float
    lost: int
    latency_us: Latency

    def line(self, *, as_json: bool) -> str:
        """Give one line of progress."""
        if as_json:
            return json.dumps({"kind": "progress", **asdict(self)})
        return (
            f"{self.second:4} s  {self.rate_pps:>11,.0f} pps  {self.lost:>9,} lost  {self.latency_us.line()}"
        )


def rate(count: int, seconds: float) -> float:
    """Give the rate of *count* events of which the first and the last are *seconds* apart."""
    return (count - 1) / seconds if seconds > 0 and count > 1 else 0.0


def render(report: SendReport | ReceiveReport, *, as_json: bool) -> str:
    """Give the report as one JSON document or as an aligned table."""
    if as_json:
        return json.dumps(report.document())
    rows = report.rows()
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _in_words(errors: Mapping[str, int]) -> str:
    return " (" + ", ".join(f"{name}: {count:,}" for name, count in errors.items()) + ")" if errors else ""

"""Percentiles of the histogram that the C loop keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from mcr._native import lib


@dataclass(frozen=True, slots=True)
class Latency:
    """
    Microseconds from a datagram's send time to its arrival in the receiving kernel.

    None where no datagram arrived; *max* also where only an interval is looked at.
    """

    p50: float | None
    p99: float | None
    p999: float | None
    max: float | None

    def line(self) -> str:
        """Give what is known in one line."""
        values = {"p50": self.p50, "p99": self.p99, "p99.9": self.p999, "max": self.max}
        known = [f"{name} {value:,.1f} us" for name, value in values.items() if value is not None]
        return ", ".join(known) or "-"


def percentile_ns(buckets: Sequence[int], share: float) -> float | None:
    """
    Give the value below or at which *share* of all values lie, None if there are none.

    *buckets* are counts as in ``mcr_measure_tally.latency``; the result is off by less than 2 %.
    """
    total = sum(buckets)
    if not total:
        return None
    rank = max(1, -int(-share * total // 1))
    for bucket, count in enumerate(buckets):
        rank -= count
        if rank <= 0:
            return _middle(bucket)
    return None


def latency_us(buckets: Sequence[int], max_ns: int | None) -> Latency:
    """Give the percentiles of a histogram; *max_ns*, if known, is exact and bounds them."""
    values = [percentile_ns(buckets, share) for share in (0.5, 0.99, 0.999)]
    bound = float("inf") if max_ns is None else max_ns
    p50, p99, p999 = (None if value is None else round(min(value, bound) / 1e3, 3) for value in values)
    known_max = None if max_ns is None or p50 is None else max_ns / 1e3
    return Latency(p50, p99, p999, known_max)


def _middle(bucket: int) -> float:
    low, high = lib.mcr_latency__lower_bound(bucket), lib.mcr_latency__lower_bound(bucket + 1)
    return float(low + (high - low - 1) / 2)

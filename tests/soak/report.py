"""What a soak says about itself."""

from collections.abc import Iterable
from dataclasses import dataclass

from tabulate import tabulate

from tests.soak.watch import Holding


@dataclass(frozen=True, slots=True)
class Figures:
    """What was done and seen since the beginning."""

    seconds: float
    rules: int
    adds: int
    removes: int
    kills: int
    steady_sent: int
    steady_received: int
    passing_sent: int
    passing_received: int
    repeated: int
    overflowed: int
    truncated: int
    starved_rounds: int
    looks: int
    slowest_install_s: float
    slowest_restart_s: float

    def line(self) -> str:
        """Write what can be said in between: steady flows are counted when they end."""
        return (
            f"{self.seconds:6.0f} s: {self.rules} rules, {self.adds} added, {self.removes} removed, "
            f"{self.kills} kills; sent {self.steady_sent:,} steady and {self.passing_sent:,} passing, "
            f"received {self.steady_received:,} and {self.passing_received:,}; laws held {self.looks:,} times"
        )


def summary(figures: Figures, first: Iterable[Holding], last: Iterable[Holding]) -> str:
    """Write the tables that end a soak."""
    rows = [
        ("seconds", f"{figures.seconds:.0f}"),
        ("rules added", f"{figures.adds:,}"),
        ("rules removed", f"{figures.removes:,}"),
        ("workers killed", f"{figures.kills:,}"),
        ("datagrams sent, steady flows", f"{figures.steady_sent:,}"),
        ("datagrams received, steady flows", f"{figures.steady_received:,}"),
        ("datagrams sent, passing rules", f"{figures.passing_sent:,}"),
        ("datagrams received, passing rules", f"{figures.passing_received:,}"),
        ("received twice after a kill", f"{figures.repeated:,}"),
        ("frames without room in a ring", f"{figures.overflowed:,}"),
        ("frames longer than one of the ring, lost at a kill", f"{figures.truncated:,}"),
        ("rounds in which a worker waited long for its CPU", f"{figures.starved_rounds:,}"),
        ("laws checked", f"{figures.looks:,}"),
        ("slowest change until all workers had it", f"{figures.slowest_install_s * 1e3:.0f} ms"),
        ("slowest restart until all was through", f"{figures.slowest_restart_s * 1e3:.0f} ms"),
    ]
    holdings = [
        (was.name, f"{was.resident_kib:,}", f"{now.resident_kib:,}", was.descriptors, now.descriptors)
        for was, now in zip(first, last, strict=True)
    ]
    head = ("in rest", "KiB first", "KiB last", "descriptors first", "last")
    return "\n\n".join(
        (
            tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right")),
            tabulate(
                holdings, head, tablefmt="simple", disable_numparse=True, colalign=("left", *["right"] * 4)
            ),
        )
    )

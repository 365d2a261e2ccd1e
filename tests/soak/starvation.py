"""Whether workers got their CPU when they could have used it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

LONG_S = 0.25  # of the 0.7 s after which a ring overflows at the rates of a soak, together with what waits
LONG_PART = 0.25
NS_PER_S = 1e9


@dataclass
class Starvation:
    """
    Looks how long the workers have waited for a CPU, again and again.

    Workers are pinned: on a busy machine one of them may get nothing while everything else runs, and then
    its ring overflows by no fault of its own.
    """

    is_found: bool = False
    _before: Mapping[int, float] = field(default_factory=dict)
    _at_s: float = field(default_factory=monotonic)

    def look(self, pids: Iterable[int]) -> None:
        """Compare the workers with the last look."""
        now_s, waited = monotonic(), {pid: waited_s(pid) for pid in pids}
        longest_s = max(
            (waited[pid] - self._before[pid] for pid in waited.keys() & self._before.keys()), default=0.0
        )
        self.is_found |= is_long(longest_s, now_s - self._at_s)
        self._before, self._at_s = waited, now_s


def is_long(waited_s: float, elapsed_s: float) -> bool:
    """Say whether a worker that waited so long for its CPU may have let a ring overflow."""
    return waited_s >= max(LONG_S, LONG_PART * elapsed_s)


def waited_s(pid: int) -> float:
    """
    Give how long a process could have run and did not, in seconds.

    Source: Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat; a worker has one thread.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / NS_PER_S
    except FileNotFoundError:
        return 0.0  # it was killed

"""
CPU time, from what the kernel counts.

A process's time is that of /proc/PID/task/TID/schedstat.  On a kernel without CONFIG_IRQ_TIME_ACCOUNTING it
includes the softirqs that ran while the process did: with veth, who sends is charged for the receiving stack.

The machine's busy time is what its CPUs were not idle.  With NO_HZ idle time is measured, while the split of
the rest into user, system and softirq in /proc/stat is only sampled.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NS_PER_S = 1e9
LOOK_AROUND_S = 0.3
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # columns of /proc/stat (proc(5))


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU times at one moment, in seconds."""

    at_s: float
    cpus: int
    idle_s: float
    steal_s: float
    processes_s: dict[int, float]

    @classmethod
    def take(cls, pids: Iterable[int]) -> Self:
        """Read the clocks of the machine and of some processes."""
        hertz = os.sysconf("SC_CLK_TCK")
        rows = [line.split() for line in Path("/proc/stat").read_text("ascii").splitlines()]
        cpus = [list(map(int, row[1:])) for row in rows if row[0].startswith("cpu") and row[0] != "cpu"]
        return cls(
            at_s=time.monotonic(),
            cpus=len(cpus),
            idle_s=sum(row[_IDLE] + row[_IOWAIT] for row in cpus) / hertz,
            steal_s=sum(row[_STEAL] for row in cpus) / hertz,
            processes_s={pid: process_s(pid) for pid in pids},
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """
    CPU times between two readings, in seconds.

    Attributes:
        elapsed_s: of the clock.
        busy_s: of all CPUs together.
        steal_s: that the hypervisor gave to others, of all CPUs together; not in *busy_s*.
        processes_s: of each process.
    """

    elapsed_s: float
    busy_s: float
    steal_s: float
    processes_s: Sequence[float]

    @classmethod
    def between(cls, before: Reading, after: Reading) -> Self:
        """Subtract."""
        elapsed_s = after.at_s - before.at_s
        steal_s = after.steal_s - before.steal_s
        unused_s = after.idle_s - before.idle_s + steal_s
        return cls(
            elapsed_s=elapsed_s,
            busy_s=max(0.0, elapsed_s * after.cpus - unused_s),
            steal_s=steal_s,
            processes_s=[after.processes_s[pid] - was_s for pid, was_s in before.processes_s.items()],
        )


def process_s(pid: int) -> float:
    """Give the CPU time of a process, all threads, in seconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / NS_PER_S


def watch_others() -> float:
    """Give how busy the CPUs are, in percent, while nothing of the benchmarks is running."""
    before = Reading.take(())
    time.sleep(LOOK_AROUND_S)
    after = Reading.take(())
    usage = Usage.between(before, after)
    return 100 * usage.busy_s / (usage.elapsed_s * after.cpus)

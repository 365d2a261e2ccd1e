"""Trials without traffic: what a daemon takes that has nothing to do, and how much memory."""

import re
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bench.cpu import Reading, Usage, watch_others
from tests.bench.job import Job
from tests.bench.metrics import Sample
from tests.bench.relays import RELAYS, Settings
from tests.bench.stage import Stage
from tests.support.daemon import Daemon, descendants

CALM_S = 1.0  # after its start
MIB = 1 << 20
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")


def rest(stage: Stage, job: Job, settings: Settings, seconds: float) -> Sample:
    """Let a daemon with the rules of *job* alone for *seconds*."""
    others_percent = watch_others()
    with RELAYS["mcr"].start(stage, job, settings) as running:
        (daemon,) = running.daemons
        pids = [daemon.pid, *(process.pid for process in descendants(daemon.pid))]
        time.sleep(CALM_S)
        began = Reading.take(pids)
        time.sleep(seconds)
        usage = Usage.between(began, Reading.take(pids))
        return {
            "others_percent": others_percent,
            "daemon_percent": 100 * sum(usage.processes_s) / usage.elapsed_s,
            **_memory(daemon),
        }


def _memory(daemon: Daemon) -> Sample:
    """Compare what the kernel says about each worker's memory with what the daemon says."""
    workers = [
        {
            **_mapped(worker["pid"]),
            "shown_resident_mib": (worker["resident_bytes"] or 0) / MIB,
            "shown_ring_mib": worker["ring_bytes"] / MIB,
        }
        for worker in daemon.workers()
        if worker["pid"]
    ]
    return max(workers, key=lambda worker: worker["resident_mib"] + worker["ring_mib"])


def _mapped(pid: int) -> Sample:
    lines = Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines()
    kib = resident_kib(lines)
    return {"resident_mib": kib["other"] / 1024, "ring_mib": kib["rings"] / 1024}


def resident_kib(lines: Iterable[str]) -> dict[str, int]:
    """
    Add up the resident memory of a process, that of its packet rings by itself.

    Source: proc(5), /proc/PID/smaps; a ring is a mapping of its socket.
    """
    sums = {"rings": 0, "other": 0}
    is_ring = False
    for line in lines:
        if mapping := _MAPPING.match(line):
            is_ring = mapping[1].startswith("socket:")
        elif line.startswith("Rss:"):
            sums["rings" if is_ring else "other"] += int(line.split()[1])
    return sums

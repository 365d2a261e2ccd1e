"""What must hold all along: the conservation laws, counters that only grow, no drift, bounded memory."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mcr.wire.documents import InterfaceStats, OutputStats, RuleStats, StatsDocument
from tests.bench.rest import resident_kib
from tests.support.daemon import Daemon
from tests.support.laws import assert_conservation
from tests.support.wait import wait_for

MOST_GROWTH_KIB = 16 << 10

_WORKER_ENDED = re.compile(r'event="worker ended" worker=\d+ pid=(\d+) ')

Counters = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process has: memory besides its rings, and descriptors."""

    name: str
    resident_kib: int
    descriptors: int


@dataclass
class Watch:
    """
    Looks at a daemon again and again.

    Attributes:
        looks: how often the laws have been checked.
        first: what the processes had in the first rest.
        last: what they had in the last one.
        killed: workers whose end may be logged as an error.
        ending: what has ended, and will count from zero if it begins again.
    """

    daemon: Daemon
    looks: int = 0
    first: list[Holding] = field(default_factory=list)
    last: list[Holding] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)
    _before: Counters = field(default_factory=dict)

    def check_counters(self) -> StatsDocument:
        """Assert the laws, and that no counter is smaller than before; give the counters."""
        stats = self.daemon.wait_for_stats("consistent counters", lambda _stats: True)
        assert_conservation(stats)
        now = counters_of(stats)
        ended = {one for one in self.ending if one not in now or went_back({one: self._before[one]}, now)}
        self.ending -= ended
        smaller = went_back({one: self._before[one] for one in self._before.keys() - ended}, now)
        assert not smaller, f"counters went back: {smaller}"
        self._before = now
        self.looks += 1
        return stats

    def expect_end(self, owner: str) -> None:
        """Note that counters end now, or a little later."""
        if owner in self._before:
            self.ending.add(owner)

    def check_rules(self, names: Iterable[str]) -> None:
        """Wait until all workers have their tables; the daemon must have these rules, all of them active."""
        self.daemon.wait_until_installed()
        rules = self.daemon.rules()
        assert sorted(rule["name"] for rule in rules) == sorted(names)
        waiting = {rule["name"]: rule["reason"] for rule in rules if rule["state"] != "active"}
        assert not waiting, f"not active: {waiting}"

    def check_log(self) -> None:
        """Assert that nobody has logged an error, but for the ends of workers that were killed."""
        errors = errors_of(self.daemon.log(), self.killed)
        assert not errors, "\n".join(errors)

    def check_holdings(self) -> None:
        """
        Assert that in rest, with the steady rules alone, no process has more than in the first rest.

        Descriptors are closed after the answer to ``rule.del``, so they are waited for.
        """
        if not self.first:
            self.first = self.last = self._holdings()
            return
        wait_for("no more descriptors than in the first rest", self._has_first_descriptors)
        self.last = self._holdings()
        grown = has_grown(self.first, self.last)
        assert not grown, f"memory has grown: {grown}"

    def _has_first_descriptors(self) -> bool:
        return all(
            now.descriptors <= first.descriptors
            for first, now in zip(self.first, self._holdings(), strict=True)
        )

    def _holdings(self) -> list[Holding]:
        workers = ((f"worker {one['worker']}", one["pid"]) for one in self.daemon.workers())
        pids = {"supervisor": self.daemon.pid, **dict(workers)}
        return [_holding(name, pid) for name, pid in pids.items() if pid is not None]


def _holding(name: str, pid: int) -> Holding:
    lines = Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines()
    return Holding(name, resident_kib(lines)["other"], psutil.Process(pid).num_fds())


def has_grown(first: Iterable[Holding], last: Iterable[Holding]) -> list[str]:
    """Name every process that has more memory than in the beginning, by more than chance."""
    return [
        f"{now.name}: {was.resident_kib} KiB to {now.resident_kib} KiB"
        for was, now in zip(first, last, strict=True)
        if now.resident_kib > was.resident_kib + MOST_GROWTH_KIB
    ]


def errors_of(log: str, killed: Collection[int]) -> list[str]:
    """List the lines of a log that say what should not have happened."""
    wrong = (line for line in log.splitlines() if "level=error" in line or "Traceback" in line)
    return [line for line in wrong if not (end := _WORKER_ENDED.search(line)) or int(end[1]) not in killed]


def counters_of(stats: StatsDocument) -> Counters:
    """Give all counters by what they belong to; interfaces, rules and outputs come and go with theirs."""
    interfaces = {f"interface {one['name']}": _interface(one) for one in stats["interfaces"]}
    rules = {f"rule {one['name']}": _rule(one) for one in stats["rules"]}
    outputs = {
        f"output {one['to']} of rule {rule['name']}": _output(one)
        for rule in stats["rules"]
        for one in rule["outputs"]
    }
    return {**interfaces, **rules, **outputs}


def _interface(one: InterfaceStats) -> dict[str, int]:
    plain = {"received": one["received"], "matched": one["matched"], "kernel_dropped": one["kernel_dropped"]}
    return {**plain, **one["ignored"]}


def _rule(one: RuleStats) -> dict[str, int]:
    return {"matched": one["matched"], "bytes": one["bytes"], "loops": one["loops"]}


def _output(one: OutputStats) -> dict[str, int]:
    return {"sent": one["sent"], "bytes": one["bytes"], **one["not_sent"]}


def went_back(before: Counters, now: Counters) -> list[str]:
    """Name every counter that is smaller than before, of what there still is."""
    return [
        f"{name} of {owner}: {count} to {now[owner].get(name, 0)}"
        for owner, counts in before.items()
        if owner in now
        for name, count in counts.items()
        if now[owner].get(name, 0) < count
    ]

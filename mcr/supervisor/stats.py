"""What the daemon tells about itself: documents made from the state and the shared counters."""

import bisect
import itertools
import math
import os
import time
from collections.abc import Iterable, Sequence

import psutil

from mcr.model.policy import policy_text
from mcr.model.rule import Output, Rule, RuleId
from mcr.model.stats import total_interface, total_output, total_rule
from mcr.model.steering import Steering
from mcr.supervisor.actions import Action, HoldPort, Join, OpenOutput, OpenRings, SetFilter
from mcr.supervisor.layout import (
    Layout,
    leaves_as_packets,
    memberships_for,
    missing,
    port_hold_for,
    why_output_pending,
)
from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.state import OpenInterface, State, Worker
from mcr.wire.counters import Snapshot, bucket_end_us
from mcr.wire.documents import (
    BypassDocument,
    InterfaceDocument,
    InterfaceStats,
    LatencyDocument,
    OutputDocument,
    OutputStats,
    RuleDocument,
    RuleStats,
    StatsDocument,
    UnmatchedDocument,
    WorkerDocument,
)


class Report:
    """Describes one moment; make a new one for every answer."""

    def __init__(self, state: State, layout: Layout) -> None:
        self._state = state
        self._layout = layout
        self._holders: dict[RuleId, list[int]] = {}
        for number, share in enumerate(layout.shares):
            for placed in share.rules:
                self._holders.setdefault(placed.rule.id, []).append(number)

    def rules(self, rules: Iterable[Rule]) -> list[RuleDocument]:
        """Describe rules, and what keeps them or their outputs from working."""
        return [self._rule(rule) for rule in rules]

    def stats(self, rules: Iterable[Rule], *, latency: bool = False) -> StatsDocument:
        """Read all counters, each worker's at one moment."""
        state, book = self._state, self._state.slots
        snapshots = [
            worker.counters.snapshot(book.rules.used_up_to, book.outputs.used_up_to)
            for worker in state.workers
        ]
        return {
            "consistent": all(snapshot.consistent for snapshot in snapshots),
            "reassembly_failed": state.reassembly_failures.count(),
            "interfaces": [_interface_stats(interface, snapshots) for interface in state.interfaces.values()],
            "rules": [self._rule_stats(rule, snapshots, latency=latency) for rule in rules],
        }

    def worker(self, worker: Worker) -> WorkerDocument:
        """Describe a worker; its digest is the one that its table had at its last heartbeat."""
        share = self._layout.shares[worker.number]
        rings = [self._state.interfaces[index] for index in worker.rings if index in self._state.interfaces]
        ring_bytes = sum(interface.shape.bytes for interface in rings)
        resident_bytes, cpu_seconds = _usage(worker, ring_bytes)
        header = worker.counters.header()
        return {
            "worker": worker.number,
            "pid": worker.process.pid if worker.process else None,
            "cpu": worker.cpu,
            "realtime": _is_realtime(worker),
            "state": worker.state.value,
            "since_s": round(time.monotonic() - worker.since_s, 3),
            "restarts": worker.restarts,
            "rules": len(share.rules),
            "expected_digest": f"{worker.digester.digest(share):016x}",
            "installed_digest": f"{header.digest:016x}" if worker.installed else None,
            "generation": header.generation if worker.installed else 0,
            "resident_bytes": resident_bytes,
            "ring_bytes": ring_bytes,
            "coalesce_us": header.coalesce_ns // 1000 if worker.installed else None,
            "cpu_seconds": cpu_seconds,
        }

    def interfaces(self) -> list[InterfaceDocument]:
        """Describe every interface that rules listen to, also those that are not there."""
        open_ones = [self._interface(interface) for interface in self._state.interfaces.values()]
        named = {rule.interface for rule in self._state.rules} - {one["name"] for one in open_ones}
        return [*open_ones, *(self._closed_interface(name) for name in sorted(named))]

    def _closed_interface(self, name: str) -> InterfaceDocument:
        link = self._state.links.get(name)
        plan = self._layout.interfaces.get(name)
        refused = self._state.failures.get(OpenRings(plan)) if plan else None
        return {
            "name": name,
            "index": link.index if link else None,
            "mtu": link.mtu if link else None,
            "state": "missing" if link is None else "closed",
            "workers": [],
            "steering": "cpu" if plan and plan.steering is Steering.CPU else "hash",
            "reason": refused or (plan.reason if plan else missing(name)),
            "receive_queues": link.receive_queues if link else 0,
            "rules": 0,
            "memberships": [],
            "ring": {"frames": 0, "frame_bytes": 0, "bytes": 0},
            "bypass": {"on": False, "reason": refused or "no rule has its input there"},
        }

    def _interface(self, interface: OpenInterface) -> InterfaceDocument:
        link, shape = interface.plan.link, interface.shape
        present = self._state.links.get(link.name)
        active = [rule for rule in self._state.rules if rule.interface == link.name]
        held = self._state.memberships.held()
        return {
            "name": link.name,
            "index": link.index,
            "mtu": present.mtu if present else None,
            "state": "missing" if present is None else "up" if present.up else "down",
            "workers": [worker.number for worker in self._state.workers if link.index in worker.rings],
            "steering": "cpu" if interface.plan.steering is Steering.CPU else "hash",
            "reason": interface.plan.reason,
            "receive_queues": link.receive_queues,
            "rules": len([rule for rule in active if rule.id not in self._layout.pending]),
            "memberships": sorted(str(one) for one in held if one.ifindex == link.index),
            "ring": {"frames": shape.frames, "frame_bytes": shape.frame_bytes, "bytes": shape.bytes},
            "bypass": self._bypass(interface),
        }

    def _bypass(self, interface: OpenInterface) -> BypassDocument:
        if interface.bypass.is_on:
            return {"on": True, "reason": ""}
        configured = "" if self._state.wishes.bypass_stack else "bypass_stack: false is configured"
        reason = configured or interface.plan.link.stack_needs or interface.bypass.problem
        return {"on": False, "reason": reason or "more destinations than fit a program"}

    def unmatched(self) -> list[UnmatchedDocument]:
        """List what matched no rule, what came most recently first."""
        interfaces = {one.slot: one for one in self._state.interfaces.values()}
        entries = [entry for worker in self._state.workers for entry in worker.counters.unmatched()]
        entries.sort(key=lambda entry: entry.last_seen_ns, reverse=True)
        return [
            {
                "interface": interfaces[entry.interface].plan.link.name,
                "group": str(entry.group),
                "port": entry.port,
                "source": str(entry.source),
                "packets": entry.packets,
                "last_seen": entry.last_seen_ns / 1e9,
            }
            for entry in entries
            if entry.interface in interfaces and entry.last_seen_ns >= interfaces[entry.interface].opened_ns
        ]

    def _rule(self, rule: Rule) -> RuleDocument:
        reason = self._why_pending(rule)
        slots = self._state.slots[rule.id].outputs
        return {
            "id": rule.id,
            "name": rule.name,
            "from": str(rule.input),
            "origin": rule.origin.value,
            "state": "pending" if reason else "active",
            "reason": reason,
            "workers": self._holders.get(rule.id, []),
            "allow_link_local": rule.allow_link_local,
            "outputs": [
                self._output(rule, output, slot) for output, slot in zip(rule.outputs, slots, strict=True)
            ],
        }

    def _why_pending(self, rule: Rule) -> str | None:
        """Name what is missing, or the refused step that the rule depends on."""
        if rule.id in self._layout.pending:
            return self._layout.pending[rule.id]
        plan = self._layout.interfaces[rule.interface]
        hashes = self._layout.filters[rule.interface]
        steps: list[Action] = [OpenRings(plan), SetFilter(plan.link.index, hashes)]
        steps += [Join(membership) for membership in memberships_for(rule, self._state.links)]
        steps += [HoldPort(hold) for hold in port_hold_for(rule, self._state.links)]
        refused = next((self._state.failures[step] for step in steps if step in self._state.failures), None)
        return (
            refused
            or self._why_not_yet(rule)
            or (None if plan.link.up else f"interface {rule.interface} is down")
        )

    def _why_not_yet(self, rule: Rule) -> str | None:
        if self._layout.interfaces[rule.interface].link.index not in self._state.interfaces:
            return f"interface {rule.interface} is not open yet"
        for number in self._holders.get(rule.id, []):
            worker = self._state.workers[number]
            if worker.state is not WorkerState.READY or worker.waits_for_answer or worker.installed is None:
                return f"worker {number} has not acknowledged it yet"
        return None

    def _output(self, rule: Rule, output: Output, slot: int) -> OutputDocument:
        as_packets = leaves_as_packets(output, rule.input, self._state.links, self._state.wishes)
        pending = why_output_pending(output, self._state.links)
        plan = self._layout.outputs.get(slot)
        failing = self._state.failures.get(OpenOutput(slot, plan)) if plan else None
        return {
            "to": str(output.to),
            "ttl": policy_text(output.ttl),
            "dscp": policy_text(output.dscp),
            "source": str(output.source),
            "rate": str(output.rate) if output.rate else None,
            "path": "link" if as_packets else "stack",
            "state": "pending" if pending else "failing" if failing else "active",
            "reason": pending or failing,
        }

    def _rule_stats(self, rule: Rule, snapshots: Sequence[Snapshot], *, latency: bool) -> RuleStats:
        slots = self._state.slots[rule.id]
        counted = total_rule(snapshot.rule(slots.rule) for snapshot in snapshots)
        reason = self._why_pending(rule)
        stats: RuleStats = {
            "id": rule.id,
            "name": rule.name,
            "from": str(rule.input),
            "state": "pending" if reason else "active",
            "reason": reason,
            "matched": counted.matched,
            "bytes": counted.bytes,
            "loops": self._state.loops.get(rule.id, 0),
            "outputs": [
                _output_stats(output, slot, snapshots)
                for output, slot in zip(rule.outputs, slots.outputs, strict=True)
            ],
        }
        if latency:
            parts = [worker.counters.latency(slots.rule) for worker in self._state.workers]
            stats["latency_us"] = _latency([sum(counts) for counts in zip(*parts, strict=True)])
        return stats


def _interface_stats(interface: OpenInterface, snapshots: Sequence[Snapshot]) -> InterfaceStats:
    interface.count_drops()
    counted = total_interface(snapshot.interface(interface.slot) for snapshot in snapshots)
    return {
        "name": interface.plan.link.name,
        "received": counted.received,
        "matched": counted.matched,
        "ignored": dict(counted.ignored),
        "kernel_dropped": sum(interface.dropped),
    }


def _latency(counts: Sequence[int]) -> LatencyDocument:
    """Give the upper end of the bucket in which each quantile lies."""
    total = sum(counts)
    reached = list(itertools.accumulate(counts))

    def quantile(share: float) -> float | None:
        return bucket_end_us(bisect.bisect_left(reached, math.ceil(share * total))) if total else None

    return {
        "count": total,
        "p50": quantile(0.5),
        "p99": quantile(0.99),
        "p999": quantile(0.999),
        "max": quantile(1),
    }


def _output_stats(output: Output, slot: int, snapshots: Sequence[Snapshot]) -> OutputStats:
    counted = total_output(snapshot.output(slot) for snapshot in snapshots)
    return {
        "to": str(output.to),
        "sent": counted.sent,
        "bytes": counted.bytes,
        "not_sent": dict(counted.not_sent),
    }


def _usage(worker: Worker, ring_bytes: int) -> tuple[int | None, float | None]:
    """Give resident memory without the rings, which the kernel counts as the worker's, and CPU time."""
    if worker.process is None:
        return None, None
    try:
        process = psutil.Process(worker.process.pid)
        times = process.cpu_times()
        return max(0, process.memory_info().rss - ring_bytes), times.user + times.system
    except psutil.Error:
        return None, None


def _is_realtime(worker: Worker) -> bool | None:
    """Ask the kernel whether the worker goes before others."""
    if worker.process is None:
        return None
    try:
        return os.sched_getscheduler(worker.process.pid) == os.SCHED_FIFO
    except ProcessLookupError:
        return None

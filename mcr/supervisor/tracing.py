"""Single datagrams of one rule, seen by the workers on their way through."""

import asyncio
from collections.abc import Mapping

from mcr.model.rule import Rule, RuleId
from mcr.supervisor.state import State
from mcr.wire.counters import TraceEntry
from mcr.wire.documents import TracedDocument, TraceDocument


class Tracing:
    """Owns which rule is traced: one at a time, for a limited time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._rule: Rule | None = None
        self._end: asyncio.TimerHandle | None = None

    def start(self, rule: Rule, every: int, seconds: float) -> None:
        """Trace every nth datagram of a rule from now on, instead of what was traced before."""
        self.stop()
        self._rule = rule
        slot = self._state.slots[rule.id].rule
        for worker in self._state.workers:
            worker.counters.ask_for_trace(slot, every)
        self._end = asyncio.get_running_loop().call_later(seconds, self.stop)

    def stop(self) -> None:
        """Trace nothing more; what was traced stays to be shown."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        for worker in self._state.workers:
            worker.counters.ask_for_trace(None, 0)

    def forget(self, rule_id: RuleId) -> None:
        """Stop if this rule, which is going, is the one that is traced."""
        if self._rule is not None and self._rule.id == rule_id:
            self.stop()
            self._rule = None

    def show(self, after: Mapping[str, int]) -> TraceDocument:
        """Give what was traced, oldest first; *after* has by worker the number of the last entry seen."""
        entries = [
            self._describe(worker.number, entry)
            for worker in self._state.workers
            for entry in worker.counters.trace(after.get(str(worker.number), 0))
        ]
        return {
            "rule": self._rule.name if self._rule else None,
            "active": self._end is not None,
            "entries": sorted(entries, key=lambda entry: entry["time"]),
        }

    def _describe(self, worker: int, entry: TraceEntry) -> TracedDocument:
        host = f"[{entry.source}]" if entry.source.version == 6 else str(entry.source)
        return {
            "worker": worker,
            "number": entry.number,
            "time": entry.received_ns / 1e9,
            "source": f"{host}:{entry.source_port}",
            "ttl": entry.ttl,
            "bytes": entry.bytes,
            "to": self._output(entry.output),
            "verdict": entry.verdict,
            "delay_us": max(0, entry.sent_ns - entry.received_ns) / 1000,
        }

    def _output(self, slot: int) -> str | None:
        """Name the output of a slot, None if its rule is gone."""
        if self._rule is None:
            return None
        slots = self._state.slots[self._rule.id].outputs
        return str(self._rule.outputs[slots.index(slot)].to) if slot in slots else None

"""What the daemon does for its control clients: one function per method of `wire.control.METHODS`."""

from collections.abc import Mapping
from typing import cast

from mcr import __version__
from mcr.errors import Bug
from mcr.supervisor.control.session import Handler
from mcr.supervisor.core import Supervisor
from mcr.supervisor.stats import Report
from mcr.wire.control import PROTOCOL
from mcr.wire.documents import rule_from_params

_TRACE_DEFAULTS = {"sample": 1, "seconds": 60}


class Handlers:
    """Answers from one supervisor's state."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def table(self) -> Mapping[str, Handler]:
        """Give the function of each method."""
        return {
            "ping": self._ping,
            "version": self._version,
            "rule.add": self._rule_add,
            "rule.del": self._rule_del,
            "rule.list": self._rule_list,
            "rule.show": self._rule_show,
            "stats": self._stats,
            "trace.on": self._trace_on,
            "trace.off": self._trace_off,
            "trace.show": self._trace_show,
            "unmatched.list": self._unmatched_list,
            "worker.list": self._worker_list,
            "interface.list": self._interface_list,
        }

    def _report(self) -> Report:
        if self._supervisor.layout is None:
            raise Bug("asked before the first look")
        return Report(self._supervisor.state, self._supervisor.layout)

    async def _ping(self, _params: Mapping[str, object]) -> object:
        return {}

    async def _version(self, _params: Mapping[str, object]) -> object:
        return {"version": __version__, "protocol": PROTOCOL}

    async def _rule_add(self, params: Mapping[str, object]) -> object:
        rule = rule_from_params(params)
        await self._supervisor.add_rule(rule)
        return self._report().rules([rule])[0]

    async def _rule_del(self, params: Mapping[str, object]) -> object:
        rule = self._supervisor.state.rules.find(str(params["rule"]))
        await self._supervisor.remove_rule(rule.id)
        return {"id": rule.id, "name": rule.name}

    async def _rule_list(self, _params: Mapping[str, object]) -> object:
        return self._report().rules(self._supervisor.state.rules)

    async def _rule_show(self, params: Mapping[str, object]) -> object:
        return self._report().rules([self._supervisor.state.rules.find(str(params["rule"]))])[0]

    async def _stats(self, params: Mapping[str, object]) -> object:
        rules = self._supervisor.state.rules
        wanted = [rules.find(str(params["rule"]))] if "rule" in params else list(rules)
        return self._report().stats(wanted, latency=bool(params.get("latency")))

    async def _trace_on(self, params: Mapping[str, object]) -> object:
        rule = self._supervisor.state.rules.find(str(params["rule"]))
        every, seconds = (cast("int", params.get(name, value)) for name, value in _TRACE_DEFAULTS.items())
        self._supervisor.tracing.start(rule, every, seconds)
        return {"rule": rule.name, "sample": every, "seconds": seconds}

    async def _trace_off(self, _params: Mapping[str, object]) -> object:
        self._supervisor.tracing.stop()
        return {}

    async def _trace_show(self, params: Mapping[str, object]) -> object:
        return self._supervisor.tracing.show(cast("dict[str, int]", params.get("after", {})))

    async def _unmatched_list(self, _params: Mapping[str, object]) -> object:
        return self._report().unmatched()

    async def _worker_list(self, _params: Mapping[str, object]) -> object:
        report = self._report()
        return [report.worker(worker) for worker in self._supervisor.state.workers]

    async def _interface_list(self, _params: Mapping[str, object]) -> object:
        return self._report().interfaces()

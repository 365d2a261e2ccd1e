"""A real ``mcrd`` on a host of the laboratory, from when it is ready until nothing of it is left."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import psutil

from mcr.client import Client
from mcr.errors import Refused, Unreachable
from mcr.model.endpoint import parse_endpoint
from mcr.wire.documents import (
    InterfaceDocument,
    RuleDocument,
    RuleStats,
    StatsDocument,
    WorkerDocument,
)
from tests.support.lab import COMMAND_DEADLINE_S, Host
from tests.support.wait import wait_for

STOP_DEADLINE_S = 2.0
BIN = Path(sys.executable).parent


class Daemon:
    """
    One ``mcrd`` with its configuration, control socket and log in *directory*, started by *command*.

    Leaving ``with`` stops it by SIGTERM, and asserts that it ends in time, leaves nothing behind and has
    logged no error.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        config: Mapping[str, object] | None = None,
        *,
        command: Sequence[str] = (str(BIN / "mcrd"),),
    ) -> None:
        self.host = host
        self._command = command
        self.control = directory / "control.sock"
        self.log_path = directory / "mcrd.log"
        self._config = directory / "mcr.json5"
        self._config.write_text(json.dumps(config or {}), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._relatives: list[psutil.Process] = []
        self.logs_errors = False

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_open()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        if kind is not None:
            self.kill()
        elif self.process.poll() is None:
            self.stop()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """Give the supervisor's process."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        """Give the supervisor's process id."""
        return self.process.pid

    def start(self) -> None:
        """Start it, and do not wait for anything."""
        command = [*self._command, "--config", str(self._config), "--control", str(self.control)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(self.host.start_command(*command), stdout=log, stderr=log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and make sure that it does, in time and without a trace."""
        self._note_relatives()
        started_at = time.monotonic()
        self.process.send_signal(number)
        try:
            status = self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"mcrd did not end within {STOP_DEADLINE_S} s\n{self.log()}") from None
        left = STOP_DEADLINE_S - (time.monotonic() - started_at)
        psutil.wait_procs(self._relatives, timeout=max(0.0, left))
        alive = [process for process in self._relatives if is_running(process)]
        assert not alive, f"{alive} outlived mcrd\n{self.log()}"
        assert status == 0, self.log()
        assert not self.control.exists()
        assert self.logs_errors or not self._errors(), self.log()

    def kill(self) -> None:
        """End it and its workers at once, without asking questions."""
        self._note_relatives()
        for process in self._relatives:
            if process.is_running():
                process.kill()
        self.process.wait(COMMAND_DEADLINE_S)

    def log(self) -> str:
        """Give what it and its workers have logged."""
        return self.log_path.read_text(encoding="utf-8")

    def client(self) -> Client:
        """Open a connection; the caller uses it inside ``with``."""
        return Client(self.control)

    def call(self, method: str, **params: object) -> Any:
        """Ask one thing over a connection of its own."""
        with self.client() as client:
            return client.call(method, **params)

    def rules(self) -> list[RuleDocument]:
        """Describe all rules."""
        return cast("list[RuleDocument]", self.call("rule.list"))

    def workers(self) -> list[WorkerDocument]:
        """Describe all workers."""
        return cast("list[WorkerDocument]", self.call("worker.list"))

    def interface(self, name: str) -> InterfaceDocument:
        """Describe an input interface."""
        interfaces = cast("list[InterfaceDocument]", self.call("interface.list"))
        return next(interface for interface in interfaces if interface["name"] == name)

    def ctl(self, *arguments: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run ``mcrctl`` as a process, to its end with *status*."""
        done = subprocess.run(
            [str(BIN / "mcrctl"), "--control", str(self.control), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
        )
        assert done.returncode == status, f"mcrctl {arguments}: {done.stdout}{done.stderr}\n{self.log()}"
        return done

    def stats(self) -> StatsDocument:
        """Give the document of ``mcrctl --json stats``."""
        return cast("StatsDocument", json.loads(self.ctl("--json", "stats").stdout))

    def wait_for_stats(self, what: str, condition: Callable[[StatsDocument], bool]) -> StatsDocument:
        """Wait until consistent counters fulfil a condition, and give them."""

        def look() -> StatsDocument | None:
            stats = cast("StatsDocument", self.call("stats"))
            return stats if stats["consistent"] and condition(stats) else None

        return wait_for(what, look)

    def wait_until_open(self) -> None:
        """Wait until packets of every active rule pass."""
        wait_for("all active rules to be open for packets", self._is_open)

    def wait_until_installed(self) -> list[WorkerDocument]:
        """Wait until every worker has the table that it should have, and give the workers."""

        def look() -> list[WorkerDocument]:
            workers = self.workers()
            return workers if all(_is_installed(worker) for worker in workers) else []

        return wait_for("all workers to have their shares", look)

    def wait_for_rules(self, state: str) -> list[RuleDocument]:
        """Wait until all rules are in a state, and give them."""

        def look() -> list[RuleDocument]:
            rules = self.rules()
            return rules if all(rule["state"] == state for rule in rules) else []

        return wait_for(f"all rules to be {state}", look)

    def wait_for_outputs(self, state: str) -> None:
        """Wait until all outputs are in a state."""
        wait_for(
            f"all outputs to be {state}",
            lambda: {output["state"] for rule in self.rules() for output in rule["outputs"]} == {state},
        )

    def _is_open(self) -> bool:
        assert self.process.poll() is None, f"mcrd ended with {self.process.returncode}\n{self.log()}"
        try:
            workers, rules = self.workers(), self.rules()
            interfaces = cast("list[InterfaceDocument]", self.call("interface.list"))
        except (Unreachable, Refused):
            return False
        joined = {membership for one in interfaces for membership in one["memberships"]}
        active = [rule for rule in rules if rule["state"] == "active"]
        return all(map(_is_installed, workers)) and all(self._passes(rule, joined) for rule in active)

    def _passes(self, rule: RuleDocument, joined: set[str]) -> bool:
        """Say whether packets pass: joining the group, or holding the port, is the last step to that."""
        endpoint = parse_endpoint(rule["from"])
        place = f"{endpoint.address}%{endpoint.interface}"
        if endpoint.is_multicast:
            return {f"{source}@{place}" for source in endpoint.sources} <= joined and (
                bool(endpoint.sources) or place in joined
            )
        held = self.host.read("udp" if endpoint.address.version == 4 else "udp6")
        return f":{endpoint.port:04X} " in held

    def _note_relatives(self) -> None:
        try:
            supervisor = psutil.Process(self.pid)
            self._relatives = [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return

    def _errors(self) -> list[str]:
        return [line for line in self.log().splitlines() if "level=error" in line or "Traceback" in line]


def _is_installed(worker: WorkerDocument) -> bool:
    return (
        worker["state"] == "ready"
        and worker["installed_digest"] is not None
        and worker["installed_digest"] == worker["expected_digest"]
    )


def rule_stats(stats: StatsDocument, name: str) -> RuleStats:
    """Find the counters of one rule."""
    return next(rule for rule in stats["rules"] if rule["name"] == name)


def ignored(stats: StatsDocument, interface: str) -> dict[str, int]:
    """Give why datagrams that arrived at an interface were not relayed."""
    return next(one["ignored"] for one in stats["interfaces"] if one["name"] == interface)


def descendants(pid: int) -> list[psutil.Process]:
    """Give the processes that a process has started, and theirs."""
    return psutil.Process(pid).children(recursive=True)


def is_running(process: psutil.Process) -> bool:
    """Say whether a process still runs; one that only waits for its parent to ask after it does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

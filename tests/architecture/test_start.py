"""What a program loads when it starts: all of it costs time, and packets wait for a worker's successor."""

import gc
import importlib
import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import pytest

HEAVY = {
    "asyncio",
    "hypothesis",
    "json5",
    "psutil",
    "pydantic",
    "pyroute2",
    "rich",
    "structlog",
    "tabulate",
    "uvloop",
}


@pytest.mark.parametrize(
    ("program", "needed", "unwanted"),
    [
        ("mcr.cli.main", "mcr.client", HEAVY),
        ("mcr.worker.main", "mcr.worker.dataplane", HEAVY),
        ("mcr.supervisor.main", "mcr.supervisor.core", {"hypothesis", "rich", "tabulate"}),
    ],
)
def test_a_start_loads_nothing_that_it_can_do_without(program: str, needed: str, unwanted: set[str]) -> None:
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys, {program}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert needed in loaded
    assert unwanted.isdisjoint(loaded)


@pytest.mark.parametrize("command", ["mcrd", "mcrctl", "mcrgen"])
def test_the_garbage_collector_looks_at_nothing_that_a_command_has_loaded(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen = []

    def main(_arguments: list[str]) -> int:
        seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
        return 7

    monkeypatch.setattr(importlib, "import_module", lambda _name: SimpleNamespace(main=main))
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=command)
    try:
        assert entry.load()() == 7
    finally:
        gc.unfreeze()
    assert seen == [(True, True)]

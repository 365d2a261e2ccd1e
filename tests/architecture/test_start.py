"""What a program loads when it starts: all of it costs time, and packets wait for a worker's successor."""

import subprocess
import sys

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

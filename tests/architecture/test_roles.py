"""The role table is what runs, and what the documents say."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import mcr
from mcr.runtime import privileges
from mcr.runtime.confine import PROOF_FIELDS, differences, expected_proof, proof_from
from mcr.runtime.privileges import render
from mcr.runtime.roles import ROLES, SUPERVISOR, WORKER, Role
from mcr.wire.worker import PRIORITIES
from tests.support.daemon import Daemon
from tests.support.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "developer_docs" / "privileges.md"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a running daemon with two workers and a rule, on a host of its own."""
    config = {"workers": 2, "rules": [{"from": "239.1.1.1%lo:5001", "to": ["127.0.0.1:6000"]}]}
    with Lab() as lab, Daemon(lab.host("roles"), tmp_path_factory.mktemp("roles"), config) as running:
        yield running


def proof_of(pid: int) -> dict[str, str]:
    return proof_from(Path(f"/proc/{pid}/status").read_text())


def without_a_containers_doing(proof: dict[str, str]) -> dict[str, str]:
    """Take what a container's runtime may have put on every process in it from this process."""
    ours = proof_from(Path("/proc/self/status").read_text())
    imposed = {name for name in ("Seccomp", "NoNewPrivs") if ours[name] != "0" and proof[name] == ours[name]}
    return {name: "0" if name in imposed else value for name, value in proof.items()}


def test_the_supervisor_has_what_its_row_says(daemon: Daemon) -> None:
    assert without_a_containers_doing(proof_of(daemon.pid)) == expected_proof(SUPERVISOR)


def test_every_worker_has_what_its_row_says(daemon: Daemon) -> None:
    pids = [worker["pid"] for worker in daemon.workers()]

    assert len(pids) == 2
    assert [proof_of(pid) for pid in pids if pid] == [expected_proof(WORKER)] * 2


def test_nothing_else_runs(daemon: Daemon) -> None:
    children = psutil.Process(daemon.pid).children(recursive=True)

    assert {child.pid for child in children} == {worker["pid"] for worker in daemon.workers()}


def test_workers_are_executed_afresh_and_inherit_nothing(daemon: Daemon) -> None:
    for worker in daemon.workers():
        process = psutil.Process(worker["pid"])
        channel = process.cmdline()[-1]
        held = {path.name for path in Path(f"/proc/{process.pid}/fd").iterdir()}
        output = 1 if worker["rules"] else 0
        ring_and_watch = 2 if worker["worker"] == 0 else 1  # one worker watches what matches no rule

        assert process.cmdline()[1:-1] == ["-P", "-m", "mcr", "worker"]
        timers = 2  # of its heartbeat, and the one that stands by
        given = PRIORITIES + output + ring_and_watch
        assert len(held) == len({"0", "1", "2", channel}) + timers + given, held
        assert process.environ().keys() <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE"}


def test_a_changed_row_would_be_noticed(daemon: Daemon) -> None:
    proof = without_a_containers_doing(proof_of(daemon.pid))
    for role in (
        replace(SUPERVISOR, capabilities=SUPERVISOR.capabilities | {"sys_admin"}),
        replace(SUPERVISOR, capabilities=SUPERVISOR.capabilities - {"kill"}),
        replace(SUPERVISOR, user="nobody"),
        replace(SUPERVISOR, no_new_privs=True),
        replace(SUPERVISOR, system_calls=("read",)),
    ):
        assert differences(role, proof)


def test_every_process_has_a_row() -> None:
    """A package that holds a main.py is a process; those that the daemon starts have roles."""
    packages = {f"mcr.{path.parent.name}" for path in Path(mcr.__path__[0]).glob("*/main.py")}
    run_by_users = {"mcr.cli", "mcr.gen"}

    assert packages - run_by_users == {role.package for role in ROLES.values()}


# ---- the page ----


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text() == render(), f"make it anew: python -m {privileges.__name__} > {PAGE}"


def test_the_module_prints_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcr.runtime.privileges"], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout == render()


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES.keys())
def test_the_page_says_everything_about_a_role(role: Role) -> None:
    (row,) = [line for line in render().splitlines() if line.startswith(f"| {role.name} |")]

    assert all(name.upper() in row for name in role.capabilities)
    assert f"`{role.package}`" in row
    assert role.user in row
    assert role.distrusts in row
    assert all(f"`{name}`" in render() for name in role.system_calls)


def test_the_page_names_every_field_of_the_proof() -> None:
    assert all(f"`{name}`" in render() for name in PROOF_FIELDS)

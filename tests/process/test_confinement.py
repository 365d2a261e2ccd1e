"""A worker's confinement: what it gives up is gone, what it lives on is left, and it can be proven."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import prctl
import pytest

from mcr.errors import UsageError
from mcr.runtime import confine
from mcr.runtime.confine import PROOF_FIELDS, differences, expected_proof, proof_from
from mcr.runtime.roles import ROLES, SUPERVISOR, WORKER, Role

ROOT = Path(__file__).resolve().parents[2]
CONFINED = ROOT / "tests" / "support" / "confined.py"
DEADLINE_S = 10
NOBODY = pwd.getpwnam("nobody")
SURPLUS_GROUPS = [4, 27]  # as root may have them; they must go


@pytest.fixture(scope="module")
def bystander() -> Iterator[int]:
    """Give a process of the user that workers have: another worker, as it were."""
    process = subprocess.Popen(["sleep", "600"], user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[])
    yield process.pid
    process.kill()
    process.wait(DEADLINE_S)


@contextmanager
def trying(bystander: int, *options: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Let a process try; give its pid, and what it says that it could do."""
    with subprocess.Popen(
        [sys.executable, str(CONFINED), str(bystander), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        extra_groups=SURPLUS_GROUPS,
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "it ended before it said anything"
        yield process.pid, json.loads(line)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def confined(bystander: int) -> Iterator[tuple[int, dict[str, Any]]]:
    with trying(bystander) as tried:
        yield tried


ATTEMPTS = [
    *("open a file", "make a file", "read a directory", "read a link", "remove a file"),
    *("change the directory", "change the root"),
    *("open a udp socket", "open a packet socket", "open a unix socket", "open a pair of sockets"),
    *("set a socket option", "bind a socket", "connect a socket", "listen on a socket"),
    *("duplicate a descriptor", "open a pipe"),
    *("execute a program", "fork", "start a thread"),
    *("trace another process", "be traced", "read another's memory"),
    *("signal another process", "signal a thread of another process"),
    *("become root", "move to another cpu", "enter another namespace"),
    *("map memory to execute", "make memory executable"),
]
NEEDS = [
    *("send", "send a message", "receive", "receive a message", "wait"),
    *("map memory", "see its scheduling policy", "give way", "signal itself", "close"),
]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_worker_cannot(confined: tuple[int, dict[str, Any]], attempt: str) -> None:
    _, document = confined

    assert document["attempts"][attempt] == "EPERM"


@pytest.mark.parametrize("need", NEEDS)
def test_a_worker_can_still(confined: tuple[int, dict[str, Any]], need: str) -> None:
    _, document = confined

    assert document["needs"][need] is None


def test_everything_that_was_tried_is_judged(confined: tuple[int, dict[str, Any]]) -> None:
    _, document = confined

    assert document["attempts"].keys() == set(ATTEMPTS)
    assert document["needs"].keys() == set(NEEDS)


def test_without_confinement_most_of_it_works(bystander: int) -> None:
    """Or else the attempts would prove nothing."""
    with trying(bystander, "unconfined") as (_, document):
        assert len(document["attempts"]) > 10
        assert set(document["attempts"].values()) == {None}


def test_the_proof_of_a_confined_process_is_the_roles(confined: tuple[int, dict[str, Any]]) -> None:
    _, document = confined

    assert document["proof"] == expected_proof(WORKER)
    assert differences(WORKER, document["proof"]) == []


def test_the_proof_is_what_the_kernel_says(confined: tuple[int, dict[str, Any]]) -> None:
    pid, document = confined

    assert proof_from(Path(f"/proc/{pid}/status").read_text()) == document["proof"]


def test_a_confined_process_leaves_no_core_and_cannot_be_looked_into(
    confined: tuple[int, dict[str, Any]],
) -> None:
    """What belongs to nobody is root's in /proc when the process is not dumpable (prctl(2))."""
    pid, _ = confined
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (core,) = [line.split() for line in limits if line.startswith("Max core file size")]

    assert core[4:6] == ["0", "0"]
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0


# ---- what a proof must say ----

PROOF = expected_proof(WORKER)
TAMPERED = [
    ("Uid", "0 0 0 0"),
    ("Uid", f"{NOBODY.pw_uid} 0 {NOBODY.pw_uid} {NOBODY.pw_uid}"),
    ("Gid", "0 0 0 0"),
    ("Groups", "0"),
    ("Groups", "27"),
    ("CapInh", "0000000000000001"),
    ("CapPrm", "0000000000002000"),
    ("CapEff", "0000000000002000"),
    ("CapBnd", "000001ffffffffff"),
    ("CapAmb", "0000000000002000"),
    ("NoNewPrivs", "0"),
    ("Seccomp", "0"),
    ("Seccomp", "1"),
]


@pytest.mark.parametrize(("field", "value"), TAMPERED)
def test_a_tampered_proof_is_refused(field: str, value: str) -> None:
    assert differences(WORKER, {**PROOF, field: value}) == [
        f"{field}: got {value!r}, expected {PROOF[field]!r}"
    ]


def test_every_field_is_tampered_with() -> None:
    assert {field for field, _ in TAMPERED} == PROOF.keys() == set(PROOF_FIELDS)


@pytest.mark.parametrize("field", PROOF_FIELDS)
def test_a_proof_without_a_field_is_refused(field: str) -> None:
    rest = {name: value for name, value in PROOF.items() if name != field}

    assert differences(WORKER, rest) == [f"{field}: got None, expected {PROOF[field]!r}"]


def test_less_than_the_role_has_is_refused_too() -> None:
    role = replace(WORKER, capabilities=frozenset({"net_raw"}))

    assert {line.split(":")[0] for line in differences(role, PROOF)} == {"CapPrm", "CapEff", "CapBnd"}


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES.keys())
def test_no_roles_proof_passes_for_another_role(role: Role) -> None:
    for other in ROLES.values():
        assert (differences(other, expected_proof(role)) == []) == (other is role)


# ---- what cannot be given up, or is not there ----


def run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        extra_groups=SURPLUS_GROUPS,
    )


def test_confinement_that_fails_is_an_error() -> None:
    """A process that is nobody already, with no right to drop its bounding set, must not go on."""
    script = (
        "import os; from mcr.runtime import confine; from mcr.runtime.roles import WORKER;"
        f"os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid}); confine.give_up(WORKER)"
    )
    done = run(script)

    assert done.returncode != 0
    assert "KernelError: confine worker: Operation not permitted (EPERM)" in done.stderr


def test_an_unknown_system_call_is_an_error() -> None:
    script = "from mcr.worker.dataplane import allow_system_calls; allow_system_calls(['read', 'novelty'])"
    done = run(script)

    assert done.returncode == 1
    assert "KernelError: filter system calls read, novelty: Invalid argument (EINVAL)" in done.stderr


def test_no_filter_is_in_force_after_an_error() -> None:
    script = (
        "from mcr.worker.dataplane import allow_system_calls\n"
        "try: allow_system_calls(['read', 'novelty'])\n"
        "finally: print(open('/proc/self/status').read())"
    )
    ours = proof_from(Path("/proc/self/status").read_text())

    assert proof_from(run(script).stdout)["Seccomp"] == ours["Seccomp"]


def test_what_keeps_the_supervisors_capabilities_keeps_no_others() -> None:
    script = (
        "from mcr.runtime import confine; from mcr.runtime.roles import SUPERVISOR;"
        "confine.keep_capabilities(SUPERVISOR); print(open('/proc/self/status').read())"
    )
    proof = proof_from(run(script).stdout)
    without = {"Seccomp", "NoNewPrivs"}  # a container's business

    assert {line.split(":")[0] for line in differences(SUPERVISOR, proof)} <= without


def test_missing_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Permitted:
        def __getattr__(self, name: str) -> bool:
            return name not in {"net_raw", "kill", "bpf"}

    monkeypatch.setattr(prctl, "cap_permitted", Permitted())

    with pytest.raises(
        UsageError, match="got a process without CAP_KILL, CAP_NET_RAW, expected root with them"
    ):
        confine.require_capabilities(SUPERVISOR)

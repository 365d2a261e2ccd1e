"""The daemon as a process: how it starts, what it refuses, how it ends, and what of it survives what."""

import contextlib
import functools
import json
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mcr.client import Client
from mcr.supervisor.main import main
from mcr.wire.documents import WorkerDocument, rule_to_params
from tests.support.control import make_socket_file
from tests.support.daemon import BIN, Daemon, is_running
from tests.support.lab import Host, Lab
from tests.support.rules import rule
from tests.support.wait import wait_for

DEADLINE_S = 10
STOP_DEADLINE_S = 2.0
NOBODY = pwd.getpwnam("nobody")
RULE = {"name": "one", "from": "239.1.1.1%in0:5001", "to": ["239.2.2.2%out0:6000"]}
OTHER = {"name": "two", "from": "239.1.1.2%missing0:5001", "to": ["239.2.2.2%out0:6000"]}
CONFIG = {"workers": 2, "rules": [RULE]}


class Changed(Daemon):
    """A daemon into which a test puts something else first."""

    change = ""

    def start(self) -> None:
        script = f"import sys\n{self.change}\nfrom mcr.supervisor.main import main\nsys.exit(main())"
        arguments = ["--config", str(self._config), "--control", str(self.control)]
        with self.log_path.open("ab") as log:
            command = self.host.command(sys.executable, "-c", script, *arguments)
            self._process = subprocess.Popen(command, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Give a host with two interfaces that are up, each at the end of a cable that nobody listens to."""
    with Lab() as lab:
        made = lab.host("mcrd")
        for name in ("in0", "out0"):
            made.ip(
                f"link add {name} type veth peer name {name}x", f"link set {name} up", f"link set {name}x up"
            )
        made.ip("addr add 10.0.0.1/24 dev in0", "addr add 10.1.0.1/24 dev out0")
        for name in ("in0", "out0"):
            wait_for(f"{name} to be up", functools.partial(made.is_up, name))
        yield made


def run(
    host: Host, *arguments: str, before: tuple[str, ...] = (), script: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a daemon that is expected to end by itself."""
    program = [sys.executable, "-c", script] if script else [str(BIN / "mcrd")]
    return subprocess.run(
        host.command(*before, *program, *arguments),
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def write_config(directory: Path, config: object) -> str:
    path = directory / "mcr.json5"
    path.write_text(json.dumps(config))
    return str(path)


# ---- checking ----

# As nobody, who may not be able to read the checkout: everything is imported, and used once, before.
AS_NOBODY = f"""
import os, sys
from mcr.supervisor.main import main
out = os.dup(1), os.dup(2)
nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(nowhere, 1), os.dup2(nowhere, 2)
main(["--check", *sys.argv[1:3]])
sys.stdout.flush()
os.dup2(out[0], 1), os.dup2(out[1], 2)
os.setgroups([]), os.setgid({NOBODY.pw_gid}), os.setuid({NOBODY.pw_uid})
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """Give a directory that nobody may look into, other than pytest's."""
    directory = Path("/tmp") / f"mcrp-{os.getpid()}"  # noqa: S108 - removed below, and only read by nobody
    directory.mkdir(mode=0o755)
    yield directory
    for path in directory.iterdir():
        path.rename(tmp_path / path.name)
    directory.rmdir()


def test_a_good_file_can_be_checked_without_privileges(host: Host, public: Path) -> None:
    path = write_config(public, {"rules": [RULE, OTHER]})
    done = run(host, "--config", path, "--check", script=AS_NOBODY)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: 2 rules, no problems\n", "")


def test_everything_that_is_wrong_in_a_file_is_listed(host: Host, public: Path) -> None:
    bad = {"novelty": 1, "workers": 0, "rules": [{**RULE, "from": "239.1.1.1:5001"}, {**RULE, "to": []}]}
    path = write_config(public, bad)
    done = run(host, "--config", path, "--check", script=AS_NOBODY)
    lines = done.stderr.splitlines()

    assert (done.returncode, done.stdout) == (2, "")
    assert len(lines) == 4
    assert {re.sub(r"^.*?: (.*?): got .*, expected .*$", r"\1", line) for line in lines} == {
        *("novelty", "workers", "rules[0].from", "rules[1].to")
    }
    assert all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_bad_file_does_not_start(host: Host, tmp_path: Path, options: tuple[str, ...]) -> None:
    path = write_config(tmp_path, {"rules": [{"from": "nonsense", "to": ["192.0.2.7:6000"]}]})
    done = run(host, "--config", path, "--control", str(tmp_path / "control.sock"), *options)

    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}: rules[0].from: got ")
    assert not (tmp_path / "control.sock").exists()


def test_a_file_that_is_not_there_does_not_start(host: Host, tmp_path: Path) -> None:
    done = run(host, "--config", str(tmp_path / "missing.json5"), "--control", str(tmp_path / "control.sock"))

    assert done.returncode == 2
    assert str(tmp_path / "missing.json5") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--novelty"], ["--workers", "0"], ["--workers", "257"], ["--workers", "x"], ["rest"]]
)
def test_bad_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mcrd")


# ---- starting ----


@pytest.mark.parametrize(
    ("dropped", "names"),
    [("-net_raw", "CAP_NET_RAW"), ("-net_raw,-setpcap,-kill", "CAP_KILL, CAP_NET_RAW, CAP_SETPCAP")],
)
def test_missing_capabilities_are_named(host: Host, tmp_path: Path, dropped: str, names: str) -> None:
    control = tmp_path / "control.sock"
    done = run(
        host,
        "--control",
        str(control),
        "--config",
        write_config(tmp_path, CONFIG),
        before=("setpriv", "--bounding-set", dropped),
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"mcrd: got a process without {names}, expected root with them: ")
    assert not control.exists()


def test_without_cap_bpf_it_runs_and_bypasses_nothing(host: Host, tmp_path: Path) -> None:
    config = {"rules": [{"from": "239.1.1.1%lo:5001", "to": ["239.2.2.2%lo:6000"]}]}
    command = ("setpriv", "--bounding-set", "-bpf", str(BIN / "mcrd"))
    with Daemon(host, tmp_path, config, command=command) as daemon:
        assert daemon.interface("lo")["state"] == "up"
        assert daemon.interface("lo")["bypass"] == {"on": False, "reason": "Operation not permitted"}


def test_without_root_it_says_what_it_needs(host: Host, public: Path) -> None:
    done = run(host, "--config", write_config(public, CONFIG), script=AS_NOBODY)

    assert done.returncode == 2
    assert done.stderr.startswith("mcrd: got a process without CAP_KILL, CAP_NET_ADMIN, CAP_NET_RAW, ")
    assert "start it as root" in done.stderr


def test_without_a_configuration_it_starts_without_rules_and_says_so(host: Host, tmp_path: Path) -> None:
    absent = tmp_path / "absent.json5"

    class WithoutConfiguration(Changed):
        change = (
            "import mcr.supervisor.main as changed; from pathlib import Path\n"
            f"changed.DEFAULT_CONFIG = Path({str(absent)!r}); del sys.argv[1:3]"
        )

    with WithoutConfiguration(host, tmp_path) as daemon:
        assert daemon.rules() == []
        assert f'"no configuration, starting without rules" looked_at={absent}' in daemon.log()


def test_a_path_where_a_living_daemon_listens_is_refused_and_that_daemon_goes_on(
    host: Host, tmp_path: Path
) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon:
        done = run(host, "--control", str(daemon.control), "--config", write_config(tmp_path, CONFIG))

        assert done.returncode == 2
        assert done.stderr.endswith(
            f"mcrd: {daemon.control}: got a path where a living daemon listens, "
            "expected another one (--control PATH)\n"
        )
        assert "Traceback" not in done.stderr
        assert daemon.call("ping") == {}


def test_a_path_that_cannot_be_used_is_refused(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(host, "--control", str(tmp_path / "file"), "--config", write_config(tmp_path, CONFIG))

    assert done.returncode == 2
    assert f"mcrd: {tmp_path / 'file'}: got something there that is no socket" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dead_daemons_socket_file_is_in_nobodys_way(host: Host, tmp_path: Path) -> None:
    make_socket_file(tmp_path / "control.sock")

    with Daemon(host, tmp_path, CONFIG) as daemon:
        assert daemon.call("ping") == {}


def test_it_starts_again_after_it_was_killed(host: Host, tmp_path: Path) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon:
        daemon.kill()
    assert daemon.control.exists()

    with Daemon(host, tmp_path, CONFIG) as again:
        assert [rule["state"] for rule in again.rules()] == ["active"]


def test_workers_are_pinned_to_the_usable_cpus_one_after_the_other(host: Host, tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with Daemon(host, tmp_path, {"workers": len(cpus) + 1}) as daemon:
        workers = daemon.workers()

        assert [worker["cpu"] for worker in workers] == [*cpus, cpus[0]]
        assert [psutil.Process(worker["pid"]).cpu_affinity() for worker in workers] == [
            [worker["cpu"]] for worker in workers
        ]


def test_without_a_number_there_is_one_worker_for_each_usable_cpu(host: Host, tmp_path: Path) -> None:
    with Daemon(host, tmp_path) as daemon:
        assert len(daemon.workers()) == len(os.sched_getaffinity(0))


# ---- ending ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_time_and_leaves_nothing(
    host: Host, tmp_path: Path, number: signal.Signals
) -> None:
    """That no process outlives it and the socket file is gone is for `Daemon.stop` to see."""
    before = {name: host.read(name) for name in ("igmp", "mcfilter", "packet", "udp")}
    with Daemon(host, tmp_path, CONFIG) as daemon:
        assert {name: host.read(name) for name in before} != before
        daemon.stop(number)

    after = {name: host.read(name) for name in before}
    assert [line.split()[:4] for line in after["igmp"].splitlines()] == [
        line.split()[:4] for line in before["igmp"].splitlines()
    ]
    assert (after["mcfilter"], after["packet"]) == (before["mcfilter"], before["packet"])


def test_a_signal_that_comes_while_workers_start_ends_everything_too(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, {"workers": 4})
    daemon.start()
    wait_for("the first child", lambda: psutil.Process(daemon.pid).children())

    daemon.stop()


def test_a_signal_that_comes_at_once_ends_it_too(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, CONFIG)
    daemon.start()
    wait_for("the control socket", daemon.control.exists)

    daemon.stop()


def test_a_signal_to_all_processes_at_once_ends_everything(host: Host, tmp_path: Path) -> None:
    """It is what systemd sends: the ends of the workers call for another look while the daemon stops."""
    with Daemon(host, tmp_path, {**CONFIG, "workers": 4}) as daemon:
        daemon.logs_errors = True
        for worker in daemon.workers():
            os.kill(worker["pid"] or 0, signal.SIGTERM)
        daemon.stop()


def test_a_signal_ends_it_in_time_when_a_worker_hangs(host: Host, tmp_path: Path) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon:
        daemon.logs_errors = True
        suspend(daemon, 0)
        daemon.stop()


def test_workers_end_when_the_supervisor_is_killed(host: Host, tmp_path: Path) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon:
        workers = [psutil.Process(worker["pid"]) for worker in daemon.workers()]
        daemon.process.kill()
        daemon.process.wait(DEADLINE_S)

        assert len(workers) == 2
        assert wait_for("their end", lambda: not any(map(is_running, workers)), STOP_DEADLINE_S)


# ---- workers that die, hang or lie ----


def pid_of(daemon: Daemon, number: int) -> int:
    pid = daemon.workers()[number]["pid"]
    assert pid is not None
    return pid


def suspend(daemon: Daemon, number: int) -> int:
    """Let a worker hang: it is there, and does nothing; give its pid."""
    pid = pid_of(daemon, number)
    os.kill(pid, signal.SIGSTOP)
    wait_for("the worker to hang", lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return pid


def is_replaced(daemon: Daemon, number: int, pid: int) -> Callable[[], bool]:
    """Give a condition: the worker has another process, which has its share."""

    def look() -> bool:
        worker = daemon.workers()[number]
        is_installed = worker["installed_digest"] == worker["expected_digest"]
        return worker["pid"] not in {None, pid} and worker["state"] == "ready" and is_installed

    return look


def test_a_killed_worker_is_started_again_and_that_is_shown(host: Host, tmp_path: Path) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon:
        pid = pid_of(daemon, 1)
        os.kill(pid, signal.SIGKILL)
        wait_for("its successor", is_replaced(daemon, 1, pid))

        assert [worker["restarts"] for worker in daemon.workers()] == [0, 1]
        daemon.logs_errors = True
        assert re.search(rf'"worker gone" worker=1 pid={pid} status=-9 again_in_s=0\.1', daemon.log())


def test_a_worker_that_dies_again_and_again_is_started_less_and_less_often(
    host: Host, tmp_path: Path
) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon:
        daemon.logs_errors = True
        for _ in range(3):
            pid = pid_of(daemon, 0)
            os.kill(pid, signal.SIGKILL)
            wait_for("its successor", is_replaced(daemon, 0, pid))

        assert re.findall(r"again_in_s=([\d.]+)", daemon.log()) == ["0.1", "0.2", "0.4"]


def test_rules_can_be_changed_while_a_worker_dies(host: Host, tmp_path: Path) -> None:
    with Daemon(host, tmp_path, CONFIG) as daemon, daemon.client() as client:
        daemon.logs_errors = True
        for round_ in range(3):
            for worker in daemon.workers():
                if worker["pid"]:
                    os.kill(worker["pid"], signal.SIGKILL)
            for number in range(10):
                add(client, f"239.9.{round_}.{number}%in0:5001")
        workers = daemon.wait_until_installed()

        assert len(daemon.rules()) == 31
        assert sum(worker["rules"] for worker in workers) == 31


def add(client: Client, endpoint: str) -> None:
    client.call("rule.add", **rule_to_params(rule(endpoint, "239.2.2.2%out0:6000")))


def test_workers_that_cannot_be_started_are_tried_again(host: Host, tmp_path: Path) -> None:
    """For example because root without its other capabilities may not look into the directory of mcr."""
    interpreter = tmp_path / "python"

    class Misplaced(Changed):
        change = (
            "import types; import mcr.runtime.spawn as changed\n"
            f"changed.sys = types.SimpleNamespace(executable={str(interpreter)!r})"
        )

    daemon = Misplaced(host, tmp_path, CONFIG)
    daemon.start()
    try:
        wait_for("a message", lambda: "step failed" in daemon.log())
        assert re.search(r"StartWorker.*No such file", daemon.log())
        assert daemon.call("ping") == {}

        interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        interpreter.chmod(0o755)
        daemon.wait_until_open()
    finally:
        daemon.stop()


class Impatient(Changed):
    """A daemon that waits for its workers for half a second only."""

    change = "import mcr.supervisor.reconcile as changed; changed.ANSWER_DEADLINE_S = 0.5"


def test_a_worker_that_hangs_is_ended_and_started_again(host: Host, tmp_path: Path) -> None:
    with Impatient(host, tmp_path, CONFIG) as daemon, daemon.client() as client:
        daemon.logs_errors = True
        pids = [suspend(daemon, number) for number in (0, 1)]
        add(client, "239.1.1.9%in0:5001")
        given = [number for number, worker in enumerate(daemon.workers()) if worker["restarts"]]
        for number in given:
            wait_for("its successor", is_replaced(daemon, number, pids[number]))

        assert given
        assert daemon.log().count("share not acknowledged in time") == len(given)
        assert daemon.call("ping") == {}
        for pid in pids:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGCONT)


def test_a_worker_that_never_becomes_ready_is_ended_and_tried_again(host: Host, tmp_path: Path) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text("import time\nwhile True: time.sleep(60)\n")

    class Silent(Impatient):
        change = f"{Impatient.change}\n{replace_worker(silent)}"

    daemon = Silent(host, tmp_path, {"workers": 1})
    daemon.start()
    try:
        wait_for("another try", lambda: daemon.log().count("not ready in time") >= 2)
        assert daemon.call("ping") == {}
    finally:
        daemon.logs_errors = True
        daemon.stop()


def replace_worker(script: Path) -> str:
    """Give what makes the daemon run *script* in place of its workers, with the channel as its argument."""
    return f"""
import asyncio
import mcr.supervisor.workers as changed_workers
async def spawn(role, arguments, descriptor):
    return await asyncio.create_subprocess_exec(
        sys.executable, {str(script)!r}, *arguments, pass_fds=(descriptor,), start_new_session=True
    )
changed_workers.spawn = spawn
"""


LIES = {
    "garbage": "end.send(b'garbage')",
    "nothing": "end.send(b'')",
    "too much": "end.send(b'x' * 70000)",
    "another's message": "end.send(encode(Hello(0, 1, 0, 0, False, 1)))",
    "no proof": "end.send(encode(Ready({})))",
    "root's proof": "end.send(encode(Ready(expected_proof(SUPERVISOR))))",
    "a proof of another form": "end.send(encode(Ready(5)))",
    "a share that it was not given": "end.send(encode(Installed(7, 7)))",
    "numbers of another form": "end.send(encode(Installed('x', None)))",
    "ready twice": "[end.send(encode(Ready(expected_proof(WORKER)))) for _ in range(2)]",
    "many descriptors": "socket.send_fds(end, [encode(Ready({}))], [0] * 100)",
    "a loop of nobody": "end.send(pack({'kind': 'loop', 'rule': 0, 'group': b'', 'source': b''}))",
    "a forged line of the log": "end.send(pack({'kind': 'failed', 'reason': 'x\\nforged'}))",
    "why it fails": "end.send(encode(Failed('no fun today')))",
    "a flood": "[end.send(encode(Installed(7, 7))) for _ in range(10000)]",
}


def has_lost(daemon: Daemon, number: int) -> bool:
    return f'"worker gone" worker={number} ' in daemon.log()


def all_if_first_is_ready(daemon: Daemon) -> list[WorkerDocument]:
    workers = daemon.workers()
    return workers if workers[0]["state"] == "ready" and workers[0]["installed_digest"] else []


# Worker 0 becomes what it should be, the others say one of the things above.
LIAR = """
import os, socket, sys
from mcr.runtime.confine import expected_proof
from mcr.runtime.roles import SUPERVISOR, WORKER
from mcr.wire.codec import pack
from mcr.wire.worker import Failed, Hello, Installed, Ready, decode, encode
number = int(sys.argv[1])
end = socket.socket(fileno=number)
hello = decode(end.recv(100, socket.MSG_PEEK))
if hello.worker == 0:
    end.detach()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mcr", "worker", str(number)])
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # how it ends is its own business
end.recv(100)
exec({lies!r}[hello.worker - 1])
while end.recv(100): pass
"""


def test_workers_that_lie_are_ended_and_the_daemon_and_the_others_go_on(host: Host, tmp_path: Path) -> None:
    liar = tmp_path / "liar.py"
    liar.write_text(LIAR.format(lies=list(LIES.values())))

    class Lying(Impatient):
        change = f"{Impatient.change}\n{replace_worker(liar)}"

    daemon = Lying(host, tmp_path, {"workers": len(LIES) + 1})
    daemon.start()
    try:
        for number, lie in enumerate(LIES, start=1):
            wait_for(f"the end of {lie}", functools.partial(has_lost, daemon, number))
        honest, *liars = wait_for("worker 0", lambda: all_if_first_is_ready(daemon))

        assert honest["installed_digest"] == honest["expected_digest"]
        assert {worker["installed_digest"] for worker in liars} == {None}
        assert re.search('event="worker ended" .*reason="no fun today"', daemon.log())
        assert not re.search("^forged|Traceback|Exception in callback", daemon.log(), re.MULTILINE)
    finally:
        daemon.logs_errors = True
        daemon.stop()


def test_a_worker_with_another_roles_proof_is_refused(host: Host, tmp_path: Path) -> None:
    """The real worker, under a supervisor that expects less of it: more than the row is as wrong as less."""

    class Strict(Changed):
        change = (
            "from dataclasses import replace; import mcr.supervisor.children as changed\n"
            "changed.WORKER = replace(changed.WORKER, user='daemon')"
        )

    daemon = Strict(host, tmp_path, {"workers": 1, "rules": [RULE]})
    daemon.start()
    try:
        wait_for("two refusals", lambda: daemon.log().count("confinement: Uid: got") >= 2)
        workers = daemon.workers()
        (pending,) = daemon.rules()

        assert workers[0]["installed_digest"] is None
        assert workers[0]["state"] != "ready"
        assert pending["state"] == "pending"
    finally:
        daemon.logs_errors = True
        daemon.stop()


# ---- limits of the kernel ----


# Which filter finds no room then: any other one beside the old one, or the first.
@pytest.mark.parametrize("rules", [1300, 1500])
def test_more_rules_than_the_kernel_has_room_for_in_filters_are_relayed(
    host: Host, tmp_path: Path, rules: int
) -> None:
    """
    The filters of a socket, the old one included while it is replaced, may take net.core.optmem_max bytes.

    Before Linux 6.8 that is 20 KiB for all namespaces.
    """
    with contextlib.suppress(FileNotFoundError):
        host.set("core/optmem_max", "20480")
    groups = [f"239.8.{number // 250}.{number % 250}%in0:5001" for number in range(rules)]
    config = {"workers": 1, "rules": [{"from": group, "to": ["239.2.2.2%out0:6000"]} for group in groups]}
    with Daemon(host, tmp_path, config) as daemon, daemon.client() as client:
        for number in range(2):
            add(client, f"239.9.9.{number}%in0:5001")
            send(host, "in0x", f"239.9.9.{number}", 5001)
            wait_for("its datagram", functools.partial(matched, daemon, f"239.9.9.{number}%in0:5001"))

        assert "step failed" not in daemon.log()


def send(host: Host, device: str, group: str, port: int) -> None:
    """Send one datagram out of an interface of the host itself, at the other end of a cable."""
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        request = struct.pack("=4s4si", bytes(4), bytes(4), host.index_of(device))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        sender.sendto(b"payload", (group, port))


def matched(daemon: Daemon, endpoint: str) -> bool:
    stats = daemon.call("stats")
    return any(one["from"] == endpoint and one["matched"] == 1 for one in stats["rules"])

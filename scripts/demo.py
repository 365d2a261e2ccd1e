"""
The relay at work: three network namespaces in a row, mcrd in the middle one, mcrgen at both ends.

Between source and sink there is no route: whatever arrives was relayed by the rules of examples/demo.json5.
Every number about what arrived comes from the receivers.  Run by ``scripts/demo``, as root.

Exit status: 0 every datagram arrived once; 1 some did not, or came twice; 2 it cannot run here;
130 interrupted.
"""

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import prctl
from tabulate import tabulate

from mcr.client import Client
from mcr.config import load_configuration
from mcr.errors import McrError
from mcr.model.endpoint import Endpoint
from mcr.model.rule import Rule
from mcr.runtime.roles import SUPERVISOR

CONFIG = Path(__file__).resolve().parents[1] / "examples" / "demo.json5"
COMMANDS = Path(sys.executable).parent
CONTROL = Path("/run/mcr-demo/control.sock")
PREFIX = "mcr-demo-"
SOURCE, RELAY, SINK = f"{PREFIX}source", f"{PREFIX}relay", f"{PREFIX}sink"
# Each network is a veth pair: namespace, interface and addresses of its two ends.
NETWORKS = (
    ((SOURCE, "eth0", "10.1.0.2/24", "2001:db8:1::2/64"), (RELAY, "eth0", "10.1.0.1/24", "2001:db8:1::1/64")),
    ((RELAY, "eth1", "10.2.0.1/24", "2001:db8:2::1/64"), (SINK, "eth0", "10.2.0.2/24", "2001:db8:2::2/64")),
)
READY_S = 15.0
LATE_S = 10.0  # a receiver that misses something gives up after 2 s without any datagram
STOP_S = 3.0
SHORTEST_SECOND_S = 0.5
HEAD = "TIME  RULE           IN PPS  OUTPUTS  OUT PPS    LOST   P50 US   P99 US  WORKER"
ROW = "{:>4}  {:<12} {:>8,.0f} {:>8} {:>8,.0f} {:>7,} {:>8,.0f} {:>8,.0f}  {}"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_LOST, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 1, 2, 130


class CannotRun(Exception):
    """The demo cannot run here; says why, and what would help."""


class Interrupted(Exception):
    """Somebody wants the demo to end."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent for one rule: datagrams per second, bytes of UDP payload."""

    rate_pps: int
    payload_bytes: int


TRAFFIC = {
    "camera": Traffic(10_000, 1316),  # seven packets of an MPEG transport stream
    "audio": Traffic(1_000, 288),
    "market-data": Traffic(5_000, 200),
}
OTHER_TRAFFIC = Traffic(1_000, 1_000)


class Child:
    """
    A process in a namespace, of which every line on its standard error is handed to *take*.

    It gets SIGTERM when this script dies, however that happens, and no Ctrl-C of its own.
    """

    def __init__(
        self, namespace: str, *command: str | Path, take: Callable[[str], None] | None = None
    ) -> None:
        self.name = Path(command[0]).name
        self.last_lines: deque[str] = deque(maxlen=20)
        self._take = take
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "ip", "netns", "exec", namespace, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self.last_lines.append(line.rstrip())
            if self._take:
                self._take(line.rstrip())

    @property
    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self._process.poll() is None

    def document(self) -> Any:  # noqa: ANN401 - a JSON document of mcrgen
        """
        Wait for the end and read what it printed.

        Raises:
            CannotRun: it is no JSON document.
        """
        text = self._process.stdout.read() if self._process.stdout else ""
        self._process.wait()
        try:
            return json.loads(text)
        except ValueError:
            raise CannotRun(self.complaint("said nothing")) from None

    def complaint(self, what: str) -> str:
        """Say what is wrong with it, and what it said last."""
        self._reader.join(STOP_S if not self.is_alive else 0)
        return "\n".join([f"{self.name} {what}", *(f"  {line}" for line in self.last_lines)])

    def stop(self) -> None:
        """End this one process, gently at first."""
        if self.is_alive:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


class Receiver:
    """What arrives at one output's destination."""

    def __init__(self, endpoint: Endpoint, count: int) -> None:
        self.is_listening = False
        self.pulses = 0
        self.now: dict[str, Any] = {"rate_pps": 0, "lost": 0, "latency_us": {"p50": None, "p99": None}}
        self.report: dict[str, Any] = {}
        options = ["--count", str(count), "--linger", "0.3", "--progress", "--json"]
        self.child = Child(
            SINK, COMMANDS / "mcrgen", "receive", "--from", str(endpoint), *options, take=self._take
        )

    def _take(self, line: str) -> None:
        if line == "listening":
            self.is_listening = True
        elif line.startswith("{"):
            self.now = json.loads(line)
            self.pulses += 1


@dataclass
class Stream:
    """A rule, what is sent for it, and who receives it."""

    rule: Rule
    traffic: Traffic
    count: int
    receivers: list[Receiver] = field(default_factory=list)
    sender: Child | None = None
    sent: int = 0
    workers: str = ""
    matched: int = 0

    def listen(self) -> None:
        """Start a receiver for each output."""
        for output in self.rule.outputs:
            place = Endpoint(output.to.address, output.to.port, "eth0")
            self.receivers.append(Receiver(place, self.count))

    def send(self) -> None:
        """Start the sender, which is the allowed one where the rule names any."""
        given = self.rule.input
        place = Endpoint(given.address, given.port, "eth0", given.sources[:1])
        how = ["--rate", self.traffic.rate_pps, "--size", self.traffic.payload_bytes, "--count", self.count]
        self.sender = Child(SOURCE, COMMANDS / "mcrgen", "send", "--to", str(place), *map(str, how), "--json")

    def stop(self) -> None:
        """End whatever was started."""
        for child in [receiver.child for receiver in self.receivers] + ([self.sender] if self.sender else []):
            child.stop()


# ---- the stage -------------------------------------------------------------------------------------


def ip(*arguments: str) -> str:
    """
    Run ``ip``; give what it printed.

    Raises:
        CannotRun: it failed; says what it was for.
    """
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def check_capabilities() -> None:
    """
    Make sure that namespaces can be made and mcrd can be started.

    Raises:
        CannotRun: naming what is missing.
    """
    needed = {"sys_admin", *SUPERVISOR.capabilities - SUPERVISOR.optional}
    missing = sorted(name for name in needed if not getattr(prctl.cap_effective, name))
    if missing:
        names = ", ".join(f"CAP_{name.upper()}" for name in missing)
        raise CannotRun(f"got a process without {names}, expected root with them (in a container, add them)")


def hold_lock(stack: ExitStack) -> None:
    """
    Be the only demo here; the kernel lets go when this process ends.

    Raises:
        CannotRun: another one is running.
    """
    lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        lock.bind("\0mcr-demo")
    except OSError:
        raise CannotRun("got another demo that is running, expected none: wait for its end") from None


def remove_networks() -> None:
    """Remove the namespaces, and with them their interfaces, of this run or of an aborted one."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(PREFIX):
            ip("netns", "del", name)


def make_networks() -> None:
    """Make the three namespaces and the two networks between them."""
    for namespace in (SOURCE, RELAY, SINK):
        ip("netns", "add", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
    for left, right in NETWORKS:
        peer = ("peer", "name", right[1], "netns", right[0])
        ip("link", "add", left[1], "netns", left[0], "type", "veth", *peer)
        for namespace, interface, *addresses in (left, right):
            for address in addresses:
                # Nobody else can have it: no need to wait for duplicate address detection.
                nodad = ("nodad",) if ":" in address else ()
                ip("-n", namespace, "address", "add", address, "dev", interface, *nodad)
            ip("-n", namespace, "link", "set", interface, "up")


def is_relaying() -> bool:
    """Say whether the daemon answers and every rule is in force in its workers."""
    try:
        with Client(CONTROL) as client:
            rules: Any = client.call("rule.list")
            workers: Any = client.call("worker.list")
    except McrError:
        return False
    installed = all(worker["expected_digest"] == worker["installed_digest"] for worker in workers)
    return installed and all(part["state"] == "active" for rule in rules for part in (rule, *rule["outputs"]))


# ---- what it shows ---------------------------------------------------------------------------------


class Screen:
    """A table, every second anew: in place on a terminal, its lines one after the other elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._columns = shutil.get_terminal_size().columns if self._is_terminal else None
        self._shown = 0

    def show(self, lines: Sequence[str]) -> None:
        """Show *lines*, on a terminal over those shown before; a line that wraps could not be overwritten."""
        if self._shown and self._is_terminal:
            print(f"\x1b[{self._shown}F\x1b[J", end="")
        elif not self._shown:
            print(HEAD[: self._columns])
        for line in lines:
            print(line[: self._columns])
        sys.stdout.flush()
        self._shown = len(lines)


def describe(stream: Stream, second: int, in_pps: float) -> str:
    """Say in one line what happens to a stream now; of several outputs, the latency of the slowest one."""
    now = [receiver.now for receiver in stream.receivers]
    out_pps, lost = (sum(one[key] for one in now) for key in ("rate_pps", "lost"))
    latencies = [one["latency_us"] for one in now]
    p50, p99 = (max((one[key] for one in latencies if one[key]), default=0) for key in ("p50", "p99"))
    return ROW.format(
        f"{second} s", stream.rule.name, in_pps, len(now), out_pps, lost, p50, p99, stream.workers
    )


class Show:
    """
    Shows what happens to *streams*, whenever every receiver has told of another second.

    The second in which the senders begin is left out: every receiver's own seconds begin at another moment,
    so what has gone in and what has come out would not be comparable.
    """

    def __init__(self, streams: Sequence[Stream], client: Client) -> None:
        self._streams = streams
        self._client = client
        self._screen = Screen()
        self._told = time.monotonic()
        self._second = 0
        self._pulses = self._count_pulses()

    def beat(self) -> None:
        """Show the last second if it has not been shown."""
        now, pulses = time.monotonic(), self._count_pulses()
        if pulses == self._pulses or now - self._told < SHORTEST_SECOND_S:
            return
        matched, lines = read_matched(self._client), []
        for stream in self._streams:
            in_pps = (matched[stream.rule.id] - stream.matched) / (now - self._told)
            lines.append(describe(stream, self._second, in_pps))
            stream.matched = matched[stream.rule.id]
        if self._second:
            self._screen.show(lines)
        self._second += any(stream.matched for stream in self._streams)
        self._told, self._pulses = now, pulses

    def _count_pulses(self) -> int:
        return min(receiver.pulses for stream in self._streams for receiver in stream.receivers)


def watch(streams: Sequence[Stream], client: Client, mcrd: Child, deadline: float) -> None:
    """
    Show what happens until every receiver has all, or has given up.

    Raises:
        CannotRun: mcrd ends, or a receiver never does.
    """
    show = Show(streams, client)
    receivers = [receiver.child for stream in streams for receiver in stream.receivers]
    while any(receiver.is_alive for receiver in receivers):
        if not mcrd.is_alive:
            raise CannotRun(mcrd.complaint("ended early"))
        if time.monotonic() > deadline:
            raise CannotRun(receivers[0].complaint("does not end"))
        show.beat()
        time.sleep(0.05)


def read_matched(client: Client) -> dict[str, int]:
    """Ask the daemon how many datagrams each rule has matched."""
    stats: Any = client.call("stats")
    return {rule["id"]: rule["matched"] for rule in stats["rules"]}


def name_workers(streams: Sequence[Stream], client: Client) -> None:
    """Ask the daemon which worker holds which rule."""
    rules: Any = client.call("rule.list")
    holders = {rule["id"]: " ".join(map(str, rule["workers"])) for rule in rules}
    for stream in streams:
        stream.workers = holders[stream.rule.id]


def introduce(client: Client) -> None:
    """Say what runs."""
    workers: Any = client.call("worker.list")
    print(f"{SOURCE} eth0 ---- eth0 {RELAY} eth1 ---- eth0 {SINK}")
    print("There is no route from source to sink; mcrd relays by the rules of examples/demo.json5.")
    for one in workers:
        print(f"worker {one['worker']}: pid {one['pid']}, CPU {one['cpu']}, {one['rules']} rules")
    print(flush=True)


def summarize(streams: Sequence[Stream]) -> bool:
    """Print what was sent and what arrived; say whether every datagram arrived once."""
    rows: list[list[object]] = []
    sent = missing = repeated = 0
    for stream in streams:
        for output, receiver in zip(stream.rule.outputs, stream.receivers, strict=True):
            report, latency = receiver.report, receiver.report["latency_us"]
            lost, name = max(stream.sent - report["distinct"], 0), stream.rule.name
            row = [name, str(output.to), stream.sent, report["distinct"], lost, report["duplicated"]]
            rows.append([*row, latency["p50"], latency["p99"], stream.workers])
            sent, missing, repeated = sent + stream.sent, missing + lost, repeated + report["duplicated"]
    head = ["RULE", "OUTPUT", "SENT", "RECEIVED", "LOST", "TWICE", "P50 US", "P99 US", "WORKER"]
    print("\nCounted at the receivers; latency is from sending to arrival in the sink's kernel:\n")
    print(tabulate(rows, head, tablefmt="plain", floatfmt=",.0f", intfmt=",", missingval="-"))
    verdict = f"{missing:,} LOST" if missing else "nothing was lost"
    twice = f", {repeated:,} CAME TWICE" if repeated else ""
    print(f"\n{verdict}: {sent - missing:,} of {sent:,} datagrams arrived{twice}", flush=True)
    return missing == repeated == 0


# ---- the play --------------------------------------------------------------------------------------


def play(seconds: int, stack: ExitStack) -> bool:
    """
    Build, relay, count; say whether every datagram arrived once.  *stack* takes everything down.

    Raises:
        CannotRun: something that the demo needs does not work here.
    """
    rules = load_configuration(CONFIG).rules
    check_capabilities()
    hold_lock(stack)
    stack.callback(remove_networks)
    remove_networks()
    make_networks()
    stack.callback(shutil.rmtree, CONTROL.parent, ignore_errors=True)
    mcrd = Child(RELAY, COMMANDS / "mcrd", "--config", CONFIG, "--control", CONTROL)
    stack.callback(mcrd.stop)
    streams = [make_stream(rule, seconds) for rule in rules]
    for stream in streams:
        stack.callback(stream.stop)
        stream.listen()
    wait_until_ready(mcrd, streams)
    with Client(CONTROL) as client:
        introduce(client)
        name_workers(streams, client)
        for stream in streams:
            stream.send()
        watch(streams, client, mcrd, time.monotonic() + seconds + LATE_S)
    collect(streams)
    is_complete = summarize(streams)
    print("\nThe daemon's own account, from mcrctl stats:\n", flush=True)
    subprocess.run([COMMANDS / "mcrctl", "--control", CONTROL, "stats"], check=False)
    return is_complete


def make_stream(rule: Rule, seconds: int) -> Stream:
    """Decide what is sent for a rule."""
    traffic = TRAFFIC.get(rule.name, OTHER_TRAFFIC)
    return Stream(rule, traffic, traffic.rate_pps * seconds)


def wait_until_ready(mcrd: Child, streams: Sequence[Stream]) -> None:
    """
    Wait until nothing that is sent from now on can be missed.

    Raises:
        CannotRun: that does not come, or a process ends.
    """
    receivers = [receiver for stream in streams for receiver in stream.receivers]
    children = [mcrd, *(receiver.child for receiver in receivers)]
    deadline = time.monotonic() + READY_S
    while not (all(receiver.is_listening for receiver in receivers) and is_relaying()):
        for child in children:
            if not child.is_alive:
                raise CannotRun(child.complaint("ended early"))
        if time.monotonic() > deadline:
            late = next((one.child for one in receivers if not one.is_listening), mcrd)
            raise CannotRun(late.complaint(f"is not ready after {READY_S:.0f} s"))
        time.sleep(0.02)


def collect(streams: Sequence[Stream]) -> None:
    """
    Read the reports of senders and receivers.

    Raises:
        CannotRun: one of them has none.
    """
    for stream in streams:
        stream.sent = stream.sender.document()["sent"] if stream.sender else 0
        for receiver in stream.receivers:
            receiver.report = receiver.child.document()


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """Unwind, so that everything is taken down; once only, or taking down would be interrupted too."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted


def main() -> int:
    """Run the demo; give the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Relay between network namespaces for some seconds."
    )
    parser.add_argument("--seconds", type=int, default=6, metavar="N", help="how long to send (6)")
    seconds = parser.parse_args().seconds
    for number in ENDING_SIGNALS:
        signal.signal(number, interrupt)
    try:
        with ExitStack() as stack:
            is_complete = play(max(1, seconds), stack)
    except (CannotRun, McrError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except Interrupted:
        print("demo: interrupted; nothing can be said about loss", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0 if is_complete else EXIT_LOST


if __name__ == "__main__":
    sys.exit(main())

"""The relays that are compared: mcrd and its peers from Debian's packages."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcr.model.endpoint import Endpoint, parse_endpoint
from tests.bench.job import INPUT_PORT, OUTPUT_PORT, Job
from tests.bench.stage import Stage
from tests.support.daemon import Daemon
from tests.support.lab import Host
from tests.support.traffic import group_mac
from tests.support.wait import wait_for

TTL = 8  # enough for every relay to take one off
STOP_S = 5
SOCKET_BYTES = 64 << 20
SETTLE_S = 0.3

Settings = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Running:
    """
    A relay at work.

    Attributes:
        pids: the processes that relay; none if the kernel does it.
        daemons: of mcr, hop by hop.
    """

    pids: tuple[int, ...] = ()
    daemons: tuple[Daemon, ...] = ()

    def kernel_dropped(self) -> int:
        """Give what found no room in the receive rings of mcr."""
        return sum(one["kernel_dropped"] for daemon in self.daemons for one in daemon.stats()["interfaces"])

    def not_sent(self) -> int:
        """Give what mcr matched and did not send, at all outputs."""
        rules = (rule for daemon in self.daemons for rule in daemon.stats()["rules"])
        return sum(sum(output["not_sent"].values()) for rule in rules for output in rule["outputs"])


Start = Callable[[Stage, Job, Settings], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Relay:
    """
    One of the relays.

    Attributes:
        does: how it relays.
        translates: it can change group and port.
        fans_out: it can send copies to several groups of one interface.
        start: puts it to work at the end of ``with``'s head, and ends it.
        package: Debian's, which has its command.
    """

    does: str
    translates: bool
    fans_out: bool
    start: Start
    package: str = ""


def mcr_config(stage: Stage, hop: int, job: Job, settings: Settings) -> dict[str, Any]:
    """Write the configuration of the relay number *hop*; *settings* of outputs begin with ``to.``."""
    of_outputs = {key.removeprefix("to."): value for key, value in settings.items() if key.startswith("to.")}
    of_file = {key: value for key, value in settings.items() if not key.startswith("to.")}
    outputs = stage.outputs(hop, job)
    # A relay further down has one rule for each copy that the first one has made.
    copies = job.copies if hop == 0 else 1
    rules = [
        {
            "name": f"bench-{number}",
            "from": source,
            "to": [_output(to, of_outputs) for to in outputs[number * copies : (number + 1) * copies]],
        }
        for number, source in enumerate(stage.inputs(hop, job)[: len(outputs) // copies])
    ]
    return {**of_file, "rules": rules}


def _output(to: str, settings: Settings) -> str | dict[str, object]:
    if not settings:
        return to
    parts = parse_endpoint(to)
    return {
        "interface": parts.interface,
        "address": str(parts.address),
        "port": parts.port,
        **settings,
    }


@contextmanager
def _mcr(stage: Stage, job: Job, settings: Settings) -> Iterator[Running]:
    with ExitStack() as stack:
        daemons = []
        for hop, host in enumerate(stage.relays):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            config = mcr_config(stage, hop, job, settings)
            daemons.append(stack.enter_context(Daemon(host, directory, config)))
        workers = [worker for daemon in daemons for worker in daemon.wait_until_installed()]
        yield Running(tuple(worker["pid"] for worker in workers if worker["pid"]), tuple(daemons))


@contextmanager
def _smcroute(stage: Stage, _job: Job, _settings: Settings) -> Iterator[Running]:
    """Install a route for the sender's address, or the first datagrams would be lost until one is made."""
    relay, group = stage.relays[0], stage.group(0)
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "smcroute.conf")
        config.write_text(
            f"mgroup from r0 group {group}\nmroute from r0 source 10.1.0.1 group {group} to r1\n",
            encoding="ascii",
        )
        files = ("-f", str(config), "-P", f"{directory}/pid", "-u", f"{directory}/socket")
        with _process(relay, "smcrouted", "-n", *files):
            wait_for("the multicast route", lambda: len(relay.read("ip_mr_cache").splitlines()) > 1)
            yield Running()


@contextmanager
def _socat(stage: Stage, _job: Job, _settings: Settings) -> Iterator[Running]:
    listen = f"UDP4-RECV:{INPUT_PORT},ip-add-membership={stage.group(0)}:r0,rcvbuf-late={SOCKET_BYTES}"
    send = f"UDP4-DATAGRAM:{stage.group(1)}:{OUTPUT_PORT},ip-multicast-if=10.2.0.1,ip-multicast-ttl={TTL}"
    pinned = ("taskset", "-c", str(stage.cpus.relay))
    relay = stage.relays[0]
    with _process(relay, *pinned, "socat", "-u", "-b", "65536", listen, send) as process:
        wait_for("socat to listen", lambda: f":{INPUT_PORT:04X} " in relay.read("udp"))
        yield Running((process.pid,))


@contextmanager
def _tc_mirred(stage: Stage, _job: Job, _settings: Settings) -> Iterator[Running]:
    tc = stage.relays[0].run
    match = ("match", "ip", "dst", f"{stage.group(0)}/32", "match", "ip", "dport", str(INPUT_PORT), "0xffff")
    redirect = ("action", "mirred", "egress", "redirect", "dev", "r1")
    tc("tc", "qdisc", "add", "dev", "r0", "clsact")
    try:
        tc("tc", "filter", "add", "dev", "r0", "ingress", "protocol", "ip", "u32", *match, *redirect)
        yield Running()
    finally:
        tc("tc", "qdisc", "del", "dev", "r0", "clsact")


@contextmanager
def _nftables(stage: Stage, job: Job, _settings: Settings) -> Iterator[Running]:
    nft = stage.relays[0].run
    nft("nft", nft_ruleset(stage.group(0), stage.outputs(0, job)))
    try:
        yield Running()
    finally:
        nft("nft", "delete table netdev mcrb")


def nft_ruleset(group: str, outputs: Sequence[str]) -> str:
    """Rewrite and send out a copy for each output; the last one is the datagram itself."""
    *copies, last = map(parse_endpoint, outputs)
    steps = [*(f"{_rewrite(to)} dup to r1" for to in copies), f"{_rewrite(last)} fwd to r1"]
    # A rewritten datagram does not match again, so several steps stand in a chain of their own.
    verdict = "jump copies" if copies else steps[0]
    return "\n".join(
        [
            "table netdev mcrb {",
            "chain copies {",
            *steps,
            "}",
            "chain relay {",
            "type filter hook ingress device r0 priority 0",
            f"ip daddr {group} udp dport {INPUT_PORT} {verdict}",
            "}",
            "}",
        ]
    )


def _rewrite(to: Endpoint) -> str:
    mac = group_mac(str(to.address)).hex(":")
    return f"ether daddr set {mac} ip daddr set {to.address} udp dport set {to.port}"


@contextmanager
def _process(host: Host, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a peer until the end of ``with``; ``ip netns exec`` becomes the command, so the pid is its own."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(host.command(*command), stdout=said, stderr=said)
        try:
            time.sleep(SETTLE_S)
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)


RELAYS = {
    "mcr": Relay("user space, AF_PACKET ring to packet sockets", True, True, _mcr),
    "smcroute": Relay("kernel multicast routing", False, False, _smcroute, "smcroute"),
    "socat": Relay("user space, a datagram at a time", True, False, _socat, "socat"),
    "tc mirred": Relay("kernel, redirect before the IP stack", False, False, _tc_mirred, "iproute2"),
    "nftables": Relay("kernel, rewrite and forward before the IP stack", True, True, _nftables, "nftables"),
}

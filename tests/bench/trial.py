"""One trial: traffic through one relay, counted at the receiver, and the CPU time that it took."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from mcr.supervisor.workers import REALTIME_PRIORITY
from tests.bench.cpu import NS_PER_S, Reading, Usage, watch_others
from tests.bench.job import FULL_SPEED, Job, Stream, as_many_as_fit
from tests.bench.metrics import Sample
from tests.bench.relays import RELAYS, TTL, Running
from tests.bench.scenarios import Contender
from tests.bench.stage import Stage
from tests.support.lab import Host
from tests.support.laws import softnet_dropped
from tests.support.traffic import Receiver, Sender, receiving, sending
from tests.support.wait import wait_for

WARM_UP_S = 0.5
FILL_S, FILL_BYTES = 0.5, 1400
START_S = 1.0  # of a sender, at most
SLACK_S = 0.5  # the sender goes on a little longer than it is watched
QUIET_S = 0.3
DRAIN_S = 20.0
LONGEST_RECEIVE_S = 120
FIRST_FRAMES = 50


@dataclass(frozen=True, slots=True)
class Reports:
    """What sender, receiver, relay and kernel say about a trial."""

    sent: Any
    got: Any
    usage: Usage
    ring_dropped: int
    not_sent: int
    backlog_dropped: int
    of_crowd: Any = None


def relay_traffic(stage: Stage, contender: Contender, seconds: float) -> Sample:
    """Start a relay, send through it, and measure for *seconds* of the time that traffic flows."""
    relay, job = RELAYS[contender.relay], contender.job
    others_percent = watch_others()
    _fill_queue(stage, job)
    backlog_before = softnet_dropped()
    frames_before = _frames(stage.relays[0], "r0")
    with (
        relay.start(stage, job, contender.settings) as running,
        _receiving(stage, job, translated=relay.translates) as receiver,
        _crowding(stage, job, START_S + WARM_UP_S + seconds + SLACK_S) as crowd,
        _sending(stage, stage.sent_to(), job, WARM_UP_S + seconds + SLACK_S) as sender,
    ):
        usage = _watch(stage, running, seconds)
        assert sender.is_running, "the sender ended while it was watched"
        assert not crowd or crowd.is_running, "the crowd ended while the relay was watched"
        sent = sender.report()
        _wait_until_quiet(stage.sink)
        got = receiver.stop()
        of_crowd = crowd.report() if crowd else None
        frames = _frames(stage.relays[0], "r0") - frames_before
        backlog_dropped = softnet_dropped() - backlog_before
        reports = Reports(
            sent, got, usage, running.kernel_dropped(), running.not_sent(), backlog_dropped, of_crowd
        )
    offered = sent["sent"] + (of_crowd["sent"] if of_crowd else 0)
    # Cut or not is a factor of `together`; what was dropped on the way is a few.
    assert 2 * frames > offered, f"{offered} datagrams came in {frames} frames"
    return {**sample_of(job, reports), "others_percent": others_percent}


def _fill_queue(stage: Stage, job: Job) -> None:
    """
    Fill the queue of a receiver that does not read, without a relay.

    The host of a virtual machine takes back memory that is free, and has to find it again at the first touch.
    A relay would pay for that while the queue of its receiver grows.
    """
    last = len(stage.relays) - 1
    with _receiving(stage, job, translated=True) as receiver:
        os.kill(receiver.pid, signal.SIGSTOP)
        with sending(
            stage.relays[last],
            stage.outputs(last, job)[0],
            rate=FULL_SPEED,
            size=FILL_BYTES,
            duration=FILL_S,
            cpu=stage.cpus.relay,
            engine="udp",
            segment=as_many_as_fit(FILL_BYTES),
        ) as sender:
            sender.report()
        os.kill(receiver.pid, signal.SIGCONT)
        assert receiver.stop()["socket_dropped"], "the queue was not filled"


@contextmanager
def _receiving(stage: Stage, job: Job, *, translated: bool) -> Iterator[Receiver]:
    """Receive, with the priority of mcrd's workers: one that waits for its turn is no fault of the relay."""
    with receiving(
        stage.sink,
        stage.arrives_at(translated=translated),
        duration=LONGEST_RECEIVE_S,
        flows=job.flows * job.copies,
        cpu=stage.cpus.relay,
    ) as receiver:
        os.sched_setscheduler(receiver.pid, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
        yield receiver


def _sending(stage: Stage, to: str, stream: Stream, duration_s: float) -> AbstractContextManager[Sender]:
    return sending(
        stage.source,
        to,
        rate=stream.rate,
        size=stream.payload_bytes,
        duration=duration_s,
        flows=stream.flows,
        ttl=TTL,
        cpu=stage.cpus.sender,
        **({"engine": "udp", "segment": stream.together} if stream.together > 1 else {}),
    )


def _crowding(stage: Stage, job: Job, duration_s: float) -> AbstractContextManager[Sender | None]:
    if not job.crowd:
        return nullcontext()
    return _sending(stage, stage.sent_to(job.flows), job.crowd, duration_s)


def sample_of(job: Job, reports: Reports) -> Sample:
    """Work out the figures of one trial."""
    sent, got, usage = reports.sent, reports.got, reports.usage
    expected = sent["sent"] * job.copies
    relayed = max(1.0, got["rate_pps"] * usage.elapsed_s)
    relay_s = sum(usage.processes_s)
    sample = {
        "offered_pps": sent["rate_pps"],
        "relayed_pps": got["rate_pps"],
        "sent": sent["sent"],
        "received": got["distinct"],
        "lost": max(expected - got["distinct"], got["lost"], 0),
        "wrong": sum(got[name] for name in ("duplicated", "corrupted", "misdirected", "foreign", "stale")),
        "ring_dropped": reports.ring_dropped,
        "not_sent": reports.not_sent,
        "backlog_dropped": reports.backlog_dropped,
        "receiver_dropped": got["socket_dropped"],
        "batch": got["received"] / max(1, got["messages"]),
        "busy_ns": usage.busy_s * NS_PER_S / relayed,
        "steal_percent": 100 * usage.steal_s / usage.elapsed_s,
    }
    if reports.of_crowd:
        sample["crowd_pps"] = reports.of_crowd["rate_pps"]
    if got["distinct"]:
        sample |= {"p50_us": got["latency_us"]["p50"], "p99_us": got["latency_us"]["p99"]}
    if usage.processes_s:
        sample |= {
            "relay_ns": relay_s * NS_PER_S / relayed,
            "relay_percent": 100 * relay_s / usage.elapsed_s,
            "least_share": min(usage.processes_s) / relay_s if relay_s else 0.0,
        }
    return sample


def _watch(stage: Stage, running: Running, seconds: float) -> Usage:
    before = _frames(stage.sink, "b0")
    wait_for("the first datagrams at the sink", lambda: _frames(stage.sink, "b0") > before + FIRST_FRAMES)
    time.sleep(WARM_UP_S)
    began = Reading.take(running.pids)
    time.sleep(seconds)
    return Usage.between(began, Reading.take(running.pids))


def _wait_until_quiet(sink: Host) -> None:
    """Wait until a relay that lags behind has sent all that it still has."""
    ends_at = time.monotonic() + DRAIN_S
    seen = -1
    while seen != (seen := _frames(sink, "b0")) and time.monotonic() < ends_at:
        time.sleep(QUIET_S)


def _frames(host: Host, device: str) -> int:
    """Give the frames that an interface has received (/proc/net/dev, the second column)."""
    line = next(line for line in host.read("dev").splitlines() if line.strip().startswith(f"{device}:"))
    return int(line.split()[2])

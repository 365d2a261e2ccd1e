"""``mcrgen receive``: account for every datagram that should have come."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from mcr._native import ffi, lib
from mcr.gen import counters, sockets
from mcr.gen.inlet import join, open_socket
from mcr.gen.latency import latency_us
from mcr.gen.options import ReceiveOptions
from mcr.gen.report import SHOWN_FLOWS, FlowLoss, Progress, ReceiveReport

SLICE_NS = 100_000_000
ACTIVE_S = 0.5


@dataclass(frozen=True, slots=True)
class Ending:
    """Why receiving ended, and whether datagrams were still coming."""

    reason: str
    still_arriving: bool


class Receiver:
    """A socket, its memberships and the C state that accounts for what arrives."""

    def __init__(self, options: ReceiveOptions, stack: ExitStack) -> None:
        self.options = options
        self.native = _new_native(options, stack)
        try:
            self.sock = open_socket(options, stack)
            self.memberships = join(options, stack)
        except OSError as error:
            raise sockets.kernel_error("receive from", str(options.source), error) from error
        self.checksum_errors_before = counters.checksum_errors()
        self.tally = lib.mcr_measure__tally(self.native)

    def run(self, is_stopped: Callable[[], bool]) -> Ending:
        """
        Receive until there is nothing more to expect; say how it ended.

        Raises:
            KernelError: the socket failed.
        """
        pulse = Pulse(self)
        reason = None
        while reason is None:
            has_all = self._receive()
            pulse.beat()
            reason = "count" if has_all else "signal" if is_stopped() else pulse.reason_to_end()
        if reason == "count":
            self._linger(is_stopped)
        else:
            # What waits in the socket's buffer has arrived and is not lost.
            self._receive()
        return Ending(reason, still_arriving=pulse.is_active())

    def _receive(self) -> bool:
        """Receive for one slice; say whether all that was asked for is here."""
        done = lib.mcr_measure__receive(self.native, self.sock.fileno(), SLICE_NS)
        if done < 0:
            raise sockets.kernel_error("receive from", str(self.options.source), OSError(-done, ""))
        return bool(done)

    def _linger(self, is_stopped: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + self.options.linger_s
        while time.monotonic() < ends_at and not is_stopped():
            self._receive()

    def seen(self) -> int:
        """Count every datagram that came, of whatever kind."""
        tally = self.tally
        return int(tally.received + tally.corrupted + tally.foreign + tally.misdirected)

    def report(self, ending: Ending) -> ReceiveReport:
        """Account for everything."""
        tally, count = self.tally, self.options.count
        # Who stopped at a count did not wait for what the sender announced beyond it.
        lost = lib.mcr_measure__gaps if ending.reason == "count" else lib.mcr_measure__lost
        losses = [lost(self.native, index) for index in range(self.options.flows)]
        heard = [lib.mcr_measure__flow(self.native, index).is_heard for index in range(self.options.flows)]
        return ReceiveReport(
            source=str(self.options.source),
            flows=self.options.flows,
            ended=ending.reason,
            still_arriving=ending.still_arriving,
            expected=count,
            received=tally.received,
            distinct=tally.distinct,
            lost=max(sum(losses), 0 if count is None else count - tally.distinct),
            duplicated=tally.duplicated,
            stale=tally.stale,
            reordered=tally.reordered,
            corrupted=tally.corrupted,
            foreign=tally.foreign,
            misdirected=tally.misdirected,
            silent_flows=heard.count(0),
            bytes=tally.bytes,
            seconds=max(0, tally.last_ns - tally.first_ns) / 1e9,
            messages=tally.messages,
            latency_us=latency_us(list(tally.latency), tally.latency_max_ns),
            clock_behind=tally.clock_behind,
            socket_dropped=sockets.socket_drops(self.sock),
            checksum_errors=counters.checksum_errors() - self.checksum_errors_before,
            lossy_flows=self._lossy_flows(losses),
            max_loss=self.options.max_loss,
        )

    def _lossy_flows(self, losses: Sequence[int]) -> tuple[FlowLoss, ...]:
        if self.options.flows == 1:
            return ()
        worst = sorted((index for index, lost in enumerate(losses) if lost), key=lambda index: -losses[index])
        return tuple(
            FlowLoss(
                self._flow_name(index), losses[index], lib.mcr_measure__flow(self.native, index).distinct
            )
            for index in worst[:SHOWN_FLOWS]
        )

    def _flow_name(self, index: int) -> str:
        return f"flow {index}" if self.options.by_flow else str(self.options.destinations[index])


class Pulse:
    """What depends on the clock: lines of progress, and when to give up waiting."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.started = self.active = self.told = time.monotonic()
        self.seen = 0
        self.told_received = 0
        self.told_buckets: list[int] = []

    def beat(self) -> None:
        """Note whether anything came; tell progress once a second."""
        now, seen = time.monotonic(), self.receiver.seen()
        if seen != self.seen:
            self.seen, self.active = seen, now
        if self.receiver.options.progress and now - self.told >= 1:
            self._tell(now)

    def is_active(self) -> bool:
        """Say whether datagrams came until now, by and large."""
        return self.seen > 0 and time.monotonic() - self.active < ACTIVE_S

    def reason_to_end(self) -> str | None:
        """Say which limit of time has passed."""
        options, now = self.receiver.options, time.monotonic()
        if options.duration_s is not None:
            return "duration" if now - self.started >= options.duration_s else None
        if not self.seen:
            return "wait" if now - self.started >= options.wait_s else None
        return "idle" if now - self.active >= options.idle_s else None

    def _tell(self, now: float) -> None:
        tally = self.receiver.tally
        received, buckets = tally.received, list(tally.latency)
        fresh = [new - old for new, old in zip(buckets, self.told_buckets or [0] * len(buckets), strict=True)]
        progress = Progress(
            second=round(now - self.started),
            rate_pps=round((received - self.told_received) / (now - self.told), 1),
            lost=lib.mcr_measure__all_gaps(self.receiver.native),
            latency_us=latency_us(fresh, None),
        )
        print(progress.line(as_json=self.receiver.options.as_json), file=sys.stderr, flush=True)
        self.told, self.told_received, self.told_buckets = now, received, buckets


def receive(options: ReceiveOptions, is_stopped: Callable[[], bool]) -> ReceiveReport:
    """
    Receive, and say ``listening`` on standard error once nothing that is sent from now on can be missed.

    Raises:
        UsageError: no such interface.
        KernelError: the socket could not be opened, the groups not joined, or receiving failed.
    """
    with ExitStack() as stack:
        receiver = Receiver(options, stack)
        print("listening", file=sys.stderr, flush=True)
        return receiver.report(receiver.run(is_stopped))


def _new_native(options: ReceiveOptions, stack: ExitStack) -> Any:  # noqa: ANN401 - a C pointer
    plan = ffi.new("struct mcr_measure_plan *")
    plan.stop_after = options.count or 0
    plan.flows = options.flows
    plan.by_flow = options.by_flow
    plan.has_first = len(options.destinations) > 1
    plan.first = sockets.mapped(options.source.address)
    plan.sources = len(options.source.sources)
    native = lib.mcr_measure__new(plan, b"".join(map(sockets.mapped, options.source.sources)))
    if native == ffi.NULL:
        raise sockets.kernel_error("prepare", f"{options.flows} flows", OSError(ffi.errno, ""))
    stack.callback(lib.mcr_measure__free, native)
    return native

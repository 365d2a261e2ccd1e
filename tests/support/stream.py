"""A stream through the relay for as long as the test needs it: a slow machine does not end it early."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mcr.wire.documents import StatsDocument
from tests.support.daemon import Daemon
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import Receiver, Sender, receiving, sending

LONGEST_S = 60  # more than any test takes
INPUT, OUTPUT = "239.1.1.1%{}:5001", "239.2.2.2%{}:6000"
RULE = {"name": "stream", "from": INPUT.format("r0"), "to": [OUTPUT.format("r1")]}


@dataclass(frozen=True)
class Outcome:
    """What sender, receiver and relay have counted in the end."""

    sent: Any
    got: Any
    stats: StatsDocument


class Stream:
    """Datagrams under way from source to sink."""

    def __init__(self, daemon: Daemon, sender: Sender, receiver: Receiver) -> None:
        self._daemon, self._sender, self._receiver = daemon, sender, receiver

    def wait_for_more(self, count: int = 2000) -> None:
        """Wait until so many more datagrams have been relayed."""
        before = _matched(self._daemon.call("stats"))
        self._daemon.wait_for_stats("traffic", lambda stats: _matched(stats) >= before + count)

    def finish(self) -> Outcome:
        """End the sender, and the receiver when all that was sent is through."""
        assert self._sender.is_running, "the stream ended before the test"
        sent = self._sender.stop()
        earlier: list[StatsDocument] = []

        def is_through(stats: StatsDocument) -> bool:
            seen = sum(one["received"] + one["kernel_dropped"] for one in stats["interfaces"])
            settled = earlier[-1:] == [stats]
            earlier.append(stats)
            return settled and seen >= sent["sent"]

        # If something is lost on the way to the relay, the reports say so better.
        with suppress(AssertionError):
            self._daemon.wait_for_stats("all that was sent to be through", is_through)
        return Outcome(sent, self._receiver.stop(), self._daemon.stats())


@contextmanager
def streaming(line: Line, daemon: Daemon, **options: object) -> Iterator[Stream]:
    """Let datagrams of `RULE` flow."""
    with (
        receiving(line.sink, OUTPUT.format("b0"), duration=2 * LONGEST_S) as receiver,
        sending(line.source, INPUT.format("a0"), duration=LONGEST_S, **options) as sender,
    ):
        stream = Stream(daemon, sender, receiver)
        stream.wait_for_more()
        yield stream


@contextmanager
def lossless_stream(line: Line, daemon: Daemon) -> Iterator[Stream]:
    """Let 50,000 datagrams a second flow, and assert in the end that every one of them arrived once."""
    with streaming(line, daemon, rate="50k", size=500) as stream:
        yield stream
        stream.wait_for_more()
        outcome = stream.finish()
    assert_all_arrived(outcome.sent, outcome.got, outcome.stats)


def _matched(stats: StatsDocument) -> int:
    return sum(one["matched"] for one in stats["interfaces"])

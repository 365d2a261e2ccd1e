"""The real worker process at the other end of a channel."""

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil
import pytest

from mcr._native import ffi
from mcr.errors import PeerError
from mcr.model.share import Share
from mcr.runtime.channel import Channel, channel_pair
from mcr.runtime.confine import differences
from mcr.runtime.roles import WORKER
from mcr.supervisor.counters import CounterFile
from mcr.wire import worker as wire
from mcr.wire.counters import SHARED_BYTES
from mcr.wire.share import pack_share, share_digest
from tests.support.rules import placed, rule
from tests.support.wait import wait_for

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 10
CPU = min(os.sched_getaffinity(0))
SHARE = Share(
    (
        placed(rule("239.1.1.1%in:5001", "239.2.2.2%out:6000", "192.0.2.7:6001"), 3),
        placed(
            rule("10.0.0.9@[ff35::8000:1%in]:5001".replace("10.0.0.9", "2001:db8::9"), "239.2.2.3%out:6000"),
            7,
        ),
    )
)


class Worker:
    """A worker process, and our end of its channel."""

    def __init__(self, inherited: Sequence[int] = ()) -> None:
        ours, theirs = channel_pair()
        ours.settimeout(DEADLINE_S)
        self.end = ours
        self.given: list[str] = []
        self.channel = Channel(ours)
        self.channel_number = theirs.fileno()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mcr", "worker", str(self.channel_number)],
                pass_fds=[self.channel_number, *inherited],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.channel.close()
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)

    def greet(self, counters: CounterFile, number: int = 0) -> wire.Ready:
        """Say hello; give its answer."""
        hello = wire.Hello(number, number + 1, CPU, 100, busy_poll=False, batch=512)
        with ExitStack() as given:
            senders = [given.enter_context(socket.socket()) for _ in range(wire.PRIORITIES)]
            self.given = [str(Path(f"/proc/self/fd/{one.fileno()}").readlink()) for one in senders]
            self.channel.send(hello, [counters.fileno(), *(one.fileno() for one in senders)])
        ready, descriptors = self.channel.receive()
        assert isinstance(ready, wire.Ready)
        assert descriptors == []
        return ready

    def give(self, content: bytes, generation: int = 1) -> None:
        """Send the bytes of a share in a memory file."""
        descriptor = os.memfd_create("share")
        try:
            os.write(descriptor, content)
            self.channel.send(wire.ShareFile(generation, len(content)), [descriptor])
        finally:
            os.close(descriptor)

    def install(self, share: Share, generation: int) -> wire.Installed:
        """Have a share installed; give the acknowledgement."""
        self.give(pack_share(share, generation), generation)
        installed, _ = self.channel.receive()
        assert isinstance(installed, wire.Installed)
        return installed

    def last_words(self) -> str:
        """Wait for the reason that it gives before it ends."""
        failed, _ = self.channel.receive()
        assert isinstance(failed, wire.Failed)
        return failed.reason

    def end_of_process(self) -> int:
        """Wait for the end, which it must meet without a trace on standard error; give the status."""
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        assert errors == ""
        return self.process.returncode


@pytest.fixture
def counters() -> Iterator[CounterFile]:
    file = CounterFile(0)
    yield file
    file.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


# ---- hello and ready ----


def test_a_worker_answers_hello_with_the_proof_of_its_confinement(
    worker: Worker, counters: CounterFile
) -> None:
    ready = worker.greet(counters, number=3)
    process = psutil.Process(worker.process.pid)

    assert differences(WORKER, ready.proof) == []
    assert process.cpu_affinity() == [CPU]
    assert process.name() == "mcr-worker-3"
    assert process.num_threads() == 1


def test_a_confined_worker_holds_no_descriptors_that_it_was_not_given(counters: CounterFile) -> None:
    """
    Neither its own status file, from which it read the proof, nor what the supervisor was started with; the
    timers of its heartbeat and of its waits are its own, and it keeps the packet sockets that came with the
    hello.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stray, Worker([stray.fileno()]) as worker:
        worker.greet(counters)
        held = {
            int(path.name): str(path.readlink()) for path in Path(f"/proc/{worker.process.pid}/fd").iterdir()
        }
        timers = {number for number, name in held.items() if name == "anon_inode:[timerfd]"}
        given = set(worker.given)

        assert len(timers) == 2
        assert held.keys() - timers - {0, 1, 2, worker.channel_number} == {
            number for number, name in held.items() if name in given
        }
        assert len(given) == wire.PRIORITIES


def test_a_worker_beats_from_its_first_moment(worker: Worker, counters: CounterFile) -> None:
    worker.greet(counters)
    first_ns = wait_for("the first heartbeat", lambda: counters.header().heartbeat_ns)

    assert wait_for("the next heartbeat", lambda: counters.header().heartbeat_ns > first_ns)
    assert counters.header().digest == share_digest(Share())


# ---- shares ----


def test_the_digest_of_an_installed_share_is_the_one_that_the_supervisor_expects(
    worker: Worker, counters: CounterFile
) -> None:
    worker.greet(counters)

    for generation, share in enumerate([Share(), SHARE, Share(SHARE.rules[:1]), Share()], start=1):
        assert worker.install(share, generation) == wire.Installed(generation, share_digest(share))
        assert counters.header().generation == generation
        assert counters.header().digest == share_digest(share)


def test_the_digest_comes_from_the_table_and_not_from_the_message(
    worker: Worker, counters: CounterFile
) -> None:
    worker.greet(counters)
    changed = bytearray(pack_share(SHARE, 1))
    changed[24 + 15] ^= 1  # the last byte of the first rule's group
    worker.give(bytes(changed))
    installed, _ = worker.channel.receive()

    assert isinstance(installed, wire.Installed)
    assert installed.digest != share_digest(SHARE)


@pytest.mark.parametrize(
    "content", [b"", b"x", pack_share(SHARE, 1)[:-1], pack_share(SHARE, 1) + b"\0", bytes(1 << 20)]
)
def test_a_worker_that_gets_no_share_says_so_and_fails(
    worker: Worker, counters: CounterFile, content: bytes
) -> None:
    worker.greet(counters)
    worker.give(content)

    assert worker.last_words() == f"install share of {len(content)} bytes: Invalid argument (EINVAL)"
    assert worker.end_of_process() == 1


# ---- the end ----


def test_the_end_of_the_channel_ends_a_waiting_worker(worker: Worker) -> None:
    worker.channel.close()

    assert worker.end_of_process() == 0


def test_the_end_of_the_channel_ends_a_confined_worker(worker: Worker, counters: CounterFile) -> None:
    worker.greet(counters)
    worker.install(SHARE, 1)
    worker.channel.close()

    assert worker.end_of_process() == 0


GARBAGE = [
    b"x",
    b"\xc1",
    b"\x80",
    wire.encode(wire.Ready({})),
    wire.encode(wire.Hello(0, 1, 0, 100, busy_poll=False, batch=512)) + b"x",
    b"x" * (wire.MAX_MESSAGE_BYTES + 1),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("is_greeted", [False, True])
def test_garbage_ends_a_worker(
    worker: Worker, counters: CounterFile, garbage: bytes, *, is_greeted: bool
) -> None:
    if is_greeted:
        worker.greet(counters)
    worker.end.send(garbage)

    assert "got" in worker.last_words()
    assert worker.end_of_process() == 0


WITHOUT_DESCRIPTORS = [
    wire.Ring(0, 2048, 16),
    wire.Outputs([0], bytes(16), [0]),
    wire.ShareFile(1, 24),
    wire.Watch(0),
]


@pytest.mark.parametrize("message", WITHOUT_DESCRIPTORS, ids=lambda message: str(message.kind))
def test_a_message_without_its_descriptors_ends_a_worker(
    worker: Worker, counters: CounterFile, message: wire.ToWorker
) -> None:
    worker.greet(counters)
    worker.channel.send(message)

    assert worker.last_words().startswith(f"got {message.kind} with 0 descriptors, expected ")
    assert worker.end_of_process() == 0


def test_hello_without_counters_ends_a_worker(worker: Worker) -> None:
    worker.channel.send(wire.Hello(0, 1, CPU, 100, busy_poll=False, batch=512))

    assert worker.last_words().endswith("expected hello with 5")
    assert worker.end_of_process() == 0


@pytest.mark.parametrize(
    "message",
    [
        wire.Ring(64, 2048, 16),
        wire.Ring(0, 0, 16),
        wire.Ring(0, 2048, 0),
        wire.Outputs([32768], bytes(16), [0]),
        wire.Watch(64),
    ],
)
def test_a_slot_or_shape_out_of_range_ends_a_worker(
    worker: Worker, counters: CounterFile, message: wire.ToWorker
) -> None:
    worker.greet(counters)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
        worker.channel.send(message, [given.fileno()])

    assert worker.last_words().endswith("Invalid argument (EINVAL)")
    assert worker.end_of_process() == 1


def test_a_ring_that_cannot_be_mapped_ends_a_worker(worker: Worker, counters: CounterFile) -> None:
    worker.greet(counters)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
        worker.channel.send(wire.Ring(0, 2048, 16), [given.fileno()])

    assert worker.last_words().startswith("map ring of slot 0")
    assert worker.end_of_process() == 1


# ---- successors ----


def interrupted(counters: CounterFile) -> None:
    """Leave the counters as a worker does that dies in the middle of a batch."""
    with mmap.mmap(counters.fileno(), SHARED_BYTES) as memory:
        shared = ffi.from_buffer("struct mcr_shared *", memory)
        shared.sequence = 11
        interface, first, output = shared.interfaces[0], shared.rules[3], shared.outputs[3]
        interface.received, interface.matched, interface.ignored[0] = 10, 6, 1
        first.matched, first.bytes = 6, 600
        output.sent, output.bytes, output.not_sent[0] = 2, 200, 1
        ffi.release(shared)


def test_a_successor_continues_the_counters_and_settles_what_was_in_hand(
    worker: Worker, counters: CounterFile
) -> None:
    interrupted(counters)
    worker.greet(counters)
    worker.install(SHARE, 1)
    snapshot = wait_for(
        "a consistent snapshot",
        lambda: found if (found := counters.snapshot(10, 10)).consistent else None,
    )
    interface, first, output, other = (
        snapshot.interface(0),
        snapshot.rule(3),
        snapshot.output(3),
        snapshot.output(4),
    )

    assert (interface.received, interface.matched) == (10, 6)
    assert interface.ignored["interrupted"] == 3
    assert interface.received == interface.matched + sum(interface.ignored.values())
    assert (first.matched, first.bytes) == (6, 600)
    assert (output.sent, output.not_sent["interrupted"]) == (2, 3)
    assert other.not_sent["interrupted"] == 6
    for counted in (output, other):
        assert first.matched == counted.sent + sum(counted.not_sent.values())


def test_a_second_worker_counts_on_where_the_first_one_ended(counters: CounterFile) -> None:
    with Worker() as first:
        first.greet(counters)
        first.install(SHARE, 1)
        assert wait_for("some waits", lambda: counters.header().polls > 1)
        first.process.kill()
        first.process.wait(DEADLINE_S)
        before = counters.header()
    with Worker() as second:
        second.greet(counters)
        second.install(SHARE, 2)
        after = wait_for(
            "another wait", lambda: now if (now := counters.header()).polls > before.polls else None
        )

    assert after.sequence > before.sequence
    assert after.generation == 2


# ---- our end ----


def test_sending_to_a_worker_that_has_gone_is_an_error_of_the_peer(worker: Worker) -> None:
    worker.process.kill()
    worker.process.wait(DEADLINE_S)

    with pytest.raises(PeerError):
        worker.channel.send(wire.ShareFile(1, 0))
    with pytest.raises(PeerError):
        worker.channel.receive()


def test_sending_on_a_channel_that_was_hung_up_is_an_error_of_the_peer(worker: Worker) -> None:
    """The supervisor hangs up when a worker breaks the protocol, and may be about to tell it something."""
    worker.channel.close()

    with pytest.raises(PeerError):
        worker.channel.send(wire.ShareFile(1, 0))

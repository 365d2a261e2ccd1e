"""
The worker process.

User nobody, no capabilities, a short list of system calls; it cannot open anything.  Distrusts every packet.
It gets all descriptors from the supervisor, relays until the supervisor has something to say, and ends when
the supervisor's end of the channel is closed.
"""

import contextlib
import os
import resource
import socket

import prctl

from mcr.errors import McrError, PeerError
from mcr.runtime import confine
from mcr.runtime.channel import Channel
from mcr.runtime.roles import WORKER
from mcr.wire import worker as wire
from mcr.worker.dataplane import Dataplane, allow_system_calls
from mcr.worker.link import Link

# The default slack of 50 us would double the time that the relay waits for a batch to gather (prctl(2)).
_TIMER_SLACK_NS = 1
_HELLO_DESCRIPTORS = 1 + wire.PRIORITIES


def main(arguments: list[str]) -> int:
    """Serve the channel whose descriptor is the only argument; give the exit status."""
    descriptor = int(arguments[0])
    _close_all_but(descriptor)
    with Channel(socket.socket(fileno=descriptor)) as channel:
        try:
            _serve(channel)
        except McrError as error:
            with contextlib.suppress(PeerError):  # the supervisor has hung up: nobody to tell
                channel.send(wire.Failed(str(error)))
            return 0 if isinstance(error, PeerError) else 1
    return 0


def _close_all_but(channel: int) -> None:
    """Keep the standard streams and the channel: what else a parent left open is not for this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, channel)
    os.closerange(channel + 1, limit)


def _serve(channel: Channel) -> None:
    """Take what must be taken while it is allowed, give up everything else, then relay for ever."""
    hello, descriptors = channel.receive()
    if not isinstance(hello, wire.Hello) or len(descriptors) != _HELLO_DESCRIPTORS:
        raise PeerError(
            f"got {hello} with {len(descriptors)} descriptors, expected hello with {_HELLO_DESCRIPTORS}"
        )
    counters, *packet_senders = descriptors
    if hello.cpu >= 0:
        os.sched_setaffinity(0, {hello.cpu})
    prctl.set_name(f"mcr-worker-{hello.worker}")
    prctl.set_timerslack(_TIMER_SLACK_NS)
    dataplane = Dataplane(counters)
    dataplane.attach_packets(packet_senders)
    dataplane.set_number(hello.worker, hello.workers)
    dataplane.set_pace(hello.coalesce_us, busy_poll=hello.busy_poll, batch=hello.batch)
    status = confine.StatusFile()
    confine.give_up(WORKER)
    allow_system_calls(WORKER.system_calls)
    channel.send(wire.Ready(status.proof()))
    link = Link(channel, dataplane)
    while True:
        loop = dataplane.run(channel.fileno())
        if loop:
            channel.send(loop)
        else:
            link.serve_one()

"""The worker's side of the channel: what the supervisor says goes into the data plane."""

import os

from mcr.errors import PeerError
from mcr.runtime.channel import Channel
from mcr.wire import worker as wire
from mcr.worker.dataplane import Dataplane


class Link:
    """Serves one channel with one data plane."""

    def __init__(self, channel: Channel, dataplane: Dataplane) -> None:
        self._channel = channel
        self._dataplane = dataplane

    def serve_one(self) -> None:
        """
        Receive one message and do what it says.

        Raises:
            PeerError: the channel has ended, or the message is not for a worker.
            KernelError: the data plane could not do it.
        """
        message, descriptors = self._channel.receive()
        _check_count(message, descriptors)
        match message:
            case wire.Ring():
                (descriptor,) = descriptors
                self._dataplane.attach_ring(message.slot, descriptor, message.frame_bytes, message.frames)
            case wire.Watch():
                (descriptor,) = descriptors
                self._dataplane.attach_watch(message.slot, descriptor)
            case wire.Outputs():
                sources = _addresses(message.sources)
                for slot, descriptor, source, port in zip(
                    message.slots, descriptors, sources, message.ports, strict=True
                ):
                    self._dataplane.attach_output(slot, descriptor, source, port)
            case wire.ShareFile():
                (descriptor,) = descriptors
                generation, digest = self._dataplane.install(descriptor, message.bytes)
                self._channel.send(wire.Installed(generation, digest))
            case _:
                raise PeerError(
                    f"got a message of kind {message.kind!r}, expected ring, watch, outputs or share"
                )


def _check_count(message: wire.ToWorker | wire.FromWorker, descriptors: list[int]) -> None:
    """
    Refuse a message that came without its descriptors, or with others.

    Raises:
        PeerError: naming both numbers; the descriptors are closed.
    """
    expected = len(message.slots) if isinstance(message, wire.Outputs) else 1
    if len(descriptors) != expected:
        for descriptor in descriptors:
            os.close(descriptor)
        raise PeerError(f"got {message.kind} with {len(descriptors)} descriptors, expected {expected}")


def _addresses(joined: bytes) -> list[bytes]:
    size = wire.ADDRESS_BYTES
    return [joined[at : at + size] for at in range(0, len(joined), size)]

"""What is to be relayed, and how fast it is sent."""

from dataclasses import dataclass

INPUT_PORT = 5001
OUTPUT_PORT = 6000
FULL_SPEED = "max"
UDP_MAX_SEGMENTS, MAX_UDP_BYTES = 64, 65507


@dataclass(frozen=True, slots=True)
class Stream:
    """
    Traffic of one sender.

    Attributes:
        rate: as `mcrgen --rate` takes it; ``max`` is as fast as the sender's CPU can.
        payload_bytes: UDP payload of each datagram.
        flows: groups that the sender takes turns between.
        together: datagrams of a flow that the sender hands over in one call, which are cut into frames before
            the cable (`staged`); 1 makes frames itself, one by one.
    """

    rate: str
    payload_bytes: int
    flows: int = 1
    together: int = 1


@dataclass(frozen=True, slots=True)
class Job(Stream):
    """
    What is sent to be relayed, with a rule for each flow, and what else is on the wire.

    Attributes:
        copies: outputs of each rule.
        crowd: what no relay has a rule for, to the groups behind the job's own.
    """

    copies: int = 1
    crowd: Stream | None = None


def as_many_as_fit(payload_bytes: int) -> int:
    """Give the most datagrams that a `UDP_SEGMENT` call takes, by its length and by linux/udp.h."""
    return min(UDP_MAX_SEGMENTS, MAX_UDP_BYTES // payload_bytes)

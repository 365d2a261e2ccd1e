"""What is to be relayed, and how fast it is sent."""

from dataclasses import dataclass

INPUT_PORT = 5001
OUTPUT_PORT = 6000


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    Traffic on the input interface that no relay has a rule for.

    Attributes:
        rate: of all groups together, as `mcrgen --rate` takes it.
        groups: those behind the job's own.
        together: frames of one group that follow each other.
    """

    rate: str
    groups: int
    together: int = 60


@dataclass(frozen=True, slots=True)
class Job:
    """
    What is sent to be relayed, and what else is on the wire.

    Attributes:
        rate: as `mcrgen --rate` takes it; ``max`` is as fast as the sender's CPU can.
        payload_bytes: UDP payload of each datagram.
        flows: groups that the sender takes turns between; there is a rule for each.
        copies: outputs of each rule.
        crowd: what else is sent at the same time.
    """

    rate: str
    payload_bytes: int
    flows: int = 1
    copies: int = 1
    crowd: Crowd | None = None

"""What is to be relayed, and how fast it is sent."""

from dataclasses import dataclass

INPUT_PORT = 5001
OUTPUT_PORT = 6000


@dataclass(frozen=True, slots=True)
class Job:
    """
    What is sent, and what of it a relay has to relay.

    Attributes:
        rate: as `mcrgen --rate` takes it; ``max`` is as fast as the sender's CPU can.
        payload_bytes: UDP payload of each datagram.
        flows: groups that the sender takes turns between.
        relayed: of these, how many there is a rule for, from the first on.
        copies: outputs of each rule.
    """

    rate: str
    payload_bytes: int
    flows: int = 1
    relayed: int = 1
    copies: int = 1

    @property
    def share(self) -> float:
        """Give the datagrams that a relay should send for each one that was sent to it."""
        return self.relayed * self.copies / self.flows

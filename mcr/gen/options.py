"""What the user asked for: values that are possible, or UsageError."""

from dataclasses import dataclass
from enum import StrEnum

from mcr._native import lib
from mcr.errors import UsageError
from mcr.model.endpoint import Endpoint, consecutive

MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of every kernel that has UDP_SEGMENT


class Engine(StrEnum):
    """How datagrams leave."""

    AUTO = "auto"
    UDP = "udp"
    ETHERNET = "ethernet"


@dataclass(frozen=True, slots=True)
class SendOptions:
    """
    What to send.

    Attributes:
        rate_pps: datagrams per second of all flows together, 0 as fast as it goes.
        payload_bytes: UDP payload of each datagram.
        count: datagrams of all flows together; None means *duration_s*.
        segments: datagrams in one UDP_SEGMENT super-frame; 1 sends each on its own.
        ttl: None leaves it to the kernel, which takes 1 for multicast.
    """

    to: Endpoint
    rate_pps: float
    payload_bytes: int
    count: int | None
    duration_s: float | None
    flows: int = 1
    segments: int = 1
    ttl: int | None = None
    engine: Engine = Engine.AUTO

    def __post_init__(self) -> None:
        """Refuse what cannot be sent."""
        least, most = lib.MCR_GENERATED_HEADER_BYTES, lib.MCR_GENERATED_MAX_BYTES
        _check("size", self.payload_bytes, least, most)
        _check("flows", self.flows, 1, lib.MCR_MAX_FLOWS)
        _check("segments", self.segments, 1, MAX_SEGMENTS)
        _check("segments x size", self.segments * self.payload_bytes, least, most)
        if self.count is not None and self.count < self.flows:
            raise UsageError(
                f"got {self.count} datagrams for {self.flows} flows, expected at least one for each"
            )
        if self.ttl is not None:
            _check("ttl", self.ttl, 0, 255)
        if len(self.to.sources) > 1:
            raise UsageError(f"got {len(self.to.sources)} sources, expected at most the one to send from")

    def total_of(self, flow: int) -> int:
        """Give how many datagrams of *flow* make up the count, 0 if there is none."""
        if self.count is None:
            return 0
        each, rest = divmod(self.count, self.flows)
        return each + (flow < rest)


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """
    What to expect.

    Attributes:
        count: distinct datagrams after which to end; None means *duration_s*.
        by_flow: tell flows by the number in the datagrams instead of their destination address.
        idle_s: with *count*, end after that long without any datagram.
        wait_s: with *count*, end if the first datagram has not come within that time.
        linger_s: with *count*, go on that long after the last datagram, to see repetitions.
        max_loss: None accepts any loss.
    """

    source: Endpoint
    count: int | None
    duration_s: float | None
    flows: int = 1
    by_flow: bool = False
    idle_s: float = 2.0
    wait_s: float = 10.0
    linger_s: float = 0.0
    max_loss: int | None = None
    progress: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be received."""
        _check("flows", self.flows, 1, lib.MCR_MAX_FLOWS)

    @property
    def destinations(self) -> tuple[Endpoint, ...]:
        """Where datagrams are expected: with *by_flow* all flows arrive at one address."""
        return consecutive(self.source, 1 if self.by_flow else self.flows)


def _check(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"got {what} {value}, expected {least} to {most}")

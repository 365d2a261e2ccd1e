"""A link as the kernel has it now."""

from dataclasses import dataclass

from mcr.model.endpoint import Address

ETHERNET_HEADER_BYTES, ETHERNET_ADDRESS_BYTES = 14, 6


@dataclass(frozen=True, slots=True)
class Link:
    """
    One network interface.

    Attributes:
        mtu: in bytes, without the link header.
        up: administratively up and with carrier.
        receive_queues: queues that the device spreads frames over.
        link_address: 6 bytes on Ethernet, none on links without a header.
        stack_needs: why the host's IP stack must see all that arrives, or empty.
        addresses: of this host on it, those that may already be used as a source.
    """

    index: int
    name: str
    mtu: int
    up: bool
    receive_queues: int
    addresses: frozenset[Address]
    link_address: bytes = b""
    stack_needs: str = ""

    @property
    def header_bytes(self) -> int | None:
        """Give the length of the Ethernet header, None for other links."""
        return ETHERNET_HEADER_BYTES if len(self.link_address) == ETHERNET_ADDRESS_BYTES else None

    @property
    def sends_frames(self) -> bool:
        """
        Say whether multicast may be written to it as frames.

        Loopback, whose address is zero, takes datagrams back only with the route they left by.
        """
        return self.header_bytes is not None and any(self.link_address)

"""A link as the kernel has it now."""

from dataclasses import dataclass

from mcr.model.endpoint import Address


@dataclass(frozen=True, slots=True)
class Link:
    """
    One network interface.

    Attributes:
        mtu: in bytes, without the link header.
        up: administratively up and with carrier.
        receive_queues: queues that the device spreads frames over.
        link_address: 6 bytes on Ethernet, none on links without a header.
        addresses: of this host on it, those that may already be used as a source.
    """

    index: int
    name: str
    mtu: int
    up: bool
    receive_queues: int
    addresses: frozenset[Address]
    link_address: bytes = b""

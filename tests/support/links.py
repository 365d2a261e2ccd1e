"""Links of a host that does not exist."""

from ipaddress import ip_address

from mcr.model.link import Link


def link(name: str, index: int, *addresses: str, receive_queues: int = 1, up: bool = True) -> Link:
    """Make a link."""
    return Link(
        index=index,
        name=name,
        mtu=1500,
        up=up,
        receive_queues=receive_queues,
        addresses=frozenset(map(ip_address, addresses)),
    )


def links(*those: Link) -> dict[str, Link]:
    """Give links by name, as the kernel's are read."""
    return {one.name: one for one in those}

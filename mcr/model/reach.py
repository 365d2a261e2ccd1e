"""Which inputs take in what is sent to some groups and ports, without looking at every one."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mcr.model.endpoint import Endpoint
from mcr.model.mapping import Mapped, Network


class Reach(NamedTuple):
    """Addresses, as numbers, and ports from the first to the last on one link."""

    interface: str | None
    version: int
    first_address: int
    last_address: int
    first_port: int
    last_port: int

    def overlaps(self, other: "Reach") -> bool:
        """Say whether a datagram can be within both."""
        return (
            self[:2] == other[:2]
            and self.first_address <= other.last_address
            and other.first_address <= self.last_address
            and self.first_port <= other.last_port
            and other.first_port <= self.last_port
        )

    def is_within(self, other: "Reach") -> bool:
        """Say whether every datagram within it is within *other* too."""
        return (
            self[:2] == other[:2]
            and other.first_address <= self.first_address
            and self.last_address <= other.last_address
            and other.first_port <= self.first_port
            and self.last_port <= other.last_port
        )


def reach_of(endpoint: Endpoint) -> Reach:
    """Give what *endpoint* means, whoever sends it."""
    first = int(endpoint.address)
    more = (1 << (endpoint.address.max_prefixlen - endpoint.prefix_length)) - 1
    version = endpoint.address.version
    return Reach(endpoint.interface, version, first, first + more, endpoint.port, endpoint.last_port)


def reach_of_output(to: Endpoint | Mapped, groups: Network, ports: tuple[int, int]) -> Reach:
    """Give where what arrives for *groups* and *ports* is sent; a mapping fits their IP version."""
    if isinstance(to, Endpoint):
        return reach_of(to)
    image = to.image(groups)
    first, last = int(image.network_address), int(image.broadcast_address)
    return Reach(to.interface, image.version, first, last, *to.ports(*ports))


@dataclass(slots=True)
class _Shelf:
    """
    Reaches of one link and IP version that are of about one size, below *addresses* and *ports*.

    What overlaps another reach then begins not far in front of it, by address and by port: both say where to
    look, and the one that leaves less is looked through.
    """

    addresses: int
    ports: int
    reaches: list[tuple[Reach, int]] = field(default_factory=list)
    by_address: Sequence[tuple[int, int]] = ()
    by_port: Sequence[tuple[int, int]] = ()

    def sort(self) -> None:
        numbered = list(enumerate(self.reaches))
        self.by_address = sorted((reach.first_address, number) for number, (reach, _) in numbered)
        self.by_port = sorted((reach.first_port, number) for number, (reach, _) in numbered)

    def overlapping(self, wanted: Reach) -> Iterable[int]:
        by_address = _span(self.by_address, wanted.first_address - self.addresses, wanted.last_address)
        by_port = _span(self.by_port, wanted.first_port - self.ports, wanted.last_port)
        order, span = min((self.by_address, by_address), (self.by_port, by_port), key=lambda one: len(one[1]))
        for index in span:
            reach, position = self.reaches[order[index][1]]
            if reach.overlaps(wanted):
                yield position


def _span(order: Sequence[tuple[int, int]], above: int, last: int) -> range:
    """Give the places in *order* of what begins above one number and not behind the other."""
    return range(bisect_left(order, (above + 1,)), bisect_right(order, (last + 1,)))


class Reaches:
    """Inputs by position, so that those which overlap another reach are found."""

    def __init__(self, inputs: Iterable[Reach]) -> None:
        shelves: dict[tuple[str | None, int, int, int], _Shelf] = {}
        for position, reach in enumerate(inputs):
            addresses = (reach.last_address - reach.first_address + 1).bit_length()
            ports = (reach.last_port - reach.first_port + 1).bit_length()
            key = (reach.interface, reach.version, addresses, ports)
            shelves.setdefault(key, _Shelf(1 << addresses, 1 << ports)).reaches.append((reach, position))
        self._places: dict[tuple[str | None, int], list[_Shelf]] = {}
        for key, shelf in shelves.items():
            shelf.sort()
            self._places.setdefault(key[:2], []).append(shelf)

    def overlapping(self, wanted: Reach) -> list[int]:
        """Give the positions of those that share an address and a port with *wanted*, in order."""
        shelves = self._places.get(wanted[:2], [])
        return sorted(position for shelf in shelves for position in shelf.overlapping(wanted))

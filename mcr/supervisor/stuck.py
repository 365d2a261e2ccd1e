"""
Receive rings that the kernel has brought to a standstill.

A frame that the kernel cannot describe in a virtio header (fragmentation offload of a tap device; before
Linux 6.2 any super-frame of UDP) leaves its place in the ring taken for good, since tpacket_rcv() does not
give it back.  All that comes after finds no room.  Only a new ring helps.

Source: tpacket_rcv and virtio_net_hdr_from_skb in net/packet/af_packet.c and linux/virtio_net.h.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mcr.supervisor.lifecycle import WorkerState
from mcr.supervisor.state import OpenInterface, State, Worker


@dataclass(frozen=True, slots=True)
class Look:
    """
    What one ring was like: frames dropped and frames read so far, and its reader: the number of the process
    and its last heartbeat.
    """

    dropped: int
    cursor: int
    process: int
    heartbeat_ns: int


class RingWatch:
    """Compares each look at the rings with the one before."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], Look] = {}

    def find_stuck(self, state: State) -> list[OpenInterface]:
        """Give the interfaces of rings that drop frames while a worker that is alive finds none in them."""
        looks = {key: (interface, look) for key, interface, look in _looks(state)}
        stuck = {
            interface.slot: interface
            for key, (interface, look) in looks.items()
            if key in self._before and _stands_still(self._before[key], look)
        }
        self._before = {key: look for key, (_, look) in looks.items()}
        return list(stuck.values())


def _looks(state: State) -> Iterator[tuple[tuple[int, int], OpenInterface, Look]]:
    for ifindex, interface in state.interfaces.items():
        interface.count_drops()
        for worker in state.workers:
            if _reads(worker, ifindex) and not interface.is_stuck:
                counters = worker.counters
                look = Look(
                    interface.dropped[worker.number],
                    counters.cursor(interface.slot),
                    worker.restarts,
                    counters.header().heartbeat_ns,
                )
                yield (interface.slot, worker.number), interface, look


def _reads(worker: Worker, ifindex: int) -> bool:
    return worker.state is WorkerState.READY and not worker.waits_for_answer and ifindex in worker.rings


def _stands_still(before: Look, now: Look) -> bool:
    """A process that has just begun has a new heartbeat before it has read anything."""
    is_alive = now.process == before.process and now.heartbeat_ns != before.heartbeat_ns
    return is_alive and now.cursor == before.cursor and now.dropped > before.dropped

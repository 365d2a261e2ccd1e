"""
Steering: which worker the kernel gives a frame to.

`rule_hash` and `steering_program` are the same function twice, in Python and as a classic-BPF program for
PACKET_FANOUT_CBPF.  The kernel takes the program's result modulo the number of fanout members.
"""

from enum import StrEnum

from mcr.model.endpoint import Address

WORD_FACTOR = 0x9E3779B1
PORT_FACTOR = 0x85EBCA77
FINAL_FACTOR = 0xC2B2AE3D
_MASK = 0xFFFFFFFF


class Steering(StrEnum):
    """How frames are spread: by arrival CPU, by hash of (group, port), or as fits the interface."""

    AUTO = "auto"
    CPU = "cpu"
    HASH = "hash"


def rule_hash(address: Address, port: int) -> int:
    """
    Hash a destination to 32 bits.

    Source: multiply-and-fold, with the constants of xxHash32; every step is one that classic BPF has.
    """
    state = 0
    for word in _words(address):
        state = (state + word) * WORD_FACTOR & _MASK
        state ^= state >> 15
    state = (state + port) * PORT_FACTOR & _MASK
    state ^= state >> 13
    state = state * FINAL_FACTOR & _MASK
    return state ^ state >> 16


def pick(wanted: Steering, receive_queues: int, workers: int) -> tuple[Steering, str]:
    """Decide how an interface is steered, and say why."""
    if wanted is not Steering.AUTO:
        return wanted, f"steering: {wanted} is configured"
    if receive_queues >= workers > 1:
        return Steering.CPU, f"{receive_queues} receive queues feed {workers} workers"
    return Steering.HASH, f"{receive_queues} receive queue(s) cannot feed {workers} worker(s) evenly"


def _words(address: Address) -> tuple[int, ...]:
    packed = address.packed
    return tuple(int.from_bytes(packed[offset : offset + 4]) for offset in range(0, len(packed), 4))

"""How large receive rings are."""

import pytest

from mcr.supervisor.sockets import default_ring_bytes, ring_shape

MIB = 1 << 20


@pytest.mark.parametrize(("workers", "mib"), [(1, 64), (2, 64), (3, 42), (4, 32), (64, 2)])
def test_the_rings_of_an_interface_share_128_mib(workers: int, mib: int) -> None:
    assert default_ring_bytes(workers) // MIB == mib


@pytest.mark.parametrize(
    ("mtu", "frame_bytes"),
    [(68, 2048), (1500, 2048), (1920, 2048), (1921, 4096), (9000, 12288), (65536, 12288)],
)
def test_frames_hold_the_mtu_and_rings_keep_to_their_budget(mtu: int, frame_bytes: int) -> None:
    shape = ring_shape(mtu, 64 * MIB)

    assert shape.frame_bytes == frame_bytes
    assert 63 * MIB < shape.bytes <= 64 * MIB
    assert shape.bytes == shape.frames * frame_bytes


def test_a_ring_has_a_block_of_frames_at_least() -> None:
    assert ring_shape(9000, 1).frames == 5

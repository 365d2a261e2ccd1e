"""What becomes of the bypass when the kernel refuses a program."""

import errno
import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from mcr.errors import KernelError
from mcr.supervisor import bypass
from mcr.supervisor.bypass import Bypass

FIRST, SECOND = frozenset({1}), frozenset({1, 2})


class FakeKernel:
    """Attaches programs, unless *refuses* is an error number."""

    def __init__(self) -> None:
        self.refuses = 0
        self.asked = 0

    def mcr_bypass__attach(self, _ifindex: int, _program: bytes, _bytes: int) -> int:
        self.asked += 1
        return -self.refuses or os.open(os.devnull, os.O_RDONLY)

    def mcr_bypass__replace(self, _link: int, _program: bytes, _bytes: int) -> int:
        self.asked += 1
        return -self.refuses


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    fake = FakeKernel()
    with patch.object(bypass, "lib", fake):
        yield fake


def test_a_refused_program_leaves_none_and_is_not_asked_for_again(kernel: FakeKernel) -> None:
    at = Bypass(2, 14)
    at.set(FIRST)
    kernel.refuses = errno.E2BIG
    with pytest.raises(KernelError):
        at.set(SECOND)

    assert not at.is_on
    assert at.problem == os.strerror(errno.E2BIG)
    assert at.destinations == SECOND


@pytest.mark.parametrize("refused", [errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_that_cannot_is_no_failure(kernel: FakeKernel, refused: int) -> None:
    kernel.refuses = refused
    at = Bypass(2, 14)
    at.set(FIRST)

    assert not at.is_on
    assert at.problem == os.strerror(refused)
    assert at.destinations == FIRST


def test_other_rules_are_tried_again(kernel: FakeKernel) -> None:
    at = Bypass(2, 14)
    kernel.refuses = errno.EINVAL
    at.set(FIRST)
    kernel.refuses = 0
    at.set(SECOND)

    assert at.is_on
    assert not at.problem
    at.close()


def test_a_link_without_ethernet_header_is_not_asked_for(kernel: FakeKernel) -> None:
    at = Bypass(2, None)
    at.set(FIRST)

    assert not at.is_on
    assert at.problem == "not Ethernet"
    assert kernel.asked == 0

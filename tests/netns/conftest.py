"""Fixtures of tests with real packets."""

import os
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, Line


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Give an empty laboratory."""
    if os.geteuid() != 0:
        pytest.skip("makes network namespaces")
    with Lab() as lab:
        yield lab


@pytest.fixture
def line(lab: Lab) -> Line:
    """Give the standard shape: source (a0) - (r0) relay (r1) - (b0) sink."""
    return lab.line()

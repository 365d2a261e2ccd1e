"""Waiting for conditions, never for time."""

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 10.0
POLL_S = 0.01

Found = TypeVar("Found")


def wait_for(what: str, look: Callable[[], Found | None], deadline_s: float = DEADLINE_S) -> Found:
    """Look again and again until there is something to see, and give it; *what* names it in the failure."""
    ends_at = time.monotonic() + deadline_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < ends_at, f"waited {deadline_s} s in vain for {what}; last seen: {found!r}"
        time.sleep(POLL_S)

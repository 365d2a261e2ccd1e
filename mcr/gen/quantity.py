"""Numbers as people type them: ``10k``, ``1.5M``, ``max``."""

import math
import re
from decimal import Decimal

from mcr.errors import UsageError

FULL_SPEED = 0.0  # the rate that stands for "as fast as it goes", as in native/generate.h
SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([kKMG]?)", re.ASCII)
MAX_COUNT = 10**15
MAX_SECONDS = 10**7


def parse_rate(text: str) -> float:
    """
    Read datagrams per second: ``max``, or a number with an optional suffix k, M or G.

    Raises:
        UsageError: not a number, or not positive.
    """
    if text == "max":
        return FULL_SPEED
    value = _parse(text)
    if value is None or not 0 < value <= MAX_COUNT:
        raise UsageError(f"got rate {text!r}, expected a positive number such as 500, 10k or 1.5M, or max")
    return float(value)


def parse_count(text: str) -> int:
    """
    Read how many: a whole number from 1, with an optional suffix.

    Raises:
        UsageError: not such a number.
    """
    return _parse_whole("count", text, 1)


def parse_loss(text: str) -> int:
    """
    Read how many may be missing: a whole number from 0, with an optional suffix.

    Raises:
        UsageError: not such a number.
    """
    return _parse_whole("loss", text, 0)


def parse_seconds(text: str) -> float:
    """
    Read a time: a positive number of seconds, with or without ``s``.

    Raises:
        UsageError: not such a number.
    """
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SECONDS:
        raise UsageError(f"got time {text!r}, expected a positive number of seconds such as 10 or 0.5")
    return value


def _parse_whole(what: str, text: str, least: int) -> int:
    value = _parse(text)
    if value is None or value % 1 or not least <= value <= MAX_COUNT:
        raise UsageError(f"got {what} {text!r}, expected a whole number from {least}, such as 1000 or 10k")
    return int(value)


def _parse(text: str) -> Decimal | None:
    match = NUMBER.fullmatch(text)
    return Decimal(match[1]) * SUFFIXES[match[2]] if match else None

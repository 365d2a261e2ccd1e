"""A rule is one input endpoint and one or more outputs under a name."""

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mcr.errors import RuleError
from mcr.model.endpoint import Endpoint

RuleId = NewType("RuleId", str)

MAX_OUTPUTS_PER_RULE = 256
NAME_SYNTAX = "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Origin(StrEnum):
    """Who asked for a rule."""

    CONFIG = "config"
    CONTROL = "control"


class TtlPolicy(StrEnum):
    """
    What the time to live (IPv4) or hop limit (IPv6) of a relayed datagram follows from.

    AUTO is one less than what arrived but never below 1: a source that sends with TTL 1, the default of
    every socket, still gets through the relay.  DECREMENT drops what arrives with 1, like a router.
    """

    AUTO = "auto"
    KEEP = "keep"
    DECREMENT = "decrement"


Ttl = TtlPolicy | int


@dataclass(frozen=True, slots=True)
class Output:
    """
    Where a rule's datagrams go, and how they leave.

    Attributes:
        to: an endpoint without sources.
        ttl: a policy, or a fixed number from 1 to 255.

    Raises:
        RuleError: the endpoint has sources, or the number is out of range.
    """

    to: Endpoint
    ttl: Ttl = TtlPolicy.AUTO

    def __post_init__(self) -> None:
        if self.to.sources:
            raise RuleError("bad_output", f"{self.to}: got sources on an output, expected none")
        if not isinstance(self.ttl, TtlPolicy) and not 1 <= self.ttl <= 255:
            raise RuleError(
                "bad_output", f"{self.to}: got ttl {self.ttl}, expected auto, keep, decrement or 1 to 255"
            )


@dataclass(frozen=True, slots=True)
class Rule:
    """
    Relay what arrives at *input* to every one of *outputs*.

    Attributes:
        name: for people; the rule's id if it was given none.
        id: for programs; the same input gets the same id for ever.
        allow_link_local: relay 224.0.0.0/24 and ff02::/16 too, which routers never forward.

    Raises:
        RuleError: a part cannot stand where it is.
    """

    input: Endpoint
    outputs: tuple[Output, ...]
    name: str = ""
    origin: Origin = Origin.CONFIG
    allow_link_local: bool = False
    id: RuleId = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(str(self.input).encode(), digest_size=6)
        object.__setattr__(self, "id", RuleId(digest.hexdigest()))
        if not self.name:
            object.__setattr__(self, "name", str(self.id))
        if not _NAME.match(self.name):
            raise RuleError("bad_name", f"got name {self.name!r}, expected {NAME_SYNTAX}")
        if self.input.interface is None:
            raise RuleError(
                "bad_input",
                f"{self.input}: got an input without an interface, expected ADDRESS%INTERFACE:PORT",
            )
        if self.input.is_link_local_group and not self.allow_link_local:
            raise RuleError(
                "link_local",
                f"{self.input}: got a link-local group, expected another one or allow_link_local: true",
            )
        if not 1 <= len(self.outputs) <= MAX_OUTPUTS_PER_RULE:
            raise RuleError(
                "bad_outputs", f"got {len(self.outputs)} outputs, expected 1 to {MAX_OUTPUTS_PER_RULE}"
            )
        self._check_outputs()

    @property
    def interface(self) -> str:
        """Name the interface of the input."""
        if self.input.interface is None:
            raise AssertionError(self.input)
        return self.input.interface

    def _check_outputs(self) -> None:
        seen = set()
        for output in self.outputs:
            if output.to in seen:
                raise RuleError("bad_output", f"{output.to}: got this output twice, expected it once")
            seen.add(output.to)

"""A rule is one input endpoint and one or more outputs under a name."""

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mcr.errors import EndpointError, RuleError
from mcr.model.endpoint import Address, Endpoint, check_source
from mcr.model.policy import POLICIES, Dscp, DscpPolicy, Rate, Source, SourcePolicy, Ttl, TtlPolicy

RuleId = NewType("RuleId", str)

MAX_OUTPUTS_PER_RULE = 256
NAME_SYNTAX = "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Origin(StrEnum):
    """Who asked for a rule."""

    CONFIG = "config"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Output:
    """
    Where a rule's datagrams go, and how they leave.

    Attributes:
        to: an endpoint without sources.
        ttl: a policy, or a fixed number from 1 to 255.
        dscp: a policy, or a fixed number from 0 to 63.
        source: a policy, or an address of this host.
        rate: a limit, or None for none.

    Raises:
        RuleError: a part is out of range, or the parts do not fit each other.
    """

    to: Endpoint
    ttl: Ttl = TtlPolicy.AUTO
    dscp: Dscp = DscpPolicy.KEEP
    source: Source = SourcePolicy.INTERFACE
    rate: Rate | None = None

    def __post_init__(self) -> None:
        if self.to.sources:
            raise RuleError("bad_output", f"{self.to}: got sources on an output, expected none")
        for name, value in self.policies().items():
            try:
                POLICIES[name](str(value))
            except RuleError as error:
                raise RuleError("bad_output", f"{self.to}: {error}") from None
        if self.source is SourcePolicy.KEEP and not self.to.is_multicast:
            raise RuleError(
                "bad_output", f"{self.to}: got source keep, expected it with a multicast address only"
            )
        if not isinstance(self.source, SourcePolicy):
            self._check_source(self.source)

    def policies(self) -> dict[str, Ttl | Dscp | Source | Rate]:
        """Give the policies that are set, by their words."""
        named = {"ttl": self.ttl, "dscp": self.dscp, "source": self.source, "rate": self.rate}
        return {name: value for name, value in named.items() if value is not None}

    def _check_source(self, source: Address) -> None:
        try:
            check_source(source, self.to.address)
        except EndpointError as error:
            raise RuleError("bad_output", f"{self.to}: {error}") from None


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
            if output.source is SourcePolicy.KEEP and output.to.address.version != self.input.address.version:
                raise RuleError(
                    "bad_output",
                    f"{output.to}: got source keep, expected it with the IP version of {self.input} only",
                )
            if output.to in seen:
                raise RuleError("bad_output", f"{output.to}: got this output twice, expected it once")
            seen.add(output.to)

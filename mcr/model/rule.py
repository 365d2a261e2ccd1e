"""A rule is one input endpoint and one or more outputs under a name."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mcr.errors import EndpointError, RuleError
from mcr.model.endpoint import Endpoint, check_source
from mcr.model.mapping import Mapped
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
        to: an endpoint without sources, or how each datagram's own group and port are mapped.
        ttl: a policy, or a fixed number from 1 to 255.
        dscp: a policy, or a fixed number from 0 to 63.
        source: a policy, or an address of this host.
        rate: a limit, or None for none.

    Raises:
        RuleError: a part is out of range, or the parts do not fit each other.
    """

    to: Endpoint | Mapped
    ttl: Ttl = TtlPolicy.AUTO
    dscp: Dscp = DscpPolicy.KEEP
    source: Source = SourcePolicy.INTERFACE
    rate: Rate | None = None

    def __post_init__(self) -> None:
        if isinstance(self.to, Endpoint):
            self._check_endpoint(self.to)
        for name, value in self.policies().items():
            try:
                POLICIES[name](str(value))
            except RuleError as error:
                raise RuleError("bad_output", f"{self.to}: {error}") from None

    def policies(self) -> dict[str, Ttl | Dscp | Source | Rate]:
        """Give the policies that are set, by their words."""
        named = {"ttl": self.ttl, "dscp": self.dscp, "source": self.source, "rate": self.rate}
        return {name: value for name, value in named.items() if value is not None}

    def version(self, given: Endpoint) -> int:
        """Give the IP version that it sends with when *given* is the rule's input."""
        return (self.to if isinstance(self.to, Endpoint) else given).address.version

    def _check_endpoint(self, to: Endpoint) -> None:
        if to.sources or to.excluded or to.is_range:
            raise RuleError("bad_output", f"{to}: got sources or a range on an output, expected none")
        if self.source is SourcePolicy.KEEP and not to.is_multicast:
            raise RuleError("bad_output", f"{to}: got source keep, expected it with a multicast address only")
        if not isinstance(self.source, SourcePolicy):
            try:
                check_source(self.source, to.address)
            except EndpointError as error:
                raise RuleError("bad_output", f"{to}: {error}") from None

    def check_fit(self, given: Endpoint) -> None:
        """
        Refuse an output that cannot send what arrives at *given*.

        Raises:
            RuleError: an original source or a mapping of another IP version, or a port out of range.
        """
        of_version = f"expected it with the IP version of {given} only"
        if self.source is SourcePolicy.KEEP and self.version(given) != given.address.version:
            raise RuleError("bad_output", f"{self.to}: got source keep, {of_version}")
        if isinstance(self.to, Endpoint):
            return
        if not isinstance(self.source, SourcePolicy) and self.source.version != given.address.version:
            raise RuleError("bad_output", f"{self.to}: got source {self.source}, {of_version}")
        if not given.is_multicast or self.to.version not in {None, given.address.version}:
            raise RuleError("bad_output", f"{self.to}: got a mapping of groups, {of_version}")
        first, last = self.to.ports(given.port, given.last_port)
        if not 1 <= first <= last <= 65535:
            raise RuleError("bad_output", f"{self.to}: got ports {first} to {last}, expected 1 to 65535")


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
        check_outputs(self.outputs)
        for output in self.outputs:
            output.check_fit(self.input)

    @property
    def interface(self) -> str:
        """Name the interface of the input."""
        if self.input.interface is None:
            raise AssertionError(self.input)
        return self.input.interface


def check_outputs(outputs: Sequence[Output]) -> None:
    """
    Refuse a list of outputs that no rule can have, whatever its input.

    Raises:
        RuleError: too few, too many, or one twice.
    """
    if not 1 <= len(outputs) <= MAX_OUTPUTS_PER_RULE:
        raise RuleError("bad_outputs", f"got {len(outputs)} outputs, expected 1 to {MAX_OUTPUTS_PER_RULE}")
    seen = set()
    for output in outputs:
        if output.to in seen:
            raise RuleError("bad_output", f"{output.to}: got this output twice, expected it once")
        seen.add(output.to)

"""
What a configuration file may say.

The description of a field is what a message says was expected there, and its ``item`` what was expected of
the items of a list. Endpoints and their parts are checked by the model while pydantic checks the form: so
every mistake in a file is found in one go.
"""

import re
from collections.abc import Callable
from typing import Annotated, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mcr.errors import EndpointError, RuleError, UsageError
from mcr.model.endpoint import (
    SYNTAX,
    Endpoint,
    check_address,
    check_interface,
    check_port,
    parse_address,
    parse_endpoint,
    read_groups,
    read_ports,
)
from mcr.model.mapping import SYNTAX as MAPPING_SYNTAX
from mcr.model.mapping import parse_target
from mcr.model.policy import (
    DSCP_SYNTAX,
    POLICIES,
    RATE_SYNTAX,
    SOURCE_SYNTAX,
    TTL_SYNTAX,
    Dscp,
    DscpPolicy,
    Rate,
    SourcePolicy,
    Ttl,
    TtlPolicy,
)
from mcr.model.policy import Source as OutputSource
from mcr.model.rule import NAME_SYNTAX, Output, Rule, check_outputs
from mcr.model.steering import Steering

MAX_WORKERS = 256  # members of a fanout group: PACKET_FANOUT_MAX, net/packet/internal.h
MAX_COALESCE_US = 10_000
MAX_RING_MIB = 1024
MAX_BATCH = 512  # MCR_MAX_BATCH in native/mcr.h
OWN_ERROR = "mcr"  # the type of errors whose message is ours
TAGS = frozenset(
    {"<text>", "<object>", "<target>", "<list>"}
)  # in the location of an error, and not in the file

Value = TypeVar("Value")


def checked(read: Callable[[Value], object]) -> AfterValidator:
    """Make pydantic refuse what *read* refuses, in its words."""

    def validate(value: Value) -> Value:
        try:
            read(value)
        except UsageError as error:
            raise own_error(without_subject(str(error).removeprefix(f"{value!r}: "))) from None
        return value

    return AfterValidator(validate)


def without_subject(message: str) -> str:
    """Leave out the endpoint that a message of the model begins with: the path in the file says it better."""
    return re.sub(r"^\S+: (?=got )", "", message)


def own_error(reason: str) -> PydanticCustomError:
    """Make an error that is shown as it stands."""
    return PydanticCustomError(OWN_ERROR, "{reason}", {"reason": reason})


def kind(value: object) -> str | None:
    """Give the tag of *value*, None if it can be no endpoint."""
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, dict):
        return "<object>"
    return "<list>" if isinstance(value, list) else None


def output_kind(value: object) -> str | None:
    """Give the tag of *value*, None if it can be no output."""
    return "<target>" if isinstance(value, dict) and "to" in value else kind(value)


def read_coalesce(value: object) -> int | None:
    """Take a number of microseconds; None is for ``auto``."""
    if value == "auto":
        return None
    if type(value) is not int or not 0 <= value <= MAX_COALESCE_US:
        raise PydanticCustomError("coalesce", "no time")  # shown with the description of the field
    return value


def read_port_range(value: object) -> tuple[int, int]:
    """Take a number, or the text of a range."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PydanticCustomError("port", "no port")  # shown with the description of the field
    try:
        first, last = read_ports(str(value))
        check_port(first)
        check_port(last)
    except EndpointError:
        raise PydanticCustomError("port", "no port") from None
    return first, last


def policy(name: str) -> PlainValidator:
    """Make pydantic read the word or number of a policy."""

    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise PydanticCustomError(name, "no policy")  # shown with the description of the field
        try:
            return POLICIES[name](str(value))
        except RuleError:
            raise PydanticCustomError(name, "no policy") from None

    return PlainValidator(read)


class Strict(BaseModel):
    """No conversions, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


_ADDRESS = "an IPv4 or IPv6 address"
_GROUPS = "an IPv4 or IPv6 address, or a prefix of groups such as 239.1.0.0/24"
_PORT = "1 to 65535"
_PORTS = "1 to 65535, or a range such as '5000-5010'"
_INTERFACE = "the name of an interface"
_PLACE = f"{SYNTAX}, or an object with these parts"
_TARGET = f"{SYNTAX}, or {MAPPING_SYNTAX}"

# What stands for the rest of a rule while one part of it is checked.
_ANY_INPUT = parse_endpoint("239.0.0.1%lo:1")
_ANY_OUTPUT = Output(parse_endpoint("192.0.2.1:1"))

Groups = Annotated[str, checked(lambda text: check_address(read_groups(text)[0]))]
Address = Annotated[str, checked(lambda text: check_address(parse_address(text)))]
Source = Annotated[str, checked(parse_address)]
Interface = Annotated[str, checked(check_interface)]
Name = Annotated[str, Field(min_length=1), checked(lambda name: Rule(_ANY_INPUT, (_ANY_OUTPUT,), name))]
InputText = Annotated[str, checked(lambda text: check_input(parse_endpoint(text))), Tag("<text>")]
OutputText = Annotated[str, checked(lambda text: Output(parse_target(text))), Tag("<text>")]


def check_input(endpoint: Endpoint) -> None:
    """
    Refuse what no rule can have as its input, whatever else it says.

    Raises:
        RuleError: it has no interface.
    """
    Rule(endpoint, (_ANY_OUTPUT,), allow_link_local=True)


TtlField = Annotated[Ttl, policy("ttl"), Field(description=TTL_SYNTAX)]
DscpField = Annotated[Dscp, policy("dscp"), Field(description=DSCP_SYNTAX)]
SourceField = Annotated[OutputSource, policy("source"), Field(description=SOURCE_SYNTAX)]
RateField = Annotated[Rate | None, policy("rate"), Field(description=RATE_SYNTAX)]


class InputObject(Strict):
    """An input, part by part."""

    interface: Interface = Field(description=_INTERFACE)
    address: Groups = Field(description=_GROUPS)
    port: Annotated[tuple[int, int], PlainValidator(read_port_range)] = Field(description=_PORTS)
    sources: list[Source] = Field(
        default_factory=list, description="a list of addresses", json_schema_extra={"item": _ADDRESS}
    )

    exclude: list[Source] = Field(
        default_factory=list, description="a list of addresses", json_schema_extra={"item": _ADDRESS}
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        return _refuse_unfit(self, self.endpoint)

    def endpoint(self) -> Endpoint:
        """Give the value."""
        address, prefix_length = read_groups(self.address)
        sources, excluded = (tuple(map(parse_address, listed)) for listed in (self.sources, self.exclude))
        port, last_port = self.port
        return Endpoint(address, port, self.interface, sources, excluded, prefix_length, last_port)


class OutputObject(Strict):
    """An output, part by part."""

    interface: Interface | None = Field(default=None, description=_INTERFACE)
    address: Address = Field(description=_ADDRESS)
    port: int = Field(description=_PORT, ge=1, le=65535)
    ttl: TtlField = TtlPolicy.AUTO
    dscp: DscpField = DscpPolicy.KEEP
    source: SourceField = SourcePolicy.INTERFACE
    rate: RateField = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        return _refuse_unfit(self, self.output)

    def output(self) -> Output:
        """Give the value."""
        endpoint = Endpoint(parse_address(self.address), self.port, self.interface)
        return Output(endpoint, self.ttl, self.dscp, self.source, self.rate)


class TargetObject(Strict):
    """An output as text, an endpoint or a mapping, with policies."""

    to: OutputText = Field(description=_TARGET)
    ttl: TtlField = TtlPolicy.AUTO
    dscp: DscpField = DscpPolicy.KEEP
    source: SourceField = SourcePolicy.INTERFACE
    rate: RateField = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        return _refuse_unfit(self, self.output)

    def output(self) -> Output:
        """Give the value."""
        return Output(parse_target(self.to), self.ttl, self.dscp, self.source, self.rate)


def read_input(place: str | InputObject) -> Endpoint:
    """Give the value of an input that has been checked."""
    return parse_endpoint(place) if isinstance(place, str) else place.endpoint()


def read_output(place: str | OutputObject | TargetObject) -> Output:
    """Give the value of an output that has been checked."""
    return Output(parse_target(place)) if isinstance(place, str) else place.output()


InputPlace = Annotated[InputText | Annotated[InputObject, Tag("<object>")], Discriminator(kind)]
OutputPlace = Annotated[
    OutputText | Annotated[OutputObject, Tag("<object>")] | Annotated[TargetObject, Tag("<target>")],
    Discriminator(output_kind),
]
OutputList = Annotated[
    list[OutputPlace],
    checked(lambda places: check_outputs(tuple(map(read_output, places)))),
    Tag("<list>"),
]
OutputPlaces = Annotated[
    OutputText
    | Annotated[OutputObject, Tag("<object>")]
    | Annotated[TargetObject, Tag("<target>")]
    | OutputList,
    Discriminator(output_kind),
]


class RuleEntry(Strict):
    """One rule."""

    name: Name = Field(default="", description=NAME_SYNTAX)
    from_: InputPlace = Field(alias="from", description=_PLACE)
    to: OutputPlaces = Field(
        description=f"a list of outputs, or one output: {_PLACE}", json_schema_extra={"item": _PLACE}
    )
    allow_link_local: bool = Field(default=False, description="true or false")


class File(Strict):
    """The whole file; its rules are checked one by one, so that one bad rule hides nothing of the others."""

    workers: int | None = Field(
        default=None, description=f"a number of processes from 1 to {MAX_WORKERS}", ge=1, le=MAX_WORKERS
    )
    steering: Steering = Field(default=Steering.AUTO, description="auto, cpu or hash", strict=False)
    coalesce_us: Annotated[int | None, PlainValidator(read_coalesce)] = Field(
        default=None, description=f"auto, or 0 to {MAX_COALESCE_US}"
    )
    busy_poll: bool = Field(default=False, description="true or false")
    realtime: bool = Field(default=True, description="true or false")
    batch: int = Field(default=MAX_BATCH, description=f"1 to {MAX_BATCH}", ge=1, le=MAX_BATCH)
    watch_unmatched: bool = Field(default=True, description="true or false")
    bypass_stack: bool = Field(default=True, description="true or false")
    ring_mib: int | None = Field(default=None, description=f"1 to {MAX_RING_MIB}", ge=1, le=MAX_RING_MIB)
    rules: list[object] = Field(default_factory=list, description="a list of rules")


Fitting = TypeVar("Fitting")


def _refuse_unfit(parts: Fitting, build: Callable[[], object]) -> Fitting:
    try:
        build()
    except UsageError as error:
        raise own_error(without_subject(str(error))) from None
    return parts

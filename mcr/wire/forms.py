"""
Forms that the parameters of a request must have.

A form lists everything that is wrong with a value, each with the path to it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from mcr.errors import RuleError
from mcr.model.policy import POLICIES

MAX_TEXT_CHARACTERS = 4096  # an endpoint with 64 IPv6 sources has 2600


class Form(Protocol):
    """What a value must look like."""

    def problems(self, value: object, path: str) -> Iterator[str]:
        """Give ``path: got X, expected Y`` for everything that is wrong with *value*."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A string of 1 to `MAX_TEXT_CHARACTERS` characters."""

    expected: str

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT_CHARACTERS:
            yield f"{path}: got {show(value)}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        if not isinstance(value, bool):
            yield f"{path}: got {show(value)}, expected true or false"


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number within limits."""

    least: int
    most: int

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        if type(value) is not int or not self.least <= value <= self.most:
            yield f"{path}: got {show(value)}, expected {self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A map from the number of a worker, as text, to a whole number."""

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        if not isinstance(value, dict) or not all(type(one) is int and one >= 0 for one in value.values()):
            yield f"{path}: got {show(value)}, expected a map from workers to numbers"


@dataclass(frozen=True, slots=True)
class Policy:
    """The word or number of one of `model.policy.POLICIES`."""

    name: str

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        if isinstance(value, bool) or not isinstance(value, str | int):
            yield f"{path}: got {show(value)}, expected a word or a number"
            return
        try:
            POLICIES[self.name](str(value)[:MAX_TEXT_CHARACTERS])
        except RuleError as error:
            yield f"{path}: {error}"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of 0 to *most* values of one form."""

    item: Form
    most: int

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        if not isinstance(value, list) or len(value) > self.most:
            yield f"{path}: got {show(value)}, expected a list of at most {self.most}"
            return
        for position, item in enumerate(value):
            yield from self.item.problems(item, f"{path}[{position}]")


@dataclass(frozen=True, slots=True)
class Record:
    """A map that has all keys of *required*, maybe some of *optional*, and no other."""

    required: Mapping[str, Form]
    optional: Mapping[str, Form]

    def problems(self, value: object, path: str) -> Iterator[str]:
        """See `Form`."""
        forms = {**self.required, **self.optional}
        if not isinstance(value, dict):
            yield f"{path}: got {show(value)}, expected a map with {', '.join(forms) or 'no key'}"
            return
        for key, item in value.items():
            if key in forms:
                yield from forms[key].problems(item, f"{path}.{key}")
            else:
                yield f"{path}.{key}: got an unknown key, expected {', '.join(forms) or 'none'}"
        for key in self.required:
            if key not in value:
                yield f"{path}.{key}: got nothing, expected it to be given"


def show(value: object) -> str:
    """Show a value in an error message, in at most 80 characters."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a map"
    named = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return named[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""What pydantic found, in our words: ``path.to.key: got X, expected Y``."""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mcr.config.schema import OWN_ERROR, TAGS, File, InputObject, OutputObject, RuleEntry, TargetObject
from mcr.config.tree import join

Part = str | int

# Which model describes the map at a path, positions in lists left out.
_MODELS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): File,
    ("rules",): RuleEntry,
    ("rules", "from"): InputObject,
    ("rules", "to"): OutputObject,
}

_LONGEST_SHOWN = 60


def explain(errors: ValidationError, at: Sequence[Part] = ()) -> Iterator[str]:
    """Give one line for each of *errors* in what was found *at* a place in the file."""
    for error in errors.errors(include_url=False):
        yield _explain(error, [*at, *_location(error)])


def show_path(parts: Sequence[Part]) -> str:
    """Write a path: ``rules[1].to[0].ttl``."""
    path = ""
    for part in parts:
        path = f"{path}[{part}]" if isinstance(part, int) else join(path, part)
    return path


def show_value(value: object) -> str:
    """Write a value of the file, shortened."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return "a list"
        case dict():
            return "an object"
        case int() if value.bit_length() > 64:
            return "a huge number"  # Python refuses to print the longest ones
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _explain(error: ErrorDetails, parts: Sequence[Part]) -> str:
    path = show_path(parts)
    prefix = f"{path}: " if path else ""
    if error["type"] == OWN_ERROR:
        return f"{prefix}{error['msg']}"
    names = tuple(part for part in parts if isinstance(part, str))
    if error["type"] == "extra_forbidden":
        return f"{prefix}got an unknown key, expected one of {_keys(_model(error, names[:-1]))}"
    got = "nothing" if error["type"] == "missing" else show_value(error["input"])
    return f"{prefix}got {got}, expected {_expected(error, parts, names)}"


def _location(error: ErrorDetails) -> list[Part]:
    """Give the error's place without pydantic's tags; the name of an unknown key may be anything."""
    *places, last = error["loc"] or ("",)
    parts = [place for place in places if place not in TAGS]
    is_named = error["type"] == "extra_forbidden" or (last not in TAGS and error["loc"])
    return [*parts, last] if is_named else parts


def _model(error: ErrorDetails, names: tuple[str, ...]) -> type[BaseModel]:
    """Say which model describes the map at a path; that of an output is one of two."""
    return TargetObject if "<target>" in error["loc"][:-1] else _MODELS[names]


def _expected(error: ErrorDetails, parts: Sequence[Part], names: tuple[str, ...]) -> str:
    is_item = bool(parts) and isinstance(parts[-1], int)
    if names in _MODELS and (is_item or not parts) and names != ("rules", "to"):
        return f"an object with {_keys(_MODELS[names])}"
    field = _field(_model(error, names[:-1]), names[-1])
    extra = field.json_schema_extra
    item = extra.get("item") if is_item and isinstance(extra, dict) else None
    return str(item or field.description)


def _field(model: type[BaseModel], key: str) -> FieldInfo:
    return next(field for name, field in model.model_fields.items() if key == (field.alias or name))


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(field.alias or name for name, field in model.model_fields.items())

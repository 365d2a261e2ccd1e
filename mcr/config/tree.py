"""
Read a configuration file: JSON5 text to lists and maps.

Source: https://spec.json5.org
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import json5

from mcr.errors import ConfigError

MAX_FILE_BYTES = 16 << 20

_JSON5_ERROR = re.compile(
    r"<string>:(?P<line>\d+) Unexpected (?P<got>.*) at column (?P<column>\d+)\Z", re.DOTALL
)


class Table(dict[str, object]):
    """A map of the file that remembers which of its keys were repeated."""

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        super().__init__()
        self.repeated: list[str] = []
        for given, value in pairs:
            key = given.encode(errors="backslashreplace").decode()  # JSON can spell keys that are no Unicode
            if key in self:
                self.repeated.append(key)
            self[key] = value


def read_tree(path: Path) -> object:
    """
    Give what *path* holds: None, bool, int, float, str, lists and `Table`.

    Raises:
        ConfigError: it cannot be read, is too big, no UTF-8 or no JSON5, with line and column.
    """
    text = _read_text(path)
    try:
        return _parse(text)
    except RecursionError:
        raise ConfigError([f"{path}: got lists or maps nested too deep, expected rules"]) from None
    except ValueError as error:
        raise ConfigError([f"{path}: {_explain(error)}"]) from None


def repeated_keys(value: object, path: str = "") -> Iterator[str]:
    """Give the path of every key that stands twice in its map."""
    if isinstance(value, Table):
        yield from (join(path, key) for key in value.repeated)
        for key, item in value.items():
            yield from repeated_keys(item, join(path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from repeated_keys(item, f"{path}[{position}]")


def join(path: str, key: str) -> str:
    """Append a key to a path, quoted if it does not look like one."""
    name = key if key.isidentifier() else json.dumps(key)
    return f"{path}.{name}" if path else name


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: got {error.strerror!r}, expected a readable file"]) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([f"{path}: got more than {MAX_FILE_BYTES >> 20} MiB, expected at most that"])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{path}: line {line}: got bytes that are not UTF-8, expected UTF-8 text"]
        ) from None


def _parse(text: str) -> object:
    """Read JSON5, but try JSON, which programs write, first: 1000 rules take 10 ms instead of 3 s."""
    try:
        value: object = json.loads(text, object_pairs_hook=Table)
    except json.JSONDecodeError:
        value = json5.loads(text, object_pairs_hook=Table)
    return value


def _explain(error: ValueError) -> str:
    match = _JSON5_ERROR.match(str(error))
    if match is None:
        return f"got text that is no JSON5, expected an object with rules: {str(error).partition(';')[0]}"
    got = "the end of the file" if match["got"] == "end of input" else match["got"]
    shown = got.encode("unicode_escape").decode()
    return f"line {match['line']} column {match['column']}: got {shown}, expected JSON5"

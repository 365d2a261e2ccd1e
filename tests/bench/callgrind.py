"""
What callgrind has counted: instructions by function and by source line.

Source: https://valgrind.org/docs/manual/cl-format.html, without the compression of names and positions.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

COST = re.compile(r"(\d+) (\d+)")
OPTIONS = ("--compress-strings=no", "--compress-pos=no", "--dump-line=yes")
STATEMENT_ENDS = (";", "{", "}", "*/")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, known by its name; lines of an inlined function are in the function around it."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Profile:
    """
    Instructions.

    Attributes:
        total: all of them.
        own: of each place, without what it calls.
        inclusive: of each function, with what it calls; none may call itself.
    """

    total: int
    own: Mapping[Place, int]
    inclusive: Mapping[str, int]

    def function(self, name: str) -> int:
        """
        Give the instructions of a function and of what it calls.

        Raises:
            LookupError: it never ran, or the compiler has inlined it.
        """
        return self.inclusive[name]

    def lines(self, file: str, numbers: Collection[int]) -> int:
        """Give the instructions of lines of a file."""
        return sum(count for place, count in self.own.items() if place.file == file and place.line in numbers)

    def own_by_function(self) -> dict[str, int]:
        """Give each function's instructions, without what it calls."""
        sums: Counter[str] = Counter()
        for place, count in self.own.items():
            sums[place.function] += count
        return dict(sums)


def parse(lines: Iterable[str]) -> Profile:
    """
    Read a profile that was written with `OPTIONS`.

    Raises:
        ValueError: there is no sum in it, or it is not that of all lines.
    """
    own: Counter[Place] = Counter()
    inclusive: Counter[str] = Counter()
    total = function = file = None
    is_call = False
    for line in lines:
        key, equals, value = line.strip().partition("=")
        if equals and key in {"fl", "fi", "fe"}:
            file = PurePath(value).name
        elif equals and key == "fn":
            function = value
        elif equals and key == "calls":
            is_call = True
        elif (cost := COST.fullmatch(line.strip())) and function and file:
            number, count = map(int, cost.groups())
            inclusive[function] += count
            if not is_call:
                own[Place(function, file, number)] += count
            is_call = False
        elif line.startswith("summary:"):
            total = int(line.split()[1])
    if total is None or total != sum(own.values()):
        raise ValueError(f"got {sum(own.values())} instructions in lines, expected the sum {total}")
    return Profile(total, dict(own), dict(inclusive))


def statements(source: str, pattern: str) -> set[int]:
    """Number the lines of the statements, or heads of blocks, whose first line has a pattern in it."""
    numbers = set()
    goes_on = False
    for number, line in enumerate(source.splitlines(), start=1):
        if goes_on or re.search(pattern, line):
            numbers.add(number)
            goes_on = not line.split("/*")[0].rstrip().endswith(STATEMENT_ENDS)
    return numbers

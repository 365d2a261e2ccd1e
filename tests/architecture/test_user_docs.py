"""The tables of user_docs/ name what there is: every reason, key and policy, and nothing else."""

import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import BaseModel

from mcr.config.schema import File, InputObject, OutputObject, RuleEntry, TargetObject
from mcr.model.policy import POLICIES, RateUnit, SourcePolicy, TtlPolicy
from mcr.model.stats import IGNORED_REASONS, NOT_SENT_REASONS
from mcr.model.steering import Steering
from mcr.wire.documents import (
    InterfaceStats,
    LatencyDocument,
    OutputDocument,
    OutputStats,
    RuleDocument,
    RuleStats,
    StatsDocument,
)

PAGES = Path(__file__).resolve().parents[2] / "user_docs"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    """Give what stands below a heading, up to the next one."""
    _, _, behind = (PAGES / page).read_text(encoding="utf-8").partition(f"# {heading}\n")
    assert behind, f"{page} has no heading {heading!r}"
    return re.split(r"^#+ ", behind, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str, head: str) -> list[str]:
    """Give the first column of the table with this head, without quotes."""
    (table,) = (part for part in f"\n{text}".split("\n\n") if part.startswith(f"| {head} |"))
    return [
        line.split("|")[1].strip().strip("`").strip('"')
        for line in table.splitlines()[2:]
        if line.startswith("|")
    ]


def code_words(text: str) -> set[str]:
    """Give the words that stand in code: between backticks, or in quotes in a block."""
    blocks = "".join(FENCE.findall(text))
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return {word for span in spans for word in re.findall(r"\w+", span)} | set(re.findall(r'"(\w+)"', blocks))


def keys_of(*models: type[BaseModel]) -> set[str]:
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def words(*sets: Iterable[StrEnum]) -> set[str]:
    return {str(one) for members in sets for one in members}


TABLES = [
    ("troubleshooting.md", "4. What was ignored?", "reason", set(IGNORED_REASONS)),
    ("troubleshooting.md", "5. What was not sent?", "reason", set(NOT_SENT_REASONS)),
    ("configuration.md", "Keys of the file", "key", keys_of(File)),
    ("configuration.md", "Keys of a rule", "key", keys_of(RuleEntry)),
    ("configuration.md", "Inputs as objects", "key", keys_of(InputObject)),
    ("configuration.md", "Outputs as objects", "key", keys_of(OutputObject, TargetObject)),
    ("configuration.md", "Outputs as objects", "`ttl`", words(TtlPolicy) | {"a number"}),
    ("configuration.md", "Outputs as objects", "`source`", words(SourcePolicy) | {"an address"}),
]


@pytest.mark.parametrize(
    ("page", "heading", "head", "expected"), TABLES, ids=[f"{table[1]} {table[2]}" for table in TABLES]
)
def test_a_table_names_what_there_is_once(page: str, heading: str, head: str, expected: set[str]) -> None:
    named = first_cells(section(page, heading), head)

    assert sorted(named) == sorted(expected)


def test_every_line_of_a_table_belongs_to_one() -> None:
    """A line behind a blank one would be shown with its bars."""
    for page in sorted(PAGES.glob("*.md")):
        lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
        begins = [
            at for at, line in enumerate(lines) if line.startswith("|") and not lines[at - 1].startswith("|")
        ]
        assert all(set(lines[at + 1]) <= set("|-: ") for at in begins), f"{page.name}: {begins}"


def test_the_keys_of_an_output_on_the_command_line_are_the_policies() -> None:
    text = section("mcrctl.md", "rule add")
    (line,) = (one for one in text.splitlines() if "`KEY` is" in one)

    assert code_words(line.partition("`KEY` is")[2].partition(", see")[0]) == POLICIES.keys()


def test_units_and_kinds_of_steering_are_named() -> None:
    text = (PAGES / "configuration.md").read_text(encoding="utf-8")

    assert words(RateUnit, Steering) <= code_words(text)


@pytest.mark.parametrize(
    ("heading", "documents"),
    [
        ("Rule", [RuleDocument, OutputDocument]),
        ("Statistics", [StatsDocument, InterfaceStats, RuleStats, OutputStats, LatencyDocument]),
    ],
)
def test_every_key_of_a_document_is_in_the_manual(heading: str, documents: list[type]) -> None:
    text = section("mcrctl.md", heading)

    assert {key for one in documents for key in get_type_hints(one)} <= code_words(text)

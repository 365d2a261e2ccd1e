"""What the documents for users show is understood: every command line, every option."""

import argparse
import re
from pathlib import Path

import pytest

from mcr.cli.main import build_parser as mcrctl_parser
from mcr.gen import main as mcrgen
from mcr.supervisor.main import build_parser as mcrd_parser
from tests.support import manual
from tests.support.manual import DOCUMENTS, ROOT, Shown

# Names of commands, which say nothing of what they are given.
INCOMPLETE = {"mcrctl COMMAND --help", "mcrgen send", "mcrgen receive"}


def understand(shown: Shown) -> None:
    """Read a command line as its program does, up to where it would do something."""
    program, *arguments = shown.words
    if program == "mcrctl":
        options = mcrctl_parser().parse_args(arguments)
        options.command.params(options)
    elif program == "mcrd":
        mcrd_parser().parse_args(arguments)
    else:
        mcrgen.prepare(mcrgen.build_parser().parse_args(arguments))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_that_is_shown_is_understood(document: Path) -> None:
    for shown in [*manual.sessions(document), *manual.mentioned(document)]:
        if str(shown) not in INCOMPLETE:
            understand(shown)


def test_there_are_commands_of_every_program() -> None:
    shown = [one for document in DOCUMENTS for one in manual.sessions(document) + manual.mentioned(document)]

    assert {one.words[0] for one in shown} == set(manual.PROGRAMS)
    assert len(shown) > 40
    assert {str(one) for one in shown} >= INCOMPLETE


@pytest.mark.parametrize(
    "words",
    [
        ("mcrctl", "rule", "lst"),
        ("mcrctl", "stats", "--latencies"),
        ("mcrd", "--cheque"),
        ("mcrgen", "send", "--to", "239.1.1.1%eth0:1", "--rate", "1", "--size", "100"),
    ],
)
def test_what_is_no_command_is_not_understood(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        understand(Shown(words))


def test_commands_are_read_with_what_they_print(tmp_path: Path) -> None:
    document = tmp_path / "one.md"
    document.write_text(
        "Say `mcrctl ping`.\n```console\n# mcrd &\n# export A=1\n$ mcrctl rule add x \\\n    --from 'a b'\n"
        "x: active\n  and more\n$ mcrctl rule list\n```\n```\nmcrgen send\nlistening\n```\n"
        "```text\nmcrd\n```\n"
    )

    assert manual.sessions(document) == [
        Shown(("mcrd",)),
        Shown(("mcrctl", "rule", "add", "x", "--from", "a b"), ("x: active", "  and more")),
        Shown(("mcrctl", "rule", "list")),
    ]
    assert manual.mentioned(document) == [Shown(("mcrctl", "ping")), Shown(("mcrgen", "send"))]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Give the options of a parser and its commands, but for those that explain themselves."""
    options: set[str] = set()
    for action in parser._actions:
        options |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            options = options.union(*map(options_of, action.choices.values()))
    return options - {"--help", "--version"}


@pytest.mark.parametrize(
    ("name", "parser"),
    [
        ("operations.md", mcrd_parser()),
        ("mcrctl.md", mcrctl_parser()),
        ("mcrgen.md", mcrgen.build_parser()),
    ],
)
def test_the_tables_name_every_option_and_no_other(name: str, parser: argparse.ArgumentParser) -> None:
    rows = [line for line in (ROOT / "user_docs" / name).read_text().splitlines() if line.startswith("| `")]
    named = {option for row in rows for option in re.findall(r"--[a-z-]+", row.split(" | ")[0])}

    assert named == options_of(parser)


def test_the_table_says_how_many_workers_there_may_be() -> None:
    parse = mcrd_parser().parse_args

    assert "worker processes, 1 to 256;" in (ROOT / "user_docs" / "operations.md").read_text()
    assert [parse(["--workers", count]).workers for count in ("1", "256")] == [1, 256]
    for count in ("0", "257"):
        with pytest.raises(SystemExit):
            parse(["--workers", count])

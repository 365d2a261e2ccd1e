"""
The commands of README.md exist.

They are read from its fenced code blocks: the first word of each line, after a prompt, ``sudo`` and
assignments, with backslashes joining lines. That the commands also *work* is for the demo and the netns
tests to show.
"""

import json
import os
import re
import shlex
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SCRIPTS = Path(sysconfig.get_path("scripts"))

CODE_BLOCK = re.compile(
    r"^ {0,3}```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^ {0,3}```\s*$", re.MULTILINE | re.DOTALL
)
SHELL = {"", "bash", "console", "sh", "shell"}
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def commands(markdown: str) -> Iterator[list[str]]:
    """
    Give the words of each command in the shell code blocks.

    A block with a prompt (``$`` or ``#`` and a space) holds output as well: only its prompted lines are
    commands.
    """
    for block in CODE_BLOCK.finditer(markdown):
        if block["language"] not in SHELL:
            continue
        lines = block["body"].replace("\\\n", " ").splitlines()
        if block["language"] == "console" or any(line.lstrip().startswith("$ ") for line in lines):
            lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith(("$ ", "# "))]
        for line in lines:
            yield from split(line)


def split(line: str) -> Iterator[list[str]]:
    """Give the words of each command of a shell line, which ``&&``, ``;`` and pipes may hold several of."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if set(token) <= set("();&|"):
            while words and (words[0] == "sudo" or ASSIGNMENT.match(words[0])):
                del words[0]
            if words:
                yield words
            words = []
        else:
            words.append(token)


@pytest.fixture(scope="module")
def readme_commands() -> list[list[str]]:
    return list(commands(README.read_text()))


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("```\n./scripts/demo\n```\n", [["./scripts/demo"]]),
        ("```sh\nA=1 sudo mcrctl rule list   # comment\n```\n", [["mcrctl", "rule", "list"]]),
        ("```console\n$ mcrctl status\nmcrctl is output\n```\n", [["mcrctl", "status"]]),
        ("```console\n# mcrd \\\n    --help\n```\n", [["mcrd", "--help"]]),
        ("```\ncd x && just check | tee log\n```\n", [["cd", "x"], ["just", "check"], ["tee", "log"]]),
        ("```json5\nmcrctl: 1\n```\n", []),
        ("just prose\n\n    mcrctl indented\n", []),
    ],
)
def test_commands_are_read_from_shell_blocks(markdown: str, expected: list[list[str]]) -> None:
    assert list(commands(markdown)) == expected


def test_first_two_commands_are_the_demo_and_the_tests(readme_commands: list[list[str]]) -> None:
    assert readme_commands[:2] == [["./scripts/demo"], ["./scripts/test"]]


def test_named_scripts_are_executable(readme_commands: list[list[str]]) -> None:
    scripts = {words[0] for words in readme_commands if re.match(r"(\./)?(scripts|\.ci)/", words[0])}

    assert scripts
    assert {script for script in scripts if not os.access(ROOT / script, os.X_OK)} == set()


def test_named_programs_are_installed(readme_commands: list[list[str]]) -> None:
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].keys()
    programs = {Path(words[0]).name for words in readme_commands}
    named = {program for program in programs if program.startswith("mcr")}

    assert named - entry_points == set()
    assert {program for program in named if not os.access(SCRIPTS / program, os.X_OK)} == set()


def test_named_just_recipes_exist(readme_commands: list[list[str]]) -> None:
    dump = subprocess.run(
        [SCRIPTS / "just", "--dump", "--dump-format", "json"], cwd=ROOT, capture_output=True, check=True
    )
    recipes = json.loads(dump.stdout)["recipes"].keys()
    named = {words[1] for words in readme_commands if Path(words[0]).name == "just" and len(words) > 1}

    assert named - recipes == set()

"""The documents for users, followed to the letter: their commands on a host that looks as they say."""

import subprocess
from pathlib import Path

import pytest

from tests.support import manual
from tests.support.daemon import BIN, Daemon
from tests.support.lab import TREE, Host, Lab
from tests.support.manual import DOCUMENTS, Shown

DEADLINE_S = 20
EXAMPLES = [
    *((document.name, block) for document in DOCUMENTS for block in manual.blocks(document, "json5")),
    *((path.name, path.read_text()) for path in sorted((TREE / "examples").glob("*.json5"))),
]
SESSIONS = {
    document.name: [shown for shown in manual.sessions(document) if shown.words[0] == "mcrctl"]
    for document in DOCUMENTS
}
# A document may speak of a rule that it does not add.
CONFIG = {
    "workers": 2,
    "rules": [{"name": "RULE", "from": "239.255.0.1%eth0:5001", "to": "239.255.0.2%eth1:1"}],
}
# Numbers that follow from traffic and machine.
VARIABLE = ("mcrctl stats", "mcrctl worker", "mcrctl interface")


def relaying_host(lab: Lab) -> Host:
    """Make a host whose eth0 leads to the sources and whose eth1 to the sinks."""
    relay = lab.host("relay")
    lab.cable(relay, "eth0", lab.host("source"), "a0")
    lab.cable(relay, "eth1", lab.host("sink"), "b0")
    return relay


def follow(daemon: Daemon, shown: Shown) -> None:
    """Run a command of ``mcrctl``, and compare what it prints with what the document shows, if it does."""
    printed = daemon.ctl(*shown.words[1:]).stdout.splitlines()
    if str(shown).startswith(VARIABLE):
        printed, expected = printed[:1], list(shown.output[:1])
        assert [line.split() for line in expected] in ([], [line.split() for line in printed]), str(shown)
    elif shown.output:
        assert printed == list(shown.output), str(shown)


@pytest.mark.parametrize("name", [name for name, commands in SESSIONS.items() if commands])
def test_what_a_document_shows_of_mcrctl_is_what_happens(lab: Lab, tmp_path: Path, name: str) -> None:
    with Daemon(relaying_host(lab), tmp_path, CONFIG) as daemon:
        for shown in SESSIONS[name]:
            follow(daemon, shown)


def test_there_are_sessions_to_follow() -> None:
    assert sum(map(len, SESSIONS.values())) > 25


def check(path: str, directory: Path = TREE) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "mcrd", "--config", path, "--check"],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_configuration_that_is_shown_is_good(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    done = check(str(path))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("no problems\n")


def test_every_check_that_is_shown_prints_what_is_shown() -> None:
    checks = [
        shown
        for document in DOCUMENTS
        for shown in manual.sessions(document)
        if shown.words[0] == "mcrd" and "--check" in shown.words and shown.output
    ]

    assert checks
    for shown in checks:
        done = check(shown.words[shown.words.index("--config") + 1])
        assert done.stdout.splitlines() == list(shown.output)

import argparse
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcr.gen.main import build_parser, main

GUIDE = Path(__file__).resolve().parents[2] / "user_docs" / "mcrgen.md"

SEND = ["send", "--to", "239.1.1.1%lo:5001", "--rate", "10", "--size", "100", "--count", "1"]
RECEIVE = ["receive", "--from", "239.1.1.1%lo:5001", "--count", "1"]


@pytest.fixture(autouse=True)
def _signal_handlers_stay() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def status_of(arguments: list[str]) -> int:
    """Give the exit status, whether main() or argparse decides on it."""
    status: object
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    assert isinstance(status, int)
    return status


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"--rate": "0"}, "got rate '0', expected a positive number"),
        ({"--size": "39"}, "got size 39, expected 40 to 65507"),
        ({"--size": "70000"}, "got size 70000, expected 40 to 65507"),
        ({"--to": "239.1.1.1:5001"}, "without an interface"),
        ({"--to": "239.1.1.1%nosuch0:5001"}, "got interface 'nosuch0', expected one of"),
        ({"--flows": "5"}, "got 1 datagrams for 5 flows"),
        ({"--segment": "65"}, "got segments 65, expected 1 to 64"),
        ({"--segment": "64", "--size": "1472"}, "got segments x size 94208"),
        ({"--ttl": "256"}, "got ttl 256, expected 0 to 255"),
        ({"--cpu": "9999"}, "got CPU 9999, expected one of"),
        ({"--duration": "1"}, "not allowed with argument --count"),
        ({"--engine": "ethernet"}, "got engine ethernet, expected udp here"),
    ],
)
def test_an_impossible_send_is_refused(
    change: dict[str, str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SEND, *(part for option in change.items() for part in option)]

    assert status_of(arguments) == 2
    output = capsys.readouterr()
    assert complaint in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"--from": "nonsense"}, "expected [SOURCE@]ADDRESS%INTERFACE:PORT"),
        ({"--from": "239.1.1.1%nosuch0:5001"}, "got interface 'nosuch0', expected one of"),
        ({"--count": "0"}, "got count '0', expected a whole number"),
        ({"--max-loss": "-1"}, "got loss '-1', expected a whole number from 0"),
        ({"--idle": "0"}, "got time '0'"),
        ({"--flows": "100k"}, "got flows 100000, expected 1 to 65536"),
        ({"--by": "colour"}, "invalid choice"),
    ],
)
def test_an_impossible_receive_is_refused(
    change: dict[str, str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*RECEIVE, *(part for option in change.items() for part in option)]

    assert status_of(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_a_limit_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(RECEIVE[:3]) == 2
    assert "one of the arguments --count --duration is required" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["send", "receive"])
def test_the_guide_describes_every_option_and_no_other(command: str) -> None:
    [commands] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    options = {option for action in commands.choices[command]._actions for option in action.option_strings}
    _, _, section = GUIDE.read_text().partition(f"\n## {command}\n")
    rows = [
        line.split("|")[1] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")
    ]

    assert set(re.findall(r"--[a-z-]+", " ".join(rows))) == options - {"-h", "--help"}

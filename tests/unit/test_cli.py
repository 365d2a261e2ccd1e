import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

import pytest

from mcr.cli.commands import COMMANDS, parse_output
from mcr.cli.main import build_parser
from mcr.errors import PeerError, Refused, Unreachable, UsageError
from mcr.model.endpoint import parse_endpoint
from mcr.model.mapping import Mapped
from mcr.model.policy import Rate, RateUnit, SourcePolicy, TtlPolicy
from mcr.model.rule import Output
from mcr.wire.control import METHODS
from tests.support.documents import IN, OUT, RULE
from tests.support.fake_client import FakeClient, run


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    return FakeClient.install(monkeypatch)


DEFAULTS = {"ttl": "auto", "dscp": "keep", "source": "interface"}
ADD = ["rule", "add", "--from", IN, "--to", OUT]


@pytest.mark.parametrize(
    ("arguments", "method", "params"),
    [
        (ADD, "rule.add", {"from": IN, "to": [{"to": OUT, **DEFAULTS}]}),
        (
            [
                "rule",
                "add",
                "x",
                "--from",
                "232.1.1.1%eth0:1",
                "--source",
                "10.0.0.2",
                "--source",
                "10.0.0.1",
                "--to",
                OUT,
            ],
            "rule.add",
            {
                "name": "x",
                "from": "10.0.0.1,10.0.0.2@232.1.1.1%eth0:1",
                "to": [{"to": OUT, **DEFAULTS}],
            },
        ),
        (
            [
                "rule",
                "add",
                "--from",
                "224.0.0.9%a,b:1",
                "--to",
                f"{OUT},ttl=8",
                "--to",
                "1.2.3.4:5",
                "--allow-link-local",
            ],
            "rule.add",
            {
                "from": "224.0.0.9%a,b:1",
                "to": [{"to": OUT, **DEFAULTS, "ttl": 8}, {"to": "1.2.3.4:5", **DEFAULTS}],
                "allow_link_local": True,
            },
        ),
        (["rule", "del", "x"], "rule.del", {"rule": "x"}),
        (["rule", "list"], "rule.list", {}),
        (["rule", "show", "x"], "rule.show", {"rule": "x"}),
        (["stats"], "stats", {"latency": False}),
        (["stats", "x", "--latency"], "stats", {"rule": "x", "latency": True}),
        (["trace", "on", "x"], "trace.on", {"rule": "x", "sample": 1, "seconds": 60}),
        (
            ["trace", "on", "x", "--sample", "100", "--seconds", "5"],
            "trace.on",
            {"rule": "x", "sample": 100, "seconds": 5},
        ),
        (["trace", "off"], "trace.off", {}),
        (["trace", "show"], "trace.show", {}),
        (["unmatched", "list"], "unmatched.list", {}),
        (
            [
                *("rule", "add", "--from", "239.1.0.0/24%eth0:5000-5010", "--exclude", "10.0.0.9"),
                *("--to", "239.9.0.0/24%eth1:+1000,ttl=keep,dscp=ef,source=keep,rate=20Mbit"),
            ],
            "rule.add",
            {
                "from": "!10.0.0.9@239.1.0.0/24%eth0:5000-5010",
                "to": [
                    {
                        "to": "239.9.0.0/24%eth1:+1000",
                        "ttl": "keep",
                        "dscp": 46,
                        "source": "keep",
                        "rate": "20Mbit",
                    }
                ],
            },
        ),
        (["worker", "list"], "worker.list", {}),
        (["interface", "list"], "interface.list", {}),
        (["ping"], "ping", {}),
        (["version"], "version", {}),
    ],
)
def test_commands_ask_for_their_method(
    client: type[FakeClient], arguments: list[str], method: str, params: dict[str, object]
) -> None:
    assert run("--json", *arguments) == 0

    assert client.asked == [(method, params)]


def test_every_method_has_a_command(client: type[FakeClient]) -> None:
    for words in COMMANDS:
        more = {"rule add": ADD[2:], "rule del": ["x"], "rule show": ["x"], "trace on": ["x"]}.get(words, [])
        assert run(*words.split(), *more, "--json") == 0

    assert {method for method, _ in client.asked} == set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["rule"], "the following arguments are required"),
        (["rule", "del"], "the following arguments are required: NAME|ID"),
        (["rule", "add", "--to", OUT], "the following arguments are required: --from"),
        (["rule", "add", "--from", IN], "the following arguments are required: --to"),
        (["ping", "--js"], "unrecognized arguments: --js"),
        (["rule", "add", "--from", "x", "--to", OUT], "mcrctl: 'x': got no port"),
        (["rule", "add", "--from", IN, "--to", "239.2.2.2:6000"], "without an interface"),
        (["rule", "add", "--from", "1.2.3.4:5", "--to", OUT], "got an input without an interface"),
        (["rule", "add", "a/b", "--from", IN, "--to", OUT], "got name 'a/b', expected 1 to 64 letters"),
        (
            ["rule", "add", "--from", IN, "--to", f"{OUT},ttl=0"],
            "got ttl '0', expected auto, keep, decrement or 1 to 255",
        ),
        ([*ADD, "--source", "x"], "got address 'x', expected an IPv4 or IPv6 address"),
        (["rule", "add", "--from", "224.0.0.1%a:1", "--to", OUT], "got a link-local group"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_asks_nothing(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 2

    assert client.asked == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


@pytest.mark.parametrize("json_option", [[], ["--json"]])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refused("duplicate_input", "got it twice"), 1),
        (UsageError("got nonsense"), 2),
        (Unreachable("/x: there is no such socket"), 3),
        (PeerError("got garbage"), 3),
    ],
)
def test_errors_have_their_exit_status_and_stand_on_stderr(
    client: type[FakeClient],
    capsys: pytest.CaptureFixture[str],
    json_option: list[str],
    error: Exception,
    status: int,
) -> None:
    client.answer = error

    assert run("ping", *json_option) == status

    assert capsys.readouterr() == ("", f"mcrctl: {error}\n")


def test_without_a_daemon_the_path_and_what_to_check_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"

    assert run("--control", str(path), "ping") == 3

    assert capsys.readouterr().err == (
        f"mcrctl: {path}: there is no such socket; "
        "check that mcrd is running and was started with the same --control path\n"
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "path"),
    [
        ([], {}, "/run/mcr/control.sock"),
        ([], {"MCR_CONTROL": "/a"}, "/a"),
        (["--control", "/b"], {"MCR_CONTROL": "/a"}, "/b"),
    ],
)
def test_the_control_path_comes_from_option_environment_or_default(
    client: type[FakeClient],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: Mapping[str, str],
    path: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert run(*arguments, "--json", "ping") == 0

    assert client.path == Path(path)


@pytest.mark.parametrize(
    "arguments",
    [["--json", "rule", "list"], ["rule", "--json", "list"], ["rule", "list", "--json"]],
)
def test_json_may_stand_anywhere_and_is_all_that_is_printed(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    client.answer = [RULE]

    assert run(*arguments) == 0

    captured = capsys.readouterr()
    assert json.loads(captured.out) == [RULE]
    assert captured.err == ""


@pytest.mark.parametrize(
    "arguments", [["--control", "/b", "rule", "list"], ["rule", "list", "--control", "/b"]]
)
def test_the_control_path_may_stand_anywhere(client: type[FakeClient], arguments: list[str]) -> None:
    assert run(*arguments, "--json") == 0

    assert client.path == Path("/b")


def test_ping_says_who_answered(client: type[FakeClient], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ping") == 0

    assert capsys.readouterr().out.startswith(f"mcrd 0.1.0 at {client.path} answered in ")


def test_version_names_both_sides(client: type[FakeClient], capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = {"version": "9.8", "protocol": 1}

    assert run("version") == 0

    assert "mcrd 9.8, control protocol 1" in capsys.readouterr().out


def test_alone_it_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0

    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help_with_examples_that_it_understands(
    capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(*words.split(), "--help") == 0
    assert "mcrctl" in capsys.readouterr().out
    for example in COMMANDS[words].examples:
        options: Namespace = build_parser().parse_args(shlex.split(example)[1:])
        assert options.command is COMMANDS[words]
        options.command.params(options)


def test_the_reference_has_every_command_and_its_examples_are_understood() -> None:
    manual = (Path(__file__).parents[2] / "user_docs" / "mcrctl.md").read_text()
    examples = [
        line.removeprefix("$ mcrctl ") for line in manual.splitlines() if line.startswith("$ mcrctl ")
    ]

    assert [words for words in COMMANDS if f"| `{words}" not in manual] == []
    assert examples
    for example in examples:
        options = build_parser().parse_args(shlex.split(example))
        options.command.params(options)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("1.2.3.4:5", Output(parse_endpoint("1.2.3.4:5"))),
        ("1.2.3.4:5,ttl=auto", Output(parse_endpoint("1.2.3.4:5"))),
        ("1.2.3.4%a,ttl=3:5,ttl=255", Output(parse_endpoint("1.2.3.4%a,ttl=3:5"), 255)),
        ("[ff35::1%a]:5,ttl=keep", Output(parse_endpoint("[ff35::1%a]:5"), TtlPolicy.KEEP)),
        ("1.2.3.4%a,b:5", Output(parse_endpoint("1.2.3.4%a,b:5"))),
        ("1.2.3.4:5,dscp=af41", Output(parse_endpoint("1.2.3.4:5"), dscp=34)),
        ("1.2.3.4:5,source=10.0.0.1", Output(parse_endpoint("1.2.3.4:5"), source=IPv4Address("10.0.0.1"))),
        ("1.2.3.4:5,rate=1.5kpps", Output(parse_endpoint("1.2.3.4:5"), rate=Rate(1500, RateUnit.DATAGRAMS))),
        ("keep%a", Output(Mapped("a"))),
        ("keep%a:+5,dscp=7", Output(Mapped("a", port_offset=5), dscp=7)),
        (
            "[ff35::/64%a]:7,source=keep",
            Output(Mapped("a", IPv6Network("ff35::/64"), 7), source=SourcePolicy.KEEP),
        ),
    ],
)
def test_outputs_are_endpoints_with_options(text: str, output: Output) -> None:
    assert parse_output(text) == output


TTLS = "auto, keep, decrement or 1 to 255"
DSCPS = "keep, 0 to 63, or a name such as ef, af41, cs5"
SOURCES = "interface, keep or an address of this host"
RATES = "a number with pps or bit behind it, such as 5000pps, 10kpps, 20Mbit, up to 1 T"
ONCE = "each of ttl, dscp, source, rate at most once"


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ("", f"got '', expected {ONCE}"),
        ("ttl", f"got ttl '', expected {TTLS}"),
        ("ttl=", f"got ttl '', expected {TTLS}"),
        ("ttl=0", f"got ttl '0', expected {TTLS}"),
        ("ttl=256", f"got ttl '256', expected {TTLS}"),
        ("ttl=99999", f"got ttl '99999', expected {TTLS}"),
        ("ttl=-1", f"got ttl '-1', expected {TTLS}"),
        ("ttl=no", f"got ttl 'no', expected {TTLS}"),
        ("tll=3", f"got 'tll=3', expected {ONCE}"),
        ("ttl=3,x", f"got 'x', expected {ONCE}"),
        ("ttl=3,ttl=3", f"got 'ttl=3', expected {ONCE}"),
        ("dscp=64", f"got dscp '64', expected {DSCPS}"),
        ("dscp=EF", f"got dscp 'EF', expected {DSCPS}"),
        ("source=x", f"got source 'x', expected {SOURCES}"),
        ("source=keep", "1.2.3.4:5: got source keep, expected it with a multicast address only"),
        ("source=::1", "1.2.3.4:5: got source ::1 for 1.2.3.4, expected both to be IPv4"),
        ("rate=5", f"got rate '5', expected {RATES}"),
        ("rate=0pps", f"got rate '0pps', expected {RATES}"),
        ("rate=2000Gbit", f"got rate '2000Gbit', expected {RATES}"),
    ],
)
def test_policies_of_outputs_that_are_none_are_refused(policies: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_output(f"1.2.3.4:5,{policies}")

    assert str(error.value) == f"'1.2.3.4:5,{policies}': {message}"


@pytest.mark.parametrize("answer", [None, [1], [{}], {"a": 1}, "text"])
def test_an_answer_of_another_version_is_reported(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str], answer: object
) -> None:
    client.answer = answer

    assert run("rule", "show", "x") == 3

    assert "got an answer in an unknown form" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = "import sys; from mcr.cli.main import main; sys.exit(main(['--help']))"

    with os.fdopen(writer, "wb") as closed:
        result = subprocess.run(
            [sys.executable, "-c", program],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
            cwd=Path(__file__).parents[2],
        )

    assert (result.returncode, result.stderr) == (0, b"")

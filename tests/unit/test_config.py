import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.config import Configuration, load_configuration
from mcr.config.schema import File, InputObject, OutputObject, RuleEntry
from mcr.errors import ConfigError
from mcr.model.endpoint import SYNTAX, parse_endpoint
from mcr.model.policy import TtlPolicy
from mcr.model.rule import NAME_SYNTAX, Origin, Output, Rule
from mcr.model.ruleset import ruleset
from mcr.model.steering import Steering

EXAMPLE = """
{
  workers: 2,                       // default: one per CPU this process may use
  steering: "auto",                 // auto | cpu | hash
  rules: [
    { name: "camera-1", from: "239.1.1.1%eth0:5001", to: ["239.2.2.2%eth1:6000", "192.0.2.7%eth2:6000"] },
    { from: { interface: "eth0", address: "232.1.1.1", port: 5001, sources: ["10.0.0.9"] },
      to: [{ interface: "eth1", address: "239.2.2.3", port: 6001, ttl: 8 }] },
  ],
}
"""
PLACE = f"{SYNTAX}, or an object with these parts"
OUTPUTS = f"a list of outputs, or one output: {PLACE}"
TTL = "auto, keep, decrement or 1 to 255"
FILE_KEYS = (
    "workers, steering, coalesce_us, busy_poll, realtime, batch, watch_unmatched, bypass_stack, "
    "ring_mib, rules"
)
SAME_INPUT = "got input 239.1.1.1%eth0:5001, expected another one than that of rule 'a': 239.1.1.1%eth0:5001"
RULE_KEYS = "name, from, to, allow_link_local"


def load(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "mcr.json5"
    path.write_text(text)
    return load_configuration(path)


def problems_of(tmp_path: Path, text: str) -> list[str]:
    """Give the problems without the path of the file."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    prefix = f"{tmp_path / 'mcr.json5'}: "
    assert all(problem.startswith(prefix) for problem in error.value.problems)
    return [problem.removeprefix(prefix) for problem in error.value.problems]


def output(text: str, ttl: TtlPolicy | int = TtlPolicy.AUTO) -> Output:
    return Output(parse_endpoint(text), ttl)


def test_the_example_of_the_manual_loads(tmp_path: Path) -> None:
    assert load(tmp_path, EXAMPLE) == Configuration(
        2,
        Steering.AUTO,
        rules=ruleset(
            [
                Rule(
                    parse_endpoint("239.1.1.1%eth0:5001"),
                    (output("239.2.2.2%eth1:6000"), output("192.0.2.7%eth2:6000")),
                    "camera-1",
                    Origin.CONFIG,
                ),
                Rule(parse_endpoint("10.0.0.9@232.1.1.1%eth0:5001"), (output("239.2.2.3%eth1:6001", 8),)),
            ]
        ),
    )


def test_every_example_in_the_reference_loads(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[2] / "user_docs" / "configuration.md").read_text()
    examples = re.findall(r"^```json5\n(.*?)^```", manual, re.DOTALL | re.MULTILINE)

    assert examples
    for example in examples:
        load(tmp_path, example)


def test_every_key_is_in_the_reference() -> None:
    manual = (Path(__file__).parents[2] / "user_docs" / "configuration.md").read_text()
    keys = {
        field.alias or name
        for model in (File, RuleEntry, InputObject, OutputObject)
        for name, field in model.model_fields.items()
    }

    assert {key for key in keys if f"| `{key}` |" not in manual} == set()


def test_an_empty_object_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "{}") == Configuration(None, Steering.AUTO, rules=ruleset([]))


def test_plain_json_is_read_too(tmp_path: Path) -> None:
    assert load(tmp_path, json.dumps({"workers": 3, "steering": "hash"})) == Configuration(3, Steering.HASH)


@pytest.mark.parametrize("to", ['"192.0.2.1:7"', '{ address: "192.0.2.1", port: 7 }', '["192.0.2.1:7"]'])
def test_one_output_needs_no_list(tmp_path: Path, to: str) -> None:
    (rule,) = load(tmp_path, f'{{ rules: [{{ from: "239.1.1.1%eth0:1", to: {to} }}] }}').rules

    assert rule.outputs == (output("192.0.2.1:7"),)


@pytest.mark.parametrize(("ttl", "expected"), [('"keep"', TtlPolicy.KEEP), ("1", 1), ("0xff", 255)])
def test_ttls_are_names_or_numbers(tmp_path: Path, ttl: str, expected: TtlPolicy | int) -> None:
    text = f'{{ rules: [{{ from: "239.1.1.1%a:1", to: {{ address: "192.0.2.1", port: 7, ttl: {ttl} }} }}] }}'

    (rule,) = load(tmp_path, text).rules

    assert rule.outputs[0].ttl == expected


def test_link_local_groups_are_relayed_on_demand(tmp_path: Path) -> None:
    text = '{ rules: [{ from: "224.0.0.1%eth0:1", to: "192.0.2.1:7", allow_link_local: true }] }'

    (rule,) = load(tmp_path, text).rules

    assert rule.allow_link_local


IN = '"239.1.1.1%eth0:5001"'
OUT = '"192.0.2.7:6000"'


def one_rule(text: str) -> str:
    return f"{{ rules: [{{ {text} }}] }}"


def two_rules(one: str, other: str) -> str:
    return f"{{ rules: [{{ {one} }}, {{ {other} }}] }}"


def parts(text: str) -> str:
    """Give a rule with an input of interface, address and port, and *text*."""
    return one_rule(f'from: {{ interface: "eth0", address: "232.1.1.1", port: 1, {text} }}, to: {OUT}')


TABLE = [
    # the text
    ("", "got text that is no JSON5, expected an object with rules: Empty strings are not legal JSON5"),
    ("// nothing", "line 1 column 11: got the end of the file, expected JSON5"),
    ("{\n  workers: 2\n  steering: 3 }", 'line 3 column 3: got "s", expected JSON5'),
    ("{ a: '\n' }", 'line 1 column 7: got "\\n", expected JSON5'),
    ("{} x", 'line 1 column 4: got "x", expected JSON5'),
    ("[" * 100_000, "got lists or maps nested too deep, expected rules"),
    ("[]", f"got a list, expected an object with {FILE_KEYS}"),
    ("null", f"got null, expected an object with {FILE_KEYS}"),
    ("{ workers: 1, workers: 1 }", "workers: got this key twice, expected it once"),
    (one_rule(f"from: {IN}, to: {OUT}, to: {OUT}"), "rules[0].to: got this key twice, expected it once"),
    # the file
    ("{ worker: 1 }", f"worker: got an unknown key, expected one of {FILE_KEYS}"),
    ("{ 'a b': 1 }", f'"a b": got an unknown key, expected one of {FILE_KEYS}'),
    ("{ '<text>': 1 }", f'"<text>": got an unknown key, expected one of {FILE_KEYS}'),
    ("{ '\\ud800': 1 }", f'"\\\\ud800": got an unknown key, expected one of {FILE_KEYS}'),
    ("{ workers: 0 }", "workers: got 0, expected a number of processes from 1 to 256"),
    ("{ workers: 257 }", "workers: got 257, expected a number of processes from 1 to 256"),
    ("{ workers: 2.0 }", "workers: got 2.0, expected a number of processes from 1 to 256"),
    ("{ workers: '2' }", "workers: got '2', expected a number of processes from 1 to 256"),
    ("{ workers: true }", "workers: got true, expected a number of processes from 1 to 256"),
    (
        f"{{ workers: 0x{'f' * 9999} }}",
        "workers: got a huge number, expected a number of processes from 1 to 256",
    ),
    ("{ steering: 'fast' }", "steering: got 'fast', expected auto, cpu or hash"),
    ("{ steering: 1 }", "steering: got 1, expected auto, cpu or hash"),
    ("{ rules: {} }", "rules: got an object, expected a list of rules"),
    ("{ rules: [5] }", f"rules[0]: got 5, expected an object with {RULE_KEYS}"),
    # a rule
    (one_rule(f"from: {IN}"), f"rules[0].to: got nothing, expected {OUTPUTS}"),
    (one_rule(f"to: {OUT}"), f"rules[0].from: got nothing, expected {PLACE}"),
    (
        one_rule(f"from: {IN}, to: {OUT}, nmae: 1"),
        f"rules[0].nmae: got an unknown key, expected one of {RULE_KEYS}",
    ),
    (one_rule(f"from: {IN}, to: {OUT}, name: ''"), f"rules[0].name: got '', expected {NAME_SYNTAX}"),
    (one_rule(f"from: {IN}, to: {OUT}, name: 1"), f"rules[0].name: got 1, expected {NAME_SYNTAX}"),
    (
        one_rule(f"from: {IN}, to: {OUT}, name: 'a b'"),
        f"rules[0].name: got name 'a b', expected {NAME_SYNTAX}",
    ),
    (
        one_rule(f"from: {IN}, to: {OUT}, allow_link_local: 1"),
        "rules[0].allow_link_local: got 1, expected true or false",
    ),
    (
        one_rule(f"from: '224.0.0.1%eth0:1', to: {OUT}"),
        "rules[0].from: got a link-local group, expected another one or allow_link_local: true",
    ),
    # an input
    (one_rule(f"from: 5, to: {OUT}"), f"rules[0].from: got 5, expected {PLACE}"),
    (one_rule(f"from: [{IN}], to: {OUT}"), f"rules[0].from: got a list, expected {PLACE}"),
    (one_rule(f"from: 'x', to: {OUT}"), f"rules[0].from: got no port, expected {SYNTAX}"),
    (
        one_rule(f"from: '239.1.1.1%eth0:70000', to: {OUT}"),
        "rules[0].from: got port 70000, expected 1 to 65535",
    ),
    (
        one_rule(f"from: '192.0.2.1:1', to: {OUT}"),
        "rules[0].from: got an input without an interface, expected ADDRESS%INTERFACE:PORT",
    ),
    (parts("port: 2"), "rules[0].from.port: got this key twice, expected it once"),
    (parts("sources: '10.0.0.1'"), "rules[0].from.sources: got '10.0.0.1', expected a list of addresses"),
    (parts("sources: [1]"), "rules[0].from.sources[0]: got 1, expected an IPv4 or IPv6 address"),
    (
        parts("sources: ['10.0.0.1', 'x']"),
        "rules[0].from.sources[1]: got address 'x', expected an IPv4 or IPv6 address",
    ),
    (parts("sources: ['::1']"), "rules[0].from: got source ::1 for 232.1.1.1, expected both to be IPv4"),
    (
        parts("ttl: 1"),
        "rules[0].from.ttl: got an unknown key, expected one of interface, address, port, sources, exclude",
    ),
    # outputs
    (one_rule(f"from: {IN}, to: 5"), f"rules[0].to: got 5, expected {OUTPUTS}"),
    (one_rule(f"from: {IN}, to: []"), "rules[0].to: got 0 outputs, expected 1 to 256"),
    (
        one_rule(f"from: {IN}, to: [{OUT}, {OUT}]"),
        "rules[0].to: got this output twice, expected it once",
    ),
    (one_rule(f"from: {IN}, to: [5]"), f"rules[0].to[0]: got 5, expected {PLACE}"),
    (one_rule(f"from: {IN}, to: [[{OUT}]]"), f"rules[0].to[0]: got a list, expected {PLACE}"),
    (one_rule(f"from: {IN}, to: [{OUT}, 'x']"), f"rules[0].to[1]: got no port, expected {SYNTAX}"),
    (
        one_rule(f"from: {IN}, to: '10.0.0.1@1.2.3.4:5'"),
        "rules[0].to: got sources or a range on an output, expected none",
    ),
    (
        one_rule(f"from: {IN}, to: {{ address: '1.2.3.4', port: 1, ttl: 300 }}"),
        f"rules[0].to.ttl: got 300, expected {TTL}",
    ),
    (
        one_rule(f"from: {IN}, to: [{OUT}, {{ address: '1.2.3.4', port: 0, ttl: true }}]"),
        ["rules[0].to[1].port: got 0, expected 1 to 65535", f"rules[0].to[1].ttl: got true, expected {TTL}"],
    ),
    (
        one_rule(f"from: {IN}, to: {{ address: '1.2.3', interface: 'a b' }}"),
        [
            "rules[0].to.interface: got interface 'a b', expected 1 to 15 bytes without '/', ':' or spaces",
            "rules[0].to.address: got address '1.2.3', expected an IPv4 or IPv6 address",
            "rules[0].to.port: got nothing, expected 1 to 65535",
        ],
    ),
    (
        one_rule(f"from: {IN}, to: {{ address: '239.1.1.1', port: 1 }}"),
        f"rules[0].to: got multicast address 239.1.1.1 without an interface, expected {SYNTAX}",
    ),
    # rules among each other
    (
        two_rules(f"name: 'a', from: {IN}, to: {OUT}", f"name: 'b', from: {IN}, to: {OUT}"),
        f"rules[1].from: {SAME_INPUT}",
    ),
    (
        two_rules(f"name: 'a', from: {IN}, to: {OUT}", f"name: 'a', from: '239.1.1.2%x:1', to: {OUT}"),
        "rules[1].name: got name 'a', expected another one than that of the rule for 239.1.1.1%eth0:5001",
    ),
    (
        one_rule(f"name: 'a', from: {IN}, to: {IN}"),
        "rules[0].to: got outputs that feed their own input, expected no ring: 'a' -> 'a'",
    ),
    (
        two_rules(
            "name: 'a', from: '239.1.1.1%x:1', to: '239.1.1.2%y:1'",
            "name: 'b', from: '239.1.1.2%y:1', to: '239.1.1.1%x:1'",
        ),
        "rules[1].to: got outputs that feed their own input, expected no ring: 'a' -> 'b' -> 'a'",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TABLE, ids=[str(position) for position in range(len(TABLE))])
def test_bad_files_are_refused_with_path_what_was_got_and_what_expected(
    tmp_path: Path, text: str, expected: str | list[str]
) -> None:
    assert problems_of(tmp_path, text) == ([expected] if isinstance(expected, str) else expected)


def test_everything_that_is_wrong_is_listed_at_once(tmp_path: Path) -> None:
    text = f"""{{
      workers: 0, colour: "red",
      rules: [
        {{ name: "a", from: {IN}, to: {OUT} }},
        {{ name: "-", from: "224.0.0.1", to: [{{ address: "1.2.3.4", port: 5, ttl: 300 }}, 7] }},
        {{ name: "c", from: {IN}, to: {OUT} }},
        {{ name: "d", from: "224.0.0.1%eth0:1", to: "224.0.0.1%eth0:1" }},
      ],
    }}"""

    assert problems_of(tmp_path, text) == [
        "workers: got 0, expected a number of processes from 1 to 256",
        f"colour: got an unknown key, expected one of {FILE_KEYS}",
        f"rules[1].name: got name '-', expected {NAME_SYNTAX}",
        f"rules[1].from: got no port, expected {SYNTAX}",
        f"rules[1].to[0].ttl: got 300, expected {TTL}",
        f"rules[1].to[1]: got 7, expected {PLACE}",
        "rules[3].from: got a link-local group, expected another one or allow_link_local: true",
        f"rules[2].from: {SAME_INPUT}",
        "rules[3].to: got outputs that feed their own input, expected no ring: 'd' -> 'd'",
    ]


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load_configuration(path)
    return str(error.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "mcr.json5"

    assert refusal(path) == f"{path}: got 'No such file or directory', expected a readable file"


def test_a_directory_is_reported(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: got 'Is a directory', expected a readable file"


def test_a_file_that_may_not_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mcr.json5"

    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)

    assert refusal(path) == f"{path}: got 'Permission denied', expected a readable file"


def test_a_file_that_is_no_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mcr.json5"
    path.write_bytes(b"{\n// \xe4\n}")

    assert refusal(path) == f"{path}: line 2: got bytes that are not UTF-8, expected UTF-8 text"


def test_a_file_without_end_is_reported() -> None:
    assert refusal(Path("/dev/zero")) == "/dev/zero: got more than 16 MiB, expected at most that"


def test_a_number_too_long_for_python_is_reported(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, f"{{ workers: {'9' * 5000} }}")

    assert problem.startswith("got text that is no JSON5, expected an object with rules: Exceeds the limit")


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([IN[1:-1], OUT[1:-1]]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(
                ["workers", "steering", "rules", "name", "from", "to", "address", "port", "interface", "ttl"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=300)
@given(TREES)
def test_any_tree_is_a_configuration_or_refused_with_got_and_expected(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json5"
    path.write_text(json.dumps({"rules": tree}))
    try:
        load_configuration(path)
    except ConfigError as error:
        unclear = [
            problem for problem in error.problems if not (": got " in problem and ", expected " in problem)
        ]
    else:
        unclear = []

    assert unclear == []

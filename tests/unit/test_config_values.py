"""What is refused as the value of each key: wrong types, out of range, unknown names."""

from pathlib import Path

import pytest

from mcr.config import load_configuration
from mcr.config.schema import File, InputObject, OutputObject, TargetObject
from mcr.errors import ConfigError
from mcr.model.endpoint import SYNTAX
from mcr.model.mapping import PREFIX_SYNTAX
from mcr.model.mapping import SYNTAX as MAPPING_SYNTAX
from mcr.model.policy import DSCP_SYNTAX, RATE_SYNTAX, SOURCE_SYNTAX, TTL_SYNTAX

PORTS = "1 to 65535, or a range such as '5000-5010'"
PREFIX = "22 to 32: every one of at most 1024 groups is joined"
TARGET = f"{SYNTAX}, or {MAPPING_SYNTAX}"
TARGET_KEYS = "to, ttl, dscp, source, rate"
OUTPUT_KEYS = f"interface, address, port, {TARGET_KEYS.removeprefix('to, ')}"
BOOLEAN = "true or false"


def problems_of(tmp_path: Path, text: str) -> list[str]:
    """Give the problems without the path of the file."""
    path = tmp_path / "mcr.json5"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_configuration(path)
    return [problem.removeprefix(f"{path}: ") for problem in error.value.problems]


def rule(*, given: str = "'239.1.1.1%eth0:5001'", to: str = "'192.0.2.7:6000'") -> str:
    return f"{{ rules: [{{ from: {given}, to: {to} }}] }}"


# For each key what is expected there, and values that are not.
FILE = {
    "bypass_stack": (BOOLEAN, ["1", "0", "'no'", "null", "[]"]),
    "coalesce_us": (
        "auto, or 0 to 10000",
        ["-1", "10001", "1.5", "'100'", "'Auto'", "true", "null", "[100]"],
    ),
    "batch": ("1 to 512", ["0", "513", "1.5", "'512'", "null", "true"]),
    "realtime": (BOOLEAN, ["1", "0", "'fifo'", "null", "[]"]),
    "busy_poll": (BOOLEAN, ["1", "0", "'yes'", "null", "{}"]),
    "watch_unmatched": (BOOLEAN, ["1", "0", "'no'", "null", "[]"]),
    "ring_mib": ("1 to 1024", ["0", "1025", "-1", "2.5", "'32'", "true", "{}"]),
}
POLICIES = {
    "ttl": (TTL_SYNTAX, ["0", "256", "-1", "8.5", "'fast'", "'0'", "''", "null", "true", "[8]"]),
    "dscp": (DSCP_SYNTAX, ["-1", "64", "1.5", "'EF'", "'af44'", "'64'", "''", "null", "false", "{}"]),
    "source": (SOURCE_SYNTAX, ["5", "'10.0.0.300'", "'eth0'", "''", "null", "true", "['keep']"]),
    "rate": (
        RATE_SYNTAX,
        [
            *("5000", "'5000'", "'0pps'", "'0.1pps'", "'-1pps'", "'10 kpps'", "'1e3pps'", "'1001Gbit'"),
            *("'1Tbit'", "'5kPPS'", "''", "null", "true", "['5pps']"),
        ],
    ),
}
INPUT = {
    "port": (
        PORTS,
        [
            *("0", "65536", "-5", "5.5", "'0-5'", "'5-65536'", "'5-'", "'-5'", "'5-9-11'", "'a-b'", "''"),
            *("true", "null", "[5, 6]"),
        ],
    ),
    "exclude": ("a list of addresses", ["'10.0.0.1'", "null", "{}", "5"]),
}


def shown(value: str) -> str:
    """Write a value of a table as a message does."""
    return "an object" if value.startswith("{") else "a list" if value.startswith("[") else value


def cases(table: dict[str, tuple[str, list[str]]]) -> list[tuple[str, str, str]]:
    return [(key, value, expected) for key, (expected, values) in table.items() for value in values]


@pytest.mark.parametrize(("key", "value", "expected"), cases(FILE))
def test_bad_values_of_the_file_are_refused(tmp_path: Path, key: str, value: str, expected: str) -> None:
    assert problems_of(tmp_path, f"{{ {key}: {value} }}") == [
        f"{key}: got {shown(value)}, expected {expected}"
    ]


@pytest.mark.parametrize("place", ["to: 'keep%eth1'", "interface: 'eth1', address: '239.2.2.2', port: 6000"])
@pytest.mark.parametrize(("key", "value", "expected"), cases(POLICIES))
def test_bad_policies_are_refused(tmp_path: Path, place: str, key: str, value: str, expected: str) -> None:
    alone, listed = f"{{ {place}, {key}: {value} }}", f"['192.0.2.7:1', {{ {place}, {key}: {value} }}]"
    problem = f"{key}: got {shown(value)}, expected {expected}"

    assert problems_of(tmp_path, rule(to=alone)) == [f"rules[0].to.{problem}"]
    assert problems_of(tmp_path, rule(to=listed)) == [f"rules[0].to[1].{problem}"]


@pytest.mark.parametrize(("key", "value", "expected"), cases(INPUT))
def test_bad_parts_of_an_input_are_refused(tmp_path: Path, key: str, value: str, expected: str) -> None:
    port = "" if key == "port" else "port: 5001, "
    given = f"{{ interface: 'eth0', address: '239.1.1.1', {port}{key}: {value} }}"

    assert problems_of(tmp_path, rule(given=given)) == [
        f"rules[0].from.{key}: got {shown(value)}, expected {expected}"
    ]


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("239.1.0.0/21%eth0:5001", f"got prefix length 21, expected {PREFIX}"),
        ("239.1.1.0/33%eth0:5001", f"got prefix length 33, expected {PREFIX}"),
        ("239.1.1.1/24%eth0:5001", "got 239.1.1.1/24, expected no bits set behind the prefix"),
        ("239.1.1.0/x%eth0:5001", "got prefix length 'x', expected a number"),
        ("239.1.1.0/%eth0:5001", "got prefix length '', expected a number"),
        ("10.0.0.0/24%eth0:5001", "got prefix 10.0.0.0/24, expected a prefix of multicast addresses"),
        ("239.1.1.1%eth0:9-5", "got ports 9-5, expected the lower one first"),
        ("239.1.1.1%eth0:0-5", "got port 0, expected 1 to 65535"),
        ("239.1.1.1%eth0:5-65536", "got port 65536, expected 1 to 65535"),
        ("239.1.1.1%eth0:5-", f"got no port, expected {SYNTAX}"),
        ("239.1.1.1%eth0:5-9-11", f"got no port, expected {SYNTAX}"),
        ("!@239.1.1.1%eth0:5001", "got address '', expected an IPv4 or IPv6 address"),
        ("!x@239.1.1.1%eth0:5001", "got address 'x', expected an IPv4 or IPv6 address"),
        ("!::1@239.1.1.1%eth0:5001", "got source ::1 for 239.1.1.1, expected both to be IPv4"),
        ("!224.0.0.1@239.1.1.1%eth0:5001", "got source 224.0.0.1, expected the address of a host"),
    ],
)
def test_bad_ranges_and_sources_in_an_input_are_refused(tmp_path: Path, place: str, problem: str) -> None:
    assert problems_of(tmp_path, rule(given=f"'{place}'")) == [f"rules[0].from: {problem}"]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ("exclude: [1]", ".exclude[0]: got 1, expected an IPv4 or IPv6 address"),
        ("exclude: ['x']", ".exclude[0]: got address 'x', expected an IPv4 or IPv6 address"),
        ("exclude: ['::1']", ": got source ::1 for 239.1.1.0, expected both to be IPv4"),
        ("exclude: ['0.0.0.0']", ": got source 0.0.0.0, expected the address of a host"),
        (
            "exclude: ['10.0.0.1'], sources: ['10.0.0.2']",
            ": got sources and excluded sources, expected one or the other",
        ),
        (
            f"exclude: [{', '.join(repr(f'10.0.0.{number}') for number in range(1, 66))}]",
            ": got 65 sources, expected at most 64",
        ),
        (
            "excluded: []",
            ".excluded: got an unknown key, expected one of interface, address, port, sources, exclude",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused(tmp_path: Path, parts: str, problem: str) -> None:
    given = f"{{ interface: 'eth0', address: '239.1.1.0/24', port: '5-9', {parts} }}"

    assert problems_of(tmp_path, rule(given=given)) == [f"rules[0].from{problem}"]


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        ("keep", f"got no mapping, expected {MAPPING_SYNTAX}"),
        ("keep%", f"got no mapping, expected {MAPPING_SYNTAX}"),
        ("keep%eth1:", f"got no mapping, expected {MAPPING_SYNTAX}"),
        ("keep%eth1:+", f"got no mapping, expected {MAPPING_SYNTAX}"),
        ("keep%a b", "got interface 'a b', expected 1 to 15 bytes without '/', ':' or spaces"),
        ("keep%eth1:0", "got port 0, expected 1 to 65535"),
        ("keep%eth1:65536", "got port 65536, expected 1 to 65535"),
        ("keep%eth1:+32768", "got port offset 32768, expected -32767 to 32767"),
        ("keep%eth1:-32768", "got port offset -32768, expected -32767 to 32767"),
        ("10.0.0.0/24%eth1", "got prefix 10.0.0.0/24, expected a prefix of multicast addresses"),
        ("239.9.0.1/24%eth1", f"got prefix '239.9.0.1/24', expected {PREFIX_SYNTAX}"),
        ("239.9.0.0/33%eth1", f"got prefix '239.9.0.0/33', expected {PREFIX_SYNTAX}"),
        ("[ff35::/129%eth1]", f"got prefix 'ff35::/129', expected {PREFIX_SYNTAX}"),
        ("239.9.0/24%eth1", f"got prefix '239.9.0/24', expected {PREFIX_SYNTAX}"),
        ("ff35::/64%eth1", f"got no mapping, expected {MAPPING_SYNTAX}"),
    ],
)
def test_bad_mappings_are_refused(tmp_path: Path, to: str, problem: str) -> None:
    assert problems_of(tmp_path, rule(to=f"'{to}'")) == [f"rules[0].to: {problem}"]
    assert problems_of(tmp_path, rule(to=f"{{ to: '{to}' }}")) == [f"rules[0].to.to: {problem}"]


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        ("{ to: 5 }", f".to: got 5, expected {TARGET}"),
        ("{ to: null }", f".to: got null, expected {TARGET}"),
        ("{ to: ['keep%eth1'] }", f".to: got a list, expected {TARGET}"),
        ("{ to: 'keep%eth1', port: 5 }", f".port: got an unknown key, expected one of {TARGET_KEYS}"),
        (
            "{ to: 'keep%eth1', '<target>': 5 }",
            f'."<target>": got an unknown key, expected one of {TARGET_KEYS}',
        ),
        (
            "{ interface: 'eth1', address: '239.2.2.2', port: 1, tll: 5 }",
            f".tll: got an unknown key, expected one of {OUTPUT_KEYS}",
        ),
        (
            "{ interface: 'eth1', address: '239.2.2.2', port: 1, source: '::1' }",
            ": got source ::1 for 239.2.2.2, expected both to be IPv4",
        ),
        (
            "{ to: '192.0.2.1:5', source: 'keep' }",
            ": got source keep, expected it with a multicast address only",
        ),
    ],
)
def test_outputs_of_the_wrong_form_are_refused(tmp_path: Path, to: str, problem: str) -> None:
    assert problems_of(tmp_path, rule(to=to)) == [f"rules[0].to{problem}"]
    assert problems_of(tmp_path, rule(to=f"['192.0.2.7:1', {to}]")) == [f"rules[0].to[1]{problem}"]


def test_a_mapping_of_the_other_ip_version_is_refused(tmp_path: Path) -> None:
    assert problems_of(tmp_path, rule(to="'[ff35::/64%eth1]'")) == [
        "rules[0]: got a mapping of groups, expected it with the IP version of 239.1.1.1%eth0:5001 only"
    ]


def test_every_key_has_its_table() -> None:
    """Those of the file, of rules and of endpoints without ranges have theirs in test_config.py."""
    old = {"workers", "steering", "rules", "interface", "address", "sources", "to"}
    models = (File, InputObject, OutputObject, TargetObject)

    assert {name for model in models for name in model.model_fields} - old == {*FILE, *POLICIES, *INPUT}

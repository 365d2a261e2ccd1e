from typing import Any

import pytest

from mcr.errors import RuleError
from mcr.model.endpoint import parse_endpoint
from mcr.model.policy import TtlPolicy
from mcr.model.rule import MAX_OUTPUTS_PER_RULE, NAME_SYNTAX, Origin, Output, Rule

INPUT = parse_endpoint("239.1.1.1%eth0:5001")
OUTPUT = Output(parse_endpoint("239.2.2.2%eth1:6000"))


def test_a_rule_without_a_name_is_called_by_its_id() -> None:
    rule = Rule(INPUT, (OUTPUT,))

    assert rule.name == rule.id


def test_the_id_follows_from_the_input_alone() -> None:
    one = Rule(INPUT, (OUTPUT,))
    other = Rule(INPUT, (Output(parse_endpoint("192.0.2.1:1"), 8),), "camera", Origin.CONTROL)

    assert one.id == other.id


def test_the_id_is_the_same_for_ever() -> None:
    assert Rule(INPUT, (OUTPUT,)).id == "b09e44333996"


@pytest.mark.parametrize(
    "text",
    ["239.1.1.2%eth0:5001", "239.1.1.1%eth1:5001", "239.1.1.1%eth0:5002", "10.0.0.1@239.1.1.1%eth0:5001"],
)
def test_another_input_has_another_id(text: str) -> None:
    assert Rule(parse_endpoint(text), (OUTPUT,)).id != Rule(INPUT, (OUTPUT,)).id


def test_sources_in_another_order_are_the_same_input() -> None:
    one = Rule(parse_endpoint("10.0.0.1,10.0.0.2@232.1.1.1%eth0:1"), (OUTPUT,))
    other = Rule(parse_endpoint("10.0.0.2,10.0.0.1@232.1.1.1%eth0:1"), (OUTPUT,))

    assert one == other


def test_a_rule_belongs_to_the_interface_of_its_input() -> None:
    assert Rule(INPUT, (OUTPUT,)).interface == "eth0"


def many_outputs(count: int) -> tuple[Output, ...]:
    return tuple(Output(parse_endpoint(f"192.0.2.1:{port}")) for port in range(1, count + 1))


@pytest.mark.parametrize(
    ("parts", "code", "message"),
    [
        ({"name": "-x"}, "bad_name", f"got name '-x', expected {NAME_SYNTAX}"),
        ({"name": "a b"}, "bad_name", f"got name 'a b', expected {NAME_SYNTAX}"),
        ({"name": "x\n"}, "bad_name", f"got name 'x\\n', expected {NAME_SYNTAX}"),
        ({"name": "x" * 65}, "bad_name", f"got name '{'x' * 65}', expected {NAME_SYNTAX}"),
        (
            {"input": parse_endpoint("192.0.2.1:1")},
            "bad_input",
            "192.0.2.1:1: got an input without an interface, expected ADDRESS%INTERFACE:PORT",
        ),
        (
            {"input": parse_endpoint("224.0.0.1%eth0:1")},
            "link_local",
            "224.0.0.1%eth0:1: got a link-local group, expected another one or allow_link_local: true",
        ),
        ({"outputs": ()}, "bad_outputs", "got 0 outputs, expected 1 to 256"),
        ({"outputs": many_outputs(257)}, "bad_outputs", "got 257 outputs, expected 1 to 256"),
        (
            {"outputs": (OUTPUT, Output(OUTPUT.to, 8))},
            "bad_output",
            "239.2.2.2%eth1:6000: got this output twice, expected it once",
        ),
    ],
)
def test_what_makes_no_rule_is_refused(parts: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(RuleError) as error:
        Rule(**{"input": INPUT, "outputs": (OUTPUT,), **parts})

    assert (error.value.code, str(error.value)) == (code, message)


def test_the_widest_rule_passes() -> None:
    assert len(Rule(INPUT, many_outputs(MAX_OUTPUTS_PER_RULE), "x" * 64).outputs) == MAX_OUTPUTS_PER_RULE


def test_link_local_groups_are_relayed_on_demand() -> None:
    group = parse_endpoint("224.0.0.1%eth0:1")

    assert Rule(group, (OUTPUT,), allow_link_local=True).input == group


@pytest.mark.parametrize("ttl", [1, 255, *TtlPolicy])
def test_a_ttl_is_a_policy_or_one_byte(ttl: int | TtlPolicy) -> None:
    assert Output(OUTPUT.to, ttl).ttl == ttl


@pytest.mark.parametrize("ttl", [0, 256, -1])
def test_other_ttls_are_refused(ttl: int) -> None:
    with pytest.raises(RuleError, match=f"got ttl '{ttl}', expected auto, keep, decrement or 1 to 255"):
        Output(OUTPUT.to, ttl)


def test_an_output_has_no_sources() -> None:
    with pytest.raises(RuleError, match="got sources or a range on an output, expected none"):
        Output(parse_endpoint("10.0.0.1@239.1.1.1%eth0:1"))

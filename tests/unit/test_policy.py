"""Policies of outputs: what is written is what is read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import RuleError
from mcr.model.endpoint import parse_endpoint
from mcr.model.policy import (
    DSCP_NAMES,
    DSCP_SYNTAX,
    MAX_RATE,
    POLICIES,
    RATE_SYNTAX,
    SOURCE_SYNTAX,
    TTL_SYNTAX,
    DscpPolicy,
    Rate,
    RateUnit,
    SourcePolicy,
    TtlPolicy,
    parse_dscp,
    parse_rate,
    parse_source,
    parse_ttl,
    policy_text,
)
from mcr.model.rule import Output
from mcr.wire.documents import output_from_params, output_to_params
from tests.support.rules import HOSTS_V4, TTLS

DSCPS = st.one_of(st.just(DscpPolicy.KEEP), st.integers(0, 63))
SOURCES = st.one_of(st.sampled_from(list(SourcePolicy)), HOSTS_V4)
RATES = st.builds(Rate, st.integers(1, MAX_RATE), st.sampled_from(list(RateUnit)))


@given(TTLS, DSCPS, SOURCES, st.none() | RATES)
def test_every_policy_survives_its_text(ttl: Any, dscp: Any, source: Any, rate: Rate | None) -> None:
    output = Output(parse_endpoint("239.1.1.1%eth0:5"), ttl, dscp, source, rate)

    assert output_from_params(output_to_params(output)) == output
    for name, value in output.policies().items():
        assert POLICIES[name](str(policy_text(value))) == value


@given(RATES)
def test_a_rate_survives_its_text(rate: Rate) -> None:
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "value", "unit", "canonical"),
    [
        ("1pps", 1, RateUnit.DATAGRAMS, "1pps"),
        ("5000pps", 5000, RateUnit.DATAGRAMS, "5kpps"),
        ("1.5kpps", 1500, RateUnit.DATAGRAMS, "1500pps"),
        ("20Mbit", 20_000_000, RateUnit.BITS, "20Mbit"),
        ("1000Gbit", MAX_RATE, RateUnit.BITS, "1000Gbit"),
        ("0.001kbit", 1, RateUnit.BITS, "1bit"),
    ],
)
def test_rates_have_a_shortest_text(text: str, value: int, unit: RateUnit, canonical: str) -> None:
    rate = parse_rate(text)

    assert rate == Rate(value, unit)
    assert str(rate) == canonical


@pytest.mark.parametrize(("name", "number"), [("cs0", 0), ("le", 1), ("af11", 10), ("af43", 38), ("ef", 46)])
def test_names_stand_for_their_code_points(name: str, number: int) -> None:
    """RFC 2474, RFC 2597, RFC 3246, RFC 8622."""
    assert parse_dscp(name) == number


def test_every_name_is_a_code_point_of_its_own() -> None:
    assert len(set(DSCP_NAMES.values())) == len(DSCP_NAMES) == 8 + 12 + 3
    assert all(0 <= number <= 63 for number in DSCP_NAMES.values())


BAD = [
    *(
        (parse_ttl, "ttl", text, TTL_SYNTAX)
        for text in ("", "0", "256", "-1", "+1", "1.0", "\N{ARABIC-INDIC DIGIT ONE}", "Auto", "01234")
    ),
    *((parse_dscp, "dscp", text, DSCP_SYNTAX) for text in ("", "64", "-1", "EF", "af14", "cs8", "0x2e")),
    *(
        (parse_source, "source", text, SOURCE_SYNTAX)
        for text in ("", "eth0", "10.0.0", "fe80::1%eth0", "KEEP")
    ),
    *(
        (parse_rate, "rate", text, RATE_SYNTAX)
        for text in (
            "",
            "5",
            "pps",
            "0pps",
            "0.1pps",
            "-1pps",
            "1 pps",
            "1Kpps",
            "1Tbit",
            "1001Gbit",
            "1bits",
        )
    ),
]


@pytest.mark.parametrize(("read", "name", "text", "syntax"), BAD)
def test_what_is_no_policy_is_refused_with_what_is(read: Any, name: str, text: str, syntax: str) -> None:
    with pytest.raises(RuleError) as error:
        read(text)

    assert (error.value.code, str(error.value)) == ("bad_output", f"got {name} {text!r}, expected {syntax}")


def test_what_is_not_said_is_the_default() -> None:
    output = output_from_params({"to": "239.1.1.1%eth0:5"})

    assert (output.ttl, output.dscp, output.source, output.rate) == (
        TtlPolicy.AUTO,
        DscpPolicy.KEEP,
        SourcePolicy.INTERFACE,
        None,
    )

"""Outputs that follow from each datagram."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import EndpointError, RuleError
from mcr.model.endpoint import Address, parse_endpoint
from mcr.model.mapping import SYNTAX, Mapped, parse_mapping, parse_target
from mcr.model.policy import SourcePolicy
from mcr.model.rule import Output, Rule


@st.composite
def prefixes(draw: st.DrawFn, version: int | None = None, shortest_v4: int = 8) -> IPv4Network | IPv6Network:
    """Make a prefix of groups."""
    if version is None:
        version = draw(st.sampled_from([4, 6]))
    if version == 4:
        address, length = draw(st.ip_addresses(network="239.0.0.0/8")), draw(st.integers(shortest_v4, 32))
    else:
        address, length = draw(st.ip_addresses(network="ff35::/16")), draw(st.integers(16, 128))
    return ip_network((address, length), strict=False)


@st.composite
def mappings(draw: st.DrawFn) -> Mapped:
    prefix = draw(st.none() | prefixes())
    port, offset = draw(
        st.sampled_from([(0, 0), (6000, 0), (0, 1000), (0, -1), (65535, 0), (0, 32767), (0, -32767)])
    )
    return Mapped(draw(st.sampled_from(["eth1", "a,b", "x@y", "r1.5"])), prefix, port, offset)


@given(mappings())
def test_a_mapping_survives_its_text(mapping: Mapped) -> None:
    assert parse_mapping(str(mapping)) == mapping
    assert parse_target(str(mapping)) == mapping


@given(prefixes(4), st.none() | prefixes(4), st.data())
def test_the_image_holds_what_every_group_becomes(
    groups: IPv4Network, prefix: IPv4Network | None, data: st.DataObject
) -> None:
    group = groups[data.draw(st.integers(0, groups.num_addresses - 1))]
    mapping = Mapped("eth1", prefix)

    assert mapped_by_hand(group, prefix) in mapping.image(groups)


@given(prefixes(4, shortest_v4=24), prefixes(4))
def test_the_image_holds_nothing_else_unless_the_prefix_is_longer(
    groups: IPv4Network, prefix: IPv4Network
) -> None:
    image = Mapped("eth1", prefix).image(groups)
    reached = {mapped_by_hand(group, prefix) for group in groups}

    if prefix.prefixlen <= groups.prefixlen:
        assert set(image) == reached
    else:
        assert reached <= set(image)
        assert image == prefix


def mapped_by_hand(group: Address, prefix: Any) -> Address:
    """Take the first bits of the prefix and the rest of the group, as map_address() in C does."""
    if prefix is None:
        return group
    free = int(prefix.hostmask)
    return IPv4Address(int(prefix.network_address) | int(group) & free)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("keep%e", (5000, 5010)),
        ("keep%e:7", (7, 7)),
        ("keep%e:+5", (5005, 5015)),
        ("keep%e:-5", (4995, 5005)),
    ],
)
def test_ports_are_moved_or_replaced(text: str, ports: tuple[int, int]) -> None:
    assert parse_mapping(text).ports(5000, 5010) == ports


BAD = [
    ("keep", f"got no mapping, expected {SYNTAX}"),
    ("keep%", f"got no mapping, expected {SYNTAX}"),
    ("keep%e:", f"got no mapping, expected {SYNTAX}"),
    ("keep%e:+", f"got no mapping, expected {SYNTAX}"),
    ("keep%e:123456", f"got no mapping, expected {SYNTAX}"),
    ("[keep%e]", f"got no mapping, expected {SYNTAX}"),
    ("10.0.0.9@keep%e", f"got no mapping, expected {SYNTAX}"),
    ("ff35::/64%e", f"got no mapping, expected {SYNTAX}"),
    ("[239.1.0.0/24%e]", f"got no mapping, expected {SYNTAX}"),
    ("keep%e:0", "got port 0, expected 1 to 65535"),
    ("keep%e:70000", "got port 70000, expected 1 to 65535"),
    ("keep%e:+40000", "got port offset 40000, expected -32767 to 32767"),
    ("10.0.0.0/8%e", "got prefix 10.0.0.0/8, expected a prefix of multicast addresses"),
    ("224.0.0.0/3%e", "got prefix 224.0.0.0/3, expected a prefix of multicast addresses"),
    (
        "239.1.0.1/24%e",
        "got prefix '239.1.0.1/24', expected one such as 239.9.0.0/24, without bits set behind it",
    ),
    (
        "239.1.0.0/33%e",
        "got prefix '239.1.0.0/33', expected one such as 239.9.0.0/24, without bits set behind it",
    ),
    ("keep%a b", "got interface 'a b', expected 1 to 15 bytes without '/', ':' or spaces"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_no_mapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(EndpointError) as error:
        parse_mapping(text)

    assert str(error.value).startswith(repr(text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given_", "to", "message"),
    [
        (
            "239.1.1.0/24%in:5-9",
            "[ff35::/64%out]",
            "got a mapping of groups, expected it with the IP version of",
        ),
        ("[ff35::1%in]:5", "239.1.0.0/24%out", "got a mapping of groups, expected it with the IP version of"),
        ("10.0.0.1%in:5", "keep%out", "got a mapping of groups, expected it with the IP version of"),
        ("239.1.1.1%in:5-9", "keep%out:-5", "got ports 0 to 4, expected 1 to 65535"),
        ("239.1.1.1%in:65000-65535", "keep%out:+1", "got ports 65001 to 65536, expected 1 to 65535"),
    ],
)
def test_a_mapping_that_does_not_fit_its_input_is_refused(given_: str, to: str, message: str) -> None:
    with pytest.raises(RuleError) as error:
        Rule(parse_endpoint(given_), (Output(parse_target(to)),))

    assert error.value.code == "bad_output"
    assert message in str(error.value)


def test_the_address_to_send_from_has_the_ip_version_of_the_input() -> None:
    source = parse_endpoint("[fd00::1%x]:1").address

    with pytest.raises(RuleError, match="got source fd00::1, expected it with the IP version of"):
        Rule(parse_endpoint("239.1.1.1%in:5"), (Output(Mapped("out"), source=source),))


def test_an_original_source_of_another_ip_version_cannot_be_kept() -> None:
    output = Output(parse_endpoint("239.1.1.1%out:5"), source=SourcePolicy.KEEP)

    with pytest.raises(RuleError, match="got source keep, expected it with the IP version of"):
        Rule(parse_endpoint("[ff35::1%in]:5"), (output,))

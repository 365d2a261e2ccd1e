from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import EndpointError
from mcr.model.endpoint import (
    MAX_SOURCES,
    SYNTAX,
    Address,
    Endpoint,
    consecutive,
    parse_address,
    parse_endpoint,
)

BRACKETS = "expected brackets around an IPv6 place and none around an IPv4 one"
INTERFACE_RULE = "expected 1 to 15 bytes without '/', ':' or spaces"

NAMES = st.one_of(
    st.sampled_from(
        ["eth0", "bond0.100", "a%b", "a@b", "a,b", "]", "[x]", "%", "@", "...", "tün0", "veth@if2", "-", "~"]
    ),
    st.text(
        st.characters(exclude_categories=["Cs", "Z", "C"], exclude_characters="/:"), min_size=1, max_size=15
    ),
).filter(lambda name: len(name.encode()) <= 15 and name not in {".", ".."})


def hosts(version: Literal[4, 6]) -> st.SearchStrategy[Address]:
    return st.ip_addresses(v=version).filter(
        lambda address: (
            not (address.is_unspecified or getattr(address, "ipv4_mapped", None) or address.is_multicast)
        )
    )


def groups(version: Literal[4, 6]) -> st.SearchStrategy[Address]:
    return st.ip_addresses(v=version, network="224.0.0.0/4" if version == 4 else "ff00::/8")


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    versions: list[Literal[4, 6]] = [4, 6]
    version = draw(st.sampled_from(versions))
    address = draw(hosts(version) | groups(version))
    interface = draw(NAMES) if address.is_multicast else draw(st.none() | NAMES)
    sources = draw(st.lists(hosts(version), max_size=5))
    return Endpoint(address, draw(st.integers(1, 65535)), interface, tuple(sources))


@given(endpoints())
def test_every_endpoint_reads_back_from_its_text(endpoint: Endpoint) -> None:
    text = str(endpoint)

    assert parse_endpoint(text) == endpoint
    assert str(parse_endpoint(text)) == text


@given(st.text(max_size=40) | st.text("0123456789.:%@[],aef/", max_size=40))
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except EndpointError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("239.1.1.1%eth0:5001", Endpoint(IPv4Address("239.1.1.1"), 5001, "eth0")),
        ("192.0.2.7:6000", Endpoint(IPv4Address("192.0.2.7"), 6000, None)),
        ("192.0.2.7%eth1:6000", Endpoint(IPv4Address("192.0.2.7"), 6000, "eth1")),
        ("[ff35::8000:1%eth0]:5001", Endpoint(IPv6Address("ff35::8000:1"), 5001, "eth0")),
        ("[2001:db8::1]:1", Endpoint(IPv6Address("2001:db8::1"), 1, None)),
        (
            "10.0.0.9@232.1.1.1%eth0:5001",
            Endpoint(IPv4Address("232.1.1.1"), 5001, "eth0", (IPv4Address("10.0.0.9"),)),
        ),
        (
            "2001:db8::9@[ff35::8000:1%eth0]:65535",
            Endpoint(IPv6Address("ff35::8000:1"), 65535, "eth0", (IPv6Address("2001:db8::9"),)),
        ),
        ("239.1.1.1%a%b@c,d:1", Endpoint(IPv4Address("239.1.1.1"), 1, "a%b@c,d")),
    ],
)
def test_texts_and_endpoints_mean_each_other(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


def test_other_spellings_are_read_and_written_in_the_canonical_one() -> None:
    text = "[2001:DB8:0::9],2001:db8::1,2001:db8::9@[FF35:0::8000:1%eth0]:05001"

    assert str(parse_endpoint(text)) == "2001:db8::1,2001:db8::9@[ff35::8000:1%eth0]:5001"


BAD = [
    ("", f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0", f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0:", f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0:x", f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0:-1", f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0:\N{ARABIC-INDIC DIGIT FIVE}", f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0:" + "9" * 5000, f"got no port, expected {SYNTAX}"),
    ("239.1.1.1%eth0:0", "got port 0, expected 1 to 65535"),
    ("239.1.1.1%eth0:65536", "got port 65536, expected 1 to 65535"),
    ("239.1.1.1:5001", f"got multicast address 239.1.1.1 without an interface, expected {SYNTAX}"),
    ("239.1.1.256%eth0:1", "got address '239.1.1.256', expected an IPv4 or IPv6 address"),
    ("239.1.1.01%eth0:1", "got address '239.1.1.01', expected an IPv4 or IPv6 address"),
    ("host%eth0:1", "got address 'host', expected an IPv4 or IPv6 address"),
    ("%eth0:1", "got address '', expected an IPv4 or IPv6 address"),
    ("0.0.0.0%eth0:1", "got address 0.0.0.0, expected a group or a host address"),
    ("[::%eth0]:1", "got address ::, expected a group or a host address"),
    ("[::ffff:1.2.3.4]:1", "got IPv4-mapped address ::ffff:102:304, expected 1.2.3.4"),
    (
        "[239.1.1.1%eth0]:1",
        f"got '[239.1.1.1%eth0]', {BRACKETS}",
    ),
    (
        "ff02::1%eth0:1",
        f"got 'ff02::1%eth0', {BRACKETS}",
    ),
    ("239.1.1.1%:1", f"got interface '', {INTERFACE_RULE}"),
    ("239.1.1.1%a b:1", f"got interface 'a b', {INTERFACE_RULE}"),
    ("239.1.1.1%a/b:1", f"got interface 'a/b', {INTERFACE_RULE}"),
    ("239.1.1.1%a:b:1", f"got interface 'a:b', {INTERFACE_RULE}"),
    ("239.1.1.1%..:1", f"got interface '..', {INTERFACE_RULE}"),
    ("239.1.1.1%sixteen-letters-:1", f"got interface 'sixteen-letters-', {INTERFACE_RULE}"),
    ("239.1.1.1%\ud800:1", f"got interface '\\ud800', {INTERFACE_RULE}"),
    ("::1@239.1.1.1%eth0:1", "got source ::1 for 239.1.1.1, expected both to be IPv4"),
    ("224.0.0.5@239.1.1.1%eth0:1", "got source 224.0.0.5, expected the address of a host"),
    ("@239.1.1.1%eth0:1", "got address '', expected an IPv4 or IPv6 address"),
    (
        "fe80::1%eth0@[ff02::1%eth0]:1",
        f"got 'fe80::1%eth0@[ff02::1%eth0]', {BRACKETS}",
    ),
    (
        "fe80::1@ff02::1%eth0:1",
        f"got 'ff02::1%eth0', {BRACKETS}",
    ),
]


@pytest.mark.parametrize(("text", "reason"), BAD, ids=[repr(text)[:30] for text, _ in BAD])
def test_what_is_no_endpoint_is_refused_with_its_text_and_the_reason(text: str, reason: str) -> None:
    with pytest.raises(EndpointError) as error:
        parse_endpoint(text)

    assert str(error.value) == f"{text!r}: {reason}"


def test_an_address_with_a_scope_is_refused() -> None:
    with pytest.raises(EndpointError, match="expected the interface to be given on its own"):
        parse_address("fe80::1%eth0")


def test_sources_are_sorted_and_unique() -> None:
    sources = tuple(map(ip_address, ["10.0.0.10", "10.0.0.9", "10.0.0.10"]))

    assert Endpoint(IPv4Address("232.1.1.1"), 1, "eth0", sources).sources == tuple(
        map(ip_address, ["10.0.0.9", "10.0.0.10"])
    )


def test_too_many_sources_are_refused() -> None:
    sources = tuple(IPv4Address("10.0.0.1") + offset for offset in range(MAX_SOURCES + 1))

    with pytest.raises(EndpointError, match="got 65 sources, expected at most 64"):
        Endpoint(IPv4Address("232.1.1.1"), 1, "eth0", sources)


@pytest.mark.parametrize(
    ("text", "is_link_local"),
    [
        ("224.0.0.251%eth0:1", True),
        ("224.0.1.1%eth0:1", False),
        ("[ff02::fb%eth0]:1", True),
        ("[ff05::1%eth0]:1", False),
        ("169.254.0.1:1", False),
    ],
)
def test_groups_that_routers_never_forward_are_known(text: str, *, is_link_local: bool) -> None:
    assert parse_endpoint(text).is_link_local_group is is_link_local


@given(st.integers(1, 100))
def test_consecutive_endpoints_differ_in_their_address_only(count: int) -> None:
    first = parse_endpoint("10.0.0.9@232.1.255.250%eth0:5001")

    many = consecutive(first, count)

    assert [int(one.address) - int(first.address) for one in many] == list(range(count))
    assert {(one.port, one.interface, one.sources) for one in many} == {(5001, "eth0", first.sources)}


@pytest.mark.parametrize(("text", "count"), [("239.1.1.1%eth0:1", 0), ("255.255.255.254:1", 3)])
def test_consecutive_endpoints_stay_in_their_address_family(text: str, count: int) -> None:
    with pytest.raises(EndpointError, match=f"got {count} addresses"):
        consecutive(parse_endpoint(text), count)

"""Which socket holds which membership, on sockets that refuse what the kernel would refuse."""

import errno
import re
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.errors import KernelError
from mcr.model.endpoint import Address
from mcr.supervisor.memberships import (
    Limits,
    Membership,
    Memberships,
    has_room,
    memberships_of,
    read_limits,
)

LIMITS = Limits(groups=4, sources=3)
GROUP_V4, GROUP_V6 = IPv4Address("239.1.1.1"), IPv6Address("ff35::8000:1")

# Options of RFC 3678, as in linux/in.h.
JOIN, LEAVE, JOIN_SOURCE, LEAVE_SOURCE = 42, 45, 46, 47
ADDRESS_AT, SOURCE_AT, REQUEST_BYTES, SOURCE_REQUEST_BYTES = 8, 136, 136, 264  # struct group_source_req


def address_at(request: bytes, at: int) -> Address:
    """Read a struct sockaddr_storage."""
    (family,) = struct.unpack_from("=H", request, at)
    if family == socket.AF_INET:
        return IPv4Address(request[at + 4 : at + 8])
    assert family == socket.AF_INET6
    return IPv6Address(request[at + 8 : at + 24])


@dataclass
class Kernel:
    """
    Sockets with the kernel's rules for memberships: ip_mc_join_group(), ip_mc_source() in net/ipv4/igmp.c.

    Attributes:
        refused: what setting an option on this interface fails with.
    """

    limits: Limits
    sockets: "list[FakeSocket]" = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)

    def open(self, family: int, kind: int) -> "FakeSocket":
        assert kind == socket.SOCK_DGRAM
        self.sockets.append(FakeSocket(self, family))
        return self.sockets[-1]

    @property
    def held(self) -> set[tuple[int, Address, Address | None]]:
        """Give all that sockets which are still open are members of."""
        return {
            (ifindex, group, source)
            for one in self.sockets
            for (ifindex, group), sources in one.groups.items()
            for source in sources or [None]
        }


@dataclass(eq=False)
class FakeSocket:
    """A UDP socket that is only good for memberships; an empty set of sources stands for any."""

    kernel: Kernel
    family: int
    groups: dict[tuple[int, Address], set[Address]] = field(default_factory=dict)
    is_closed: bool = False
    lengths: ClassVar[dict[int, int]] = {
        JOIN: REQUEST_BYTES,
        LEAVE: REQUEST_BYTES,
        JOIN_SOURCE: SOURCE_REQUEST_BYTES,
        LEAVE_SOURCE: SOURCE_REQUEST_BYTES,
    }

    def close(self) -> None:
        self.is_closed = True
        self.groups.clear()

    def setsockopt(self, level: int, option: int, request: bytes) -> None:
        assert not self.is_closed
        assert level == (socket.IPPROTO_IP if self.family == socket.AF_INET else socket.IPPROTO_IPV6)
        assert len(request) == self.lengths[option]
        (ifindex,) = struct.unpack_from("=I", request)
        if ifindex in self.kernel.refused:
            raise OSError(self.kernel.refused[ifindex], "refused")
        key = (ifindex, address_at(request, ADDRESS_AT))
        source = address_at(request, SOURCE_AT) if option in {JOIN_SOURCE, LEAVE_SOURCE} else None
        if option in {JOIN, JOIN_SOURCE}:
            self._join(key, source)
        else:
            self._leave(key, source)

    def _join(self, key: tuple[int, Address], source: Address | None) -> None:
        if key not in self.groups and len(self.groups) == self.kernel.limits.groups:
            raise OSError(errno.ENOBUFS, "igmp_max_memberships")
        present = self.groups.get(key)
        if present is not None and (source is None or not present):
            raise OSError(errno.EADDRINUSE if source is None else errno.EINVAL, "any and some sources")
        if present is not None and len(present) == self.kernel.limits.sources:
            raise OSError(errno.ENOBUFS, "igmp_max_msf")
        self.groups.setdefault(key, set()).update({source} if source else ())

    def _leave(self, key: tuple[int, Address], source: Address | None) -> None:
        present = self.groups.get(key)
        if present is None or (source is not None and source not in present):
            raise OSError(errno.EADDRNOTAVAIL, "no member")
        present.discard(source or GROUP_V4)
        if not present:
            del self.groups[key]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(LIMITS)
    monkeypatch.setattr(socket, "socket", kernel.open)
    return kernel


def member(group: str, source: str | None = None, ifindex: int = 2) -> Membership:
    return Membership(f"if{ifindex}", ifindex, ip_address(group), ip_address(source) if source else None)


def key_of(one: Membership) -> tuple[int, Address, Address | None]:
    return one.ifindex, one.group, one.source


# ---- room ----


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        ([], member("239.1.1.1"), True),
        ([member("239.1.1.1")], member("239.1.1.2"), True),
        ([member(f"239.1.1.{n}") for n in range(3)], member("239.1.1.9"), True),
        ([member(f"239.1.1.{n}") for n in range(4)], member("239.1.1.9"), False),
        # Another interface is another membership.
        ([member("239.1.1.1", ifindex=3)], member("239.1.1.1"), True),
        ([member("239.1.1.1", ifindex=n) for n in range(3, 7)], member("239.1.1.1"), False),
        # Sources share their group's place, up to a limit of their own.
        ([member("239.1.1.1", "10.0.0.1")], member("239.1.1.1", "10.0.0.2"), True),
        ([member("239.1.1.1", f"10.0.0.{n}") for n in range(3)], member("239.1.1.1", "10.0.0.9"), False),
        (
            [member("239.1.1.1", "10.0.0.1"), *(member(f"239.1.2.{n}") for n in range(3))],
            member("239.1.1.1", "10.0.0.2"),
            True,
        ),
        # One socket cannot want a group from any source and from some.
        ([member("239.1.1.1")], member("239.1.1.1", "10.0.0.1"), False),
        ([member("239.1.1.1", "10.0.0.1")], member("239.1.1.1"), False),
        ([member("239.1.1.1")], member("239.1.1.1"), False),
    ],
)
def test_a_socket_has_room_within_the_kernels_limits(
    held: list[Membership], wanted: Membership, *, expected: bool
) -> None:
    assert has_room(set(held), wanted, LIMITS) is expected


MEMBERSHIPS = st.builds(
    lambda ifindex, group, source: (
        member(str(group), None if source is None else str(ip_address("10.0.0.1") + source), ifindex)
        if group.version == 4
        else member(str(group), None if source is None else str(ip_address("2001:db8::1") + source), ifindex)
    ),
    st.integers(2, 3),
    st.one_of(
        st.integers(0, 5).map(lambda n: GROUP_V4 + n),
        st.integers(0, 5).map(lambda n: GROUP_V6 + n),
    ),
    st.one_of(st.none(), st.integers(0, 5)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(MEMBERSHIPS, unique=True, max_size=40), st.data())
def test_every_membership_finds_a_place_whatever_comes_and_goes(
    wanted: list[Membership], data: st.DataObject
) -> None:
    kernel = Kernel(LIMITS)
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(socket, "socket", kernel.open)
        book = Memberships(LIMITS)
        for one in wanted:
            book.join(one)
        assert book.held() == set(wanted)
        assert kernel.held == {key_of(one) for one in wanted}

        unwanted = data.draw(st.lists(st.sampled_from(wanted), unique=True)) if wanted else []
        for one in unwanted:
            book.leave(one)
        assert book.held() == set(wanted) - set(unwanted)
        assert kernel.held == {key_of(one) for one in set(wanted) - set(unwanted)}
        for one in unwanted:
            book.join(one)
        assert kernel.held == {key_of(one) for one in wanted}
        book.close()

    assert all(one.is_closed for one in kernel.sockets)
    assert not book.held()


def test_no_more_sockets_are_opened_than_needed(kernel: Kernel) -> None:
    book = Memberships(LIMITS)
    for number in range(3 * LIMITS.groups):
        book.join(member(f"239.1.1.{number}"))

    assert [len(one.groups) for one in kernel.sockets] == [LIMITS.groups] * 3


def test_a_socket_without_memberships_is_closed(kernel: Kernel) -> None:
    book = Memberships(LIMITS)
    groups = [member("239.1.1.1"), member("239.1.1.2")]
    for one in groups:
        book.join(one)
    for one in groups:
        book.leave(one)

    assert [one.is_closed for one in kernel.sockets] == [True]


def test_a_refused_join_leaves_nothing_behind(kernel: Kernel) -> None:
    kernel.refused[2] = errno.ENODEV
    book = Memberships(LIMITS)

    with pytest.raises(KernelError, match=re.escape("join 239.1.1.1%if2: No such device")):
        book.join(member("239.1.1.1"))
    assert not book.held()
    assert [one.is_closed for one in kernel.sockets] == [True]


def test_a_refused_join_leaves_the_other_memberships_of_the_socket_alone(kernel: Kernel) -> None:
    book = Memberships(LIMITS)
    book.join(member("239.1.1.1", ifindex=3))
    kernel.refused[2] = errno.ENODEV

    with pytest.raises(KernelError):
        book.join(member("239.1.1.1"))
    assert kernel.held == {key_of(member("239.1.1.1", ifindex=3))}


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO])
def test_leaving_an_interface_that_has_gone_is_no_failure(kernel: Kernel, number: int) -> None:
    book = Memberships(LIMITS)
    for ifindex in (2, 3):
        book.join(member("239.1.1.1", ifindex=ifindex))
    kernel.refused[2] = number
    book.leave(member("239.1.1.1"))

    assert book.held() == {member("239.1.1.1", ifindex=3)}


def test_another_refusal_to_leave_is_a_failure_that_is_not_repeated(kernel: Kernel) -> None:
    book = Memberships(LIMITS)
    for ifindex in (2, 3):
        book.join(member("239.1.1.1", ifindex=ifindex))
    kernel.refused[2] = errno.EPERM

    with pytest.raises(KernelError, match=re.escape("leave 239.1.1.1%if2")):
        book.leave(member("239.1.1.1"))
    assert book.held() == {member("239.1.1.1", ifindex=3)}


# ---- the real kernel ----


def test_the_limits_are_the_kernels() -> None:
    limits = read_limits()

    assert limits.groups >= 1
    assert limits.sources >= 1


@pytest.mark.parametrize("first", [GROUP_V4, GROUP_V6])
def test_the_kernel_takes_more_memberships_than_one_socket_may_hold(first: Address) -> None:
    """On the loopback interface, where nobody is told of them."""
    limits = read_limits()
    source = ip_address("127.0.0.1" if first.version == 4 else "::1")
    wanted = [Membership("lo", 1, first + number) for number in range(2 * limits.groups + 1)]
    wanted += [Membership("lo", 1, first, source + number) for number in range(limits.sources + 1)]
    book = Memberships(limits)
    for one in wanted:
        book.join(one)
    held = set(book.held())
    for one in wanted:
        book.leave(one)

    assert held == set(wanted)
    assert not book.held()


# ---- what to join ----


def test_a_group_from_any_source_is_one_membership() -> None:
    assert memberships_of("eth0", 2, GROUP_V4, []) == {Membership("eth0", 2, GROUP_V4)}


def test_each_source_is_a_membership_of_its_own() -> None:
    sources = [IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")]

    assert memberships_of("eth0", 2, GROUP_V4, sources) == {
        Membership("eth0", 2, GROUP_V4, source) for source in sources
    }


@pytest.mark.parametrize(
    ("membership", "text"),
    [(member("239.1.1.1"), "239.1.1.1%if2"), (member("232.1.1.1", "10.0.0.9"), "10.0.0.9@232.1.1.1%if2")],
)
def test_a_membership_is_written_like_an_endpoint_without_a_port(membership: Membership, text: str) -> None:
    assert str(membership) == text

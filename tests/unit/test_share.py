"""What the supervisor packs is what C reads: the share of ``native/mcr.h`` against its table."""

import errno
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.model.endpoint import Address
from mcr.model.policy import TtlPolicy
from mcr.model.ruleset import MAX_OUTPUTS, MAX_RULES
from mcr.model.share import PlacedRule, Share
from mcr.wire.counters import MAX_INTERFACES
from mcr.wire.share import HEADER, OUTPUT, RULE, Digester, mapped, pack_share, share_digest
from tests.support.rules import HOSTS_V4, HOSTS_V6, placed, rule, shares

GENERATION = 7
SOURCE_BYTES = 16
LONGEST_INDEX = (1 << 32) - 1


class Table:
    """The C table of one worker, as an object."""

    def __init__(self) -> None:
        self._table = ffi.gc(lib.mcr_table__new(), lib.mcr_table__free)

    def load(self, share: bytes) -> int:
        result: int = lib.mcr_table__load(self._table, share, len(share))
        return result

    def find(self, interface: int, group: Address, port: int, source: Address) -> int:
        """Give a negative errno, or the slot of the rule that was found."""
        found: int = lib.mcr_table__find(self._table, interface, mapped(group), port, mapped(source))
        return found if found < 0 else self.rule(found).slot

    def rule(self, index: int) -> Any:
        return lib.mcr_table__rule(self._table, index)

    @property
    def rules(self) -> int:
        return next(index for index in range(MAX_RULES + 1) if self.rule(index) == ffi.NULL)

    @property
    def digest(self) -> int:
        digest: int = lib.mcr_table__digest(self._table)
        return digest

    @property
    def generation(self) -> int:
        generation: int = lib.mcr_table__generation(self._table)
        return generation

    @property
    def is_empty(self) -> bool:
        return (self.rules, self.generation, self.digest) == (0, 0, share_digest(Share()))


@pytest.fixture(scope="module")
def table() -> Table:
    """Loading a share replaces all of what was there before, so one table does for all tests."""
    return Table()


# ---- the layout of the bytes ----


@pytest.mark.parametrize(
    ("struct_name", "size"),
    [
        ("struct mcr_share_header", HEADER.size),
        ("struct mcr_rule", RULE.size),
        ("struct mcr_output", OUTPUT.size),
        ("struct mcr_source", len(mapped(IPv4Address("10.0.0.1")))),
    ],
)
def test_structs_have_the_same_size_in_c(struct_name: str, size: int) -> None:
    assert ffi.sizeof(struct_name) == size


def test_every_field_of_a_rule_arrives(table: Table) -> None:
    one = rule("10.0.0.9,10.0.0.8@232.1.1.1%in:5001", "239.2.2.2%out:6000", "192.0.2.7:6001")
    assert table.load(pack_share(Share((placed(one, 11, 3, 22),)), GENERATION)) == 0
    found = table.rule(0)

    assert bytes(found.group) == bytes(10) + b"\xff\xff" + IPv4Address("232.1.1.1").packed
    assert (found.interface, found.ifindex, found.port, found.slot) == (3, 22, 5001, 11)
    assert (found.outputs, found.sources) == (2, 2)
    assert table.generation == GENERATION


@pytest.mark.parametrize(
    ("ttl", "expected"),
    [
        (TtlPolicy.AUTO, (lib.MCR_TTL_AUTO, 0)),
        (TtlPolicy.KEEP, (lib.MCR_TTL_KEEP, 0)),
        (TtlPolicy.DECREMENT, (lib.MCR_TTL_DECREMENT, 0)),
        (8, (lib.MCR_TTL_FIXED, 8)),
    ],
)
def test_every_field_of_an_output_arrives(ttl: TtlPolicy | int, expected: tuple[int, int]) -> None:
    one = placed(rule("239.1.1.1%in:5001", "[ff35::8000:1%out]:6000", ttl=ttl), 11)
    packed = pack_share(Share((one,)), GENERATION)
    output = ffi.from_buffer("struct mcr_output *", packed[HEADER.size + RULE.size :])

    assert bytes(output.address) == IPv6Address("ff35::8000:1").packed
    assert (output.ifindex, output.port, output.slot) == (3, 6000, 11)
    assert (output.ttl_policy, output.ttl) == expected


@given(shares())
def test_the_parts_stand_one_after_the_other(share: Share) -> None:
    outputs = sum(len(one.outputs) for one in share.rules)
    sources = sum(len(one.rule.input.sources or one.rule.input.excluded) for one in share.rules)
    interfaces = sum(1 << slot for _, slot in share.interfaces)
    packed = pack_share(share, GENERATION)

    header = (lib.MCR_ABI, len(share.rules), outputs, sources, GENERATION, interfaces)
    assert HEADER.unpack_from(packed) == header
    assert (
        len(packed)
        == HEADER.size + len(share.rules) * RULE.size + outputs * OUTPUT.size + sources * SOURCE_BYTES
    )


# ---- the digest ----


@given(shares(), st.randoms(use_true_random=False))
def test_c_and_python_compute_the_same_digest_in_any_order(share: Share, order: random.Random) -> None:
    table = Table()
    shuffled = list(share.rules)
    order.shuffle(shuffled)

    assert table.load(pack_share(share, GENERATION)) == 0
    assert table.digest == share_digest(share)
    assert table.load(pack_share(Share(tuple(shuffled)), GENERATION + 1)) == 0
    assert table.digest == share_digest(share)


@given(st.lists(shares(), max_size=4))
def test_a_digester_gives_the_same_digest_and_remembers_the_rules_of_the_last_share_alone(
    following: list[Share],
) -> None:
    digester = Digester()
    for share in [*following, *following[:1]]:
        assert digester.digest(share) == share_digest(share)
        assert digester._known.keys() == set(share.rules)


@given(shares(), st.integers(0, 4000), st.integers(0, 63))
def test_the_digest_does_not_depend_on_slots(share: Share, slot: int, interface_slot: int) -> None:
    elsewhere = Share(tuple(placed_elsewhere(one, slot, interface_slot) for one in share.rules))

    assert share_digest(elsewhere) == share_digest(share)


def placed_elsewhere(one: PlacedRule, slot: int, interface_slot: int) -> PlacedRule:
    outputs = tuple(replace(output, slot=output.slot + slot) for output in one.outputs)
    return replace(one, slot=one.slot + slot, interface_slot=interface_slot, outputs=outputs)


# A share of one rule with two sources and two outputs, and what of it says what to do, not where to count.
WHOLE = pack_share(
    Share(
        (placed(rule("10.0.0.9,10.0.0.8@232.1.1.1%in:5001", "239.2.2.2%out:6000", "192.0.2.7:6001"), 11, 3),)
    ),
    GENERATION,
)
_RULE_AT, _OUTPUTS_AT, _SOURCES_AT = (
    HEADER.size,
    HEADER.size + RULE.size,
    HEADER.size + RULE.size + 2 * OUTPUT.size,
)
MEANINGFUL = [
    *range(_RULE_AT, _RULE_AT + 16),  # group
    *range(_RULE_AT + 20, _RULE_AT + 30),  # ifindex, ports, prefix_bits, excludes
    *(
        position
        for output in (_OUTPUTS_AT, _OUTPUTS_AT + OUTPUT.size)
        for position in range(output, output + OUTPUT.size - 4)
    ),
    *range(_SOURCES_AT, _SOURCES_AT + 2 * SOURCE_BYTES),
]


@pytest.mark.parametrize("position", MEANINGFUL)
def test_a_changed_byte_changes_the_digest_or_is_refused(table: Table, position: int) -> None:
    assert table.load(WHOLE) == 0
    digest = table.digest

    for bits in (0x01, 0x80, 0xFF):
        changed = bytearray(WHOLE)
        changed[position] ^= bits
        loaded = table.load(bytes(changed))
        assert loaded == -errno.EINVAL or table.digest != digest


def test_a_rule_that_shows_other_outputs_has_another_digest(table: Table) -> None:
    """The digest follows the indexes of a rule, so that wrong ones do not hide."""
    assert table.load(WHOLE) == 0
    digest = table.digest

    for first, count in ((0, 1), (1, 1), (0, 0)):
        assert table.load(changed_rule(first_output=first, outputs=count)) == 0
        assert table.digest != digest


# ---- look-up ----


class Model:
    """What look-up means: the rules of a group, those for some sources before the one for any."""

    def __init__(self, share: Share) -> None:
        self.rules: dict[tuple[int, Address, int], list[PlacedRule]] = {}
        for one in share.rules:
            key = (one.interface_slot, one.rule.input.address, one.rule.input.port)
            self.rules.setdefault(key, []).append(one)

    def find(self, interface: int, group: Address, port: int, source: Address) -> int:
        rules = self.rules.get((interface, group, port))
        if not rules:
            return -errno.ENOENT
        special = [one.slot for one in rules if source in one.rule.input.sources]
        general = [one.slot for one in rules if not one.rule.input.sources]
        return next(iter(special + general), -errno.EACCES)


@settings(deadline=None)
@given(shares(), st.data())
def test_look_up_agrees_with_a_dictionary(share: Share, data: st.DataObject) -> None:
    table, model = Table(), Model(share)
    assert table.load(pack_share(share, GENERATION)) == 0
    keys = list(model.rules)

    for interface, group, port in keys:
        stranger = data.draw(HOSTS_V4 if group.version == 4 else HOSTS_V6)
        named = [source for one in model.rules[interface, group, port] for source in one.rule.input.sources]
        for source in [stranger, *named]:
            for key in neighbours(interface, group, port):
                assert table.find(*key, source) == model.find(*key, source)


def neighbours(interface: int, group: Address, port: int) -> list[tuple[int, Address, int]]:
    """Give a key, and others that differ from it in one part."""
    return [
        (interface, group, port),
        (interface ^ 1, group, port),
        (interface, group, port ^ 1),
        (interface, type(group)(int(group) ^ 1), port),
    ]


def test_the_rule_for_the_source_is_found_before_the_one_for_any(table: Table) -> None:
    special = placed(rule("10.0.0.9@239.1.1.1%in:5001"), 1)
    general = placed(rule("239.1.1.1%in:5001"), 2)
    for order in ((special, general), (general, special)):
        assert table.load(pack_share(Share(order), GENERATION)) == 0
        group = IPv4Address("239.1.1.1")

        assert table.find(0, group, 5001, IPv4Address("10.0.0.9")) == 1
        assert table.find(0, group, 5001, IPv4Address("10.0.0.8")) == 2


def test_a_source_that_no_rule_names_is_told_from_a_group_that_none_names(table: Table) -> None:
    assert table.load(pack_share(Share((placed(rule("10.0.0.9@239.1.1.1%in:5001")),)), GENERATION)) == 0

    assert table.find(0, IPv4Address("239.1.1.1"), 5001, IPv4Address("10.0.0.8")) == -errno.EACCES
    assert table.find(0, IPv4Address("239.1.1.2"), 5001, IPv4Address("10.0.0.9")) == -errno.ENOENT


def test_a_full_table_finds_every_rule(table: Table) -> None:
    groups = [IPv4Address("239.0.0.0") + number for number in range(MAX_RULES)]
    full = Share(tuple(placed(rule(f"{group}%in:5001"), slot) for slot, group in enumerate(groups)))
    assert table.load(pack_share(full, GENERATION)) == 0
    source = IPv4Address("10.0.0.9")

    assert [table.find(0, group, 5001, source) for group in groups] == list(range(MAX_RULES))
    assert table.find(0, IPv4Address("238.0.0.0"), 5001, source) == -errno.ENOENT
    assert table.digest == share_digest(full)


# ---- what is no share ----


def changed_header(**fields: int) -> bytes:
    names = ("abi", "rules", "outputs", "sources", "generation", "interfaces")
    values = dict(zip(names, HEADER.unpack_from(WHOLE), strict=True)) | fields
    return HEADER.pack(*values.values()) + WHOLE[HEADER.size :]


def changed_rule(**fields: int) -> bytes:
    names = [
        *("group", "interface", "ifindex", "port", "last_port", "prefix_bits", "excludes", "reserved"),
        *("slot", "first_output", "outputs", "first_source", "sources"),
    ]
    values = dict(zip(names, RULE.unpack_from(WHOLE, _RULE_AT), strict=True)) | fields
    return WHOLE[:_RULE_AT] + RULE.pack(*values.values()) + WHOLE[_OUTPUTS_AT:]


def changed_output(**fields: int) -> bytes:
    names = [
        *("address", "ifindex", "mtu", "rate", "port", "port_offset", "prefix_bits", "rate_in_bits"),
        *(
            "ttl_policy",
            "ttl",
            "dscp_policy",
            "dscp",
            "engine",
            "link_bytes",
            "link_source",
            "ipv6",
            "reserved",
            "slot",
        ),
    ]
    values = dict(zip(names, OUTPUT.unpack_from(WHOLE, _OUTPUTS_AT), strict=True)) | fields
    return WHOLE[:_OUTPUTS_AT] + OUTPUT.pack(*values.values()) + WHOLE[_OUTPUTS_AT + OUTPUT.size :]


def of_rules(*endpoints: str) -> bytes:
    """Pack rules in exactly this order, which the supervisor would sort."""
    packed = [
        RULE.pack(mapped(one.address), 0, 2, one.port, one.port, 128, 0, 0, slot, 0, 0, 0, len(one.sources))
        for slot, one in enumerate(inputs(*endpoints))
    ]
    return HEADER.pack(lib.MCR_ABI, len(packed), 0, 1, 1, 0) + b"".join(packed) + bytes(SOURCE_BYTES)


def of_rules_in_slot_0(*endpoints: str) -> bytes:
    """Pack rules like `of_rules`, all with the counters of the first."""
    share = bytearray(of_rules(*endpoints))
    for index in range(len(endpoints)):
        struct.pack_into(
            "=I", share, HEADER.size + index * RULE.size + ffi.offsetof("struct mcr_rule", "slot"), 0
        )
    return bytes(share)


def inputs(*endpoints: str) -> Iterator[Any]:
    return (rule(text).input for text in endpoints)


CORRUPTED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "half a header": lambda: WHOLE[: HEADER.size - 1],
    "a header alone": lambda: WHOLE[: HEADER.size],
    "one byte too few": lambda: WHOLE[:-1],
    "one byte too many": lambda: WHOLE + b"\0",
    "another abi": lambda: changed_header(abi=lib.MCR_ABI + 1),
    "one rule too few": lambda: changed_header(rules=0),
    "one rule too many": lambda: changed_header(rules=2),
    "one output too many": lambda: changed_header(outputs=3),
    "one source too many": lambda: changed_header(sources=3),
    "more rules than there is room for": lambda: (
        HEADER.pack(lib.MCR_ABI, MAX_RULES + 1, 0, 0, 1, 0) + bytes((MAX_RULES + 1) * RULE.size)
    ),
    "as many rules as 32 bits count": lambda: changed_header(rules=LONGEST_INDEX),
    "more outputs than there is room for": lambda: (
        HEADER.pack(lib.MCR_ABI, 0, MAX_OUTPUTS + 1, 0, 1, 0) + bytes((MAX_OUTPUTS + 1) * OUTPUT.size)
    ),
    "more sources than there is room for": lambda: (
        HEADER.pack(lib.MCR_ABI, 0, 0, lib.MCR_MAX_SOURCES + 1, 1, 0)
        + bytes((lib.MCR_MAX_SOURCES + 1) * SOURCE_BYTES)
    ),
    "an interface slot out of range": lambda: changed_rule(interface=MAX_INTERFACES),
    "a rule slot out of range": lambda: changed_rule(slot=MAX_RULES),
    "an output slot out of range": lambda: changed_output(slot=MAX_OUTPUTS),
    "outputs out of range": lambda: changed_rule(outputs=3),
    "two rules that count in one place": lambda: of_rules_in_slot_0("239.1.1.1%in:1", "239.1.1.2%in:1"),
    "a first output out of range": lambda: changed_rule(first_output=1),
    "a first output that wraps around": lambda: changed_rule(first_output=LONGEST_INDEX, outputs=2),
    "sources out of range": lambda: changed_rule(sources=3),
    "a first source that wraps around": lambda: changed_rule(first_source=LONGEST_INDEX, sources=2),
    "no ttl policy": lambda: changed_output(ttl_policy=lib.MCR_TTL_FIXED + 1),
    "no dscp policy": lambda: changed_output(dscp_policy=lib.MCR_DSCP_FIXED + 1),
    "no engine": lambda: changed_output(engine=lib.MCR_ENGINE_KEEPING + 1),
    "a link header of no link": lambda: changed_output(link_bytes=4),
    "a mapping of more bits than there are": lambda: changed_output(prefix_bits=129),
    "a prefix of more bits than there are": lambda: changed_rule(prefix_bits=129),
    "ports from high to low": lambda: changed_rule(last_port=5000),
    "one input twice": lambda: of_rules("239.1.1.1%in:1", "239.1.1.1%in:1"),
    "any source before some": lambda: of_rules("239.1.1.1%in:1", "10.0.0.9@239.1.1.1%in:1"),
    "rules of one group apart": lambda: of_rules(
        "10.0.0.9@239.1.1.1%in:1", "239.1.1.2%in:1", "239.1.1.1%in:1"
    ),
}


@pytest.mark.parametrize("name", CORRUPTED)
def test_a_corrupted_share_is_refused_and_leaves_an_empty_table(table: Table, name: str) -> None:
    assert table.load(WHOLE) == 0
    assert not table.is_empty

    assert table.load(CORRUPTED[name]()) == -errno.EINVAL
    assert table.is_empty
    assert table.find(3, IPv4Address("232.1.1.1"), 5001, IPv4Address("10.0.0.9")) == -errno.ENOENT


def test_what_is_corrupted_is_good_otherwise(table: Table) -> None:
    """Or else the test above would prove nothing."""
    for share in (
        changed_header(),
        changed_rule(),
        changed_output(),
        of_rules("239.1.1.1%in:1", "239.1.1.2%in:1"),
    ):
        assert table.load(share) == 0
    limits = changed_rule(interface=MAX_INTERFACES - 1, slot=MAX_RULES - 1)
    assert table.load(limits) == 0
    assert table.load(changed_output(slot=MAX_OUTPUTS - 1)) == 0


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_every_beginning_of_a_share_is_refused(table: Table, length: int) -> None:
    assert table.load(WHOLE[:length]) == -errno.EINVAL
    assert table.is_empty


@settings(deadline=None)
@given(shares(), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=4), st.data())
def test_a_share_with_flipped_bits_is_refused_or_can_be_used(
    share: Share, flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    table = Table()
    changed = bytearray(pack_share(share, GENERATION))
    for position, bits in flips:
        changed[position % len(changed)] ^= bits
    loaded = table.load(bytes(changed))

    assert loaded in {0, -errno.EINVAL}
    assert table.is_empty or loaded == 0
    group, source = data.draw(st.tuples(HOSTS_V4, HOSTS_V4))
    assert table.find(0, group, 5001, source) < MAX_RULES
    assert table.digest >= 0

"""
The C table of a worker against a Python dictionary, while rules come, change and go.

A worker has two tables: one that look-ups use, and a spare one into which the next share is loaded before
the two are swapped (``native/src/relay.c``).
"""

import errno
import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcr._native import ffi, lib
from mcr.model.endpoint import Address, Endpoint, parse_endpoint
from mcr.model.rule import Output, Rule
from mcr.model.ruleset import problems
from mcr.model.share import PlacedOutput, PlacedRule, Share
from mcr.wire.share import mapped, pack_share, share_digest

INTERFACES = ["in", "other"]  # by slot
PORTS = range(4, 11)
PORT_RANGES = [(5, 9), (6, 7), (7, 7)]
GROUPS: dict[int, list[Address]] = {
    4: [*(IPv4Address("239.1.1.0") + number for number in range(9)), IPv4Address("239.1.2.1")],
    6: [*(IPv6Address("ff35::100") + number for number in range(9)), IPv6Address("ff35::201")],
}
PLACES: list[tuple[Address, int]] = [
    *((IPv4Address("239.1.1.0"), length) for length in (24, 29)),
    *((IPv4Address("239.1.1.1") + number, 32) for number in (0, 3)),
    *((IPv6Address("ff35::100"), length) for length in (120, 125)),
    *((IPv6Address("ff35::101") + number, 128) for number in (0, 3)),
]
# The first two end alike, as a hash may.
SOURCES: dict[int, list[Address]] = {
    4: [IPv4Address(text) for text in ("10.0.0.1", "10.1.0.1", "10.0.0.2")],
    6: [IPv6Address(text) for text in ("2001:db8::1", "2001:db8:1::1", "2001:db8::2")],
}
OUTPUTS = st.integers(1, 3).map(
    lambda count: tuple(Output(parse_endpoint(f"192.0.2.{number}:1")) for number in range(1, count + 1))
)

Key = tuple[int, Address, int, Address]
KEYS: list[Key] = [
    (interface, group, port, source)
    for interface in range(len(INTERFACES))
    for version, groups in GROUPS.items()
    for group in groups
    for port in PORTS
    for source in SOURCES[version]
]


@st.composite
def inputs(draw: st.DrawFn) -> Endpoint:
    """Make an input for some of the keys: one group or a prefix, one port or several, some sources or all."""
    address, length = draw(st.sampled_from(PLACES))
    first, last = draw(st.sampled_from(PORT_RANGES))
    some = tuple(draw(st.lists(st.sampled_from(SOURCES[address.version]), max_size=2, unique=True)))
    sources, excluded = draw(st.sampled_from([(some, ()), ((), some)]))
    return Endpoint(
        address, first, draw(st.sampled_from(INTERFACES)), sources, excluded, length, last_port=last
    )


def breadth(given: Endpoint) -> tuple[int, int, int]:
    """Say how much an input takes in; what takes in least wins."""
    any_source = 0 if given.sources else 1 if given.excluded else 2
    return -given.prefix_length, given.last_port - given.port, any_source


def as_dictionary(rules: list[PlacedRule]) -> dict[Key, int]:
    """Write every key that a rule is meant for, the broadest rule first: the last one to write wins."""
    found: dict[Key, int] = {}
    for one in sorted(rules, key=lambda one: breadth(one.rule.input), reverse=True):
        given = one.rule.input
        groups = ip_network((given.address, given.prefix_length))
        for key in KEYS:
            interface, group, port, source = key
            if interface != one.interface_slot or port not in range(given.port, given.last_port + 1):
                continue
            if group.version != groups.version or group not in groups:
                continue
            if source in given.sources or not (given.sources or source in given.excluded):
                found[key] = one.slot
            else:
                found.setdefault(key, -errno.EACCES)
    return found


class Table:
    """A C table, and what it should hold."""

    def __init__(self) -> None:
        self._table = ffi.gc(lib.mcr_table__new(), lib.mcr_table__free)
        self.share = Share()
        self.expected: dict[Key, int] = {}

    def load(self, share: Share, generation: int) -> None:
        content = pack_share(share, generation)
        assert lib.mcr_table__load(self._table, content, len(content)) == 0
        self.share, self.expected = share, as_dictionary(list(share.rules))

    def load_half(self, share: Share) -> None:
        content = pack_share(share, 1)[:-1]
        assert lib.mcr_table__load(self._table, content, len(content)) == -errno.EINVAL
        self.share, self.expected = Share(), {}

    def check(self, keys: list[Key]) -> None:
        for key in keys:
            interface, group, port, source = key
            index = lib.mcr_table__find(self._table, interface, mapped(group), port, mapped(source))
            assert self._slot(index) == self.expected.get(key, -errno.ENOENT), key

    def _slot(self, index: int) -> int:
        """Give the slot of the rule at *index*, or the error that it stands for."""
        if index < 0:
            return index
        one = lib.mcr_table__rule(self._table, index)
        assert one != ffi.NULL, index
        slot: int = one.slot
        return slot

    def check_digest(self) -> None:
        assert lib.mcr_table__digest(self._table) == share_digest(self.share)


class Worker(RuleBasedStateMachine):
    """Rules as they should be, the table in use, and the spare one."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[Endpoint, PlacedRule] = {}
        self.in_use, self.spare = Table(), Table()
        self.generation = 0
        self.is_loaded = False

    def _place(self, one: Rule) -> PlacedRule:
        taken = {placed.slot for placed in self.wanted.values()}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        outputs = tuple(
            PlacedOutput(output, slot * 4 + n, output.version(one.input), 3)
            for n, output in enumerate(one.outputs)
        )
        interface = INTERFACES.index(one.input.interface or "")
        return PlacedRule(one, slot, interface, 10 + interface, outputs)

    def _put(self, one: Rule) -> None:
        """Add a rule, or replace that with the same input, unless others stand against it."""
        others = {given: placed for given, placed in self.wanted.items() if given != one.input}
        if not list(problems([*(placed.rule for placed in others.values()), one])):
            self.wanted = others
            self.wanted[one.input] = self._place(one)

    @rule(rules=st.lists(st.builds(Rule, inputs(), OUTPUTS), min_size=1, max_size=8))
    def add_or_replace(self, rules: list[Rule]) -> None:
        for one in rules:
            self._put(one)

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.wanted[data.draw(st.sampled_from(list(self.wanted)))]

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), outputs=OUTPUTS)
    def replace_outputs(self, data: st.DataObject, outputs: tuple[Output, ...]) -> None:
        self._put(Rule(data.draw(st.sampled_from(list(self.wanted))), outputs))

    @rule(order=st.randoms(use_true_random=False))
    def load(self, order: random.Random) -> None:
        """Load what is wanted, which look-ups do not see yet."""
        rules = list(self.wanted.values())
        order.shuffle(rules)
        self.generation += 1
        self.spare.load(Share(tuple(rules)), self.generation)
        self.is_loaded = True

    @rule()
    def load_what_was_cut_off(self) -> None:
        self.spare.load_half(Share(tuple(self.wanted.values())))
        self.is_loaded = False

    @precondition(lambda self: self.is_loaded)
    @rule()
    def swap(self) -> None:
        self.in_use.check(KEYS)
        self.in_use, self.spare = self.spare, self.in_use
        self.is_loaded = False
        self.in_use.check(KEYS)

    @rule(order=st.randoms(use_true_random=False))
    def install(self, order: random.Random) -> None:
        self.load(order)
        self.swap()

    @rule(positions=st.lists(st.integers(0, len(KEYS) - 1), min_size=1, max_size=40))
    def look_up(self, positions: list[int]) -> None:
        """Do it twice: what was found is kept."""
        keys = [KEYS[position] for position in positions]
        self.in_use.check(keys + keys)

    @invariant()
    def digests_are_those_of_the_shares(self) -> None:
        self.in_use.check_digest()
        self.spare.check_digest()


TestWorker = Worker.TestCase
TestWorker.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_dictionary_prefers_what_takes_in_least() -> None:
    """The model itself, by hand."""
    given = Endpoint(IPv4Address("239.1.1.0"), 5, "in", prefix_length=24, last_port=9)
    narrower = replace(given, prefix_length=29)
    excluding = replace(narrower, excluded=(SOURCES[4][0],))
    worker = Worker()
    to = (Output(parse_endpoint("192.0.2.1:1")),)
    worker.add_or_replace([Rule(one, to) for one in (given, narrower, excluding)])
    found = as_dictionary(list(worker.wanted.values()))
    slots = {place: placed.slot for place, placed in worker.wanted.items()}

    assert found[0, GROUPS[4][0], 5, SOURCES[4][0]] == slots[narrower]
    assert found[0, GROUPS[4][0], 5, SOURCES[4][1]] == slots.get(excluding, slots[narrower])
    assert found[0, GROUPS[4][8], 5, SOURCES[4][1]] == slots[given]
    assert (0, GROUPS[4][9], 5, SOURCES[4][1]) not in found
    assert (1, GROUPS[4][0], 5, SOURCES[4][1]) not in found

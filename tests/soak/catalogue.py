"""
What a soak chooses from, and how it chooses: passing rules, what is sent to them, steady flows.

Everything is drawn from a `random.Random`, and nothing else decides: the same seed gives the same choices.
Passing rules share blocks of addresses, within which ranges lie in ranges, so that the most specific rule for
a datagram changes as rules come and go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.soak.model import (
    BLOCKS,
    LEVELS,
    SERIAL_BYTES,
    SINKS,
    SOURCES,
    VERSIONS,
    Datagram,
    Form,
    PassingOutput,
    PassingRule,
    Place,
)

MOST_OUTPUTS = 4
FIXED_GROUPS = 32
FIRST_PORT, PORTS = 6001, 8
BURST = range(8, 121)  # datagrams in one go
KILL_BURST = range(200, 401)  # enough for a worker to be in the middle of it
STEADY_IN_A_ROUND = 4

TTLS: Sequence[str | int] = ("auto", "auto", "keep", "decrement", 1, 7, 255)
DSCPS: Sequence[str | int] = ("keep", "keep", 0, 10, 46)
RATES: Sequence[str | None] = (None, None, None, None, None, "500pps", "2Mbit")
SENT_TTLS = (1, 2, 8, 64)
SENT_DSCPS = (0, 10, 34)
FORMS = (Form.FIXED, Form.FIXED, Form.TRANSLATED, Form.KEPT, Form.PREFIX)
# With weights.
SIZES = {
    4: ((range(8), 1), (range(8, 200), 8), (range(200, 1473), 8), (range(1473, 9001), 3)),
    6: ((range(8), 1), (range(8, 200), 8), (range(200, 1453), 8)),  # fragments of IPv6 are not relayed
}


@dataclass(frozen=True, slots=True)
class Steady:
    """
    A kind of flow whose rule never changes.

    Attributes:
        given: the input, to be completed with an interface.
        to: outputs, each with its sink and policies, in the same way.
        arrives: where mcrgen receives it, in the order of *to*.
        sizes: of the payload, to choose from.
        rates: datagrams per second, to choose from.
        flows: consecutive groups.
        segments: datagrams in one super-frame.
        source: the last part of the sender's address; 0 leaves it to the kernel.
    """

    given: str
    to: tuple[tuple[int, dict[str, object]], ...]
    arrives: tuple[str, ...]
    sizes: range
    rates: range
    sent_to: str = ""
    flows: int = 1
    segments: int = 1
    source: int = 0


STEADY = {
    "plain": Steady(
        "239.1.1.1%{}:5101",
        ((0, {"to": "239.2.1.1%{}:7101"}),),
        ("239.2.1.1%{}:7101",),
        range(40, 1473),
        range(4000, 10_000),
    ),
    "fragments": Steady(
        "239.1.2.1%{}:5101",
        ((0, {"to": "239.2.2.1%{}:7102"}),),
        ("239.2.2.1%{}:7102",),
        range(1473, 9001),
        range(100, 600),
        source=11,
    ),
    "super-frames": Steady(
        "239.1.3.1%{}:5101",
        ((1, {"to": "239.2.3.1%{}:7103", "ttl": 9}),),
        ("239.2.3.1%{}:7103",),
        range(100, 1400),
        range(4000, 10_000),
        segments=8,
    ),
    "ipv6": Steady(
        "[ff35:1::1%{}]:5101",
        ((0, {"to": "[ff35:2::1%{}]:7104", "dscp": "af41"}),),
        ("[ff35:2::1%{}]:7104",),
        range(40, 1400),
        range(2000, 8000),
    ),
    "range": Steady(
        "239.1.5.0/24%{}:5101-5110",
        ((1, {"to": "keep%{}:+2000", "source": "keep"}),),
        ("239.1.5.1%{}:7105",),
        range(40, 1400),
        range(2000, 8000),
        sent_to="239.1.5.1%{}:5105",
        flows=16,
        source=12,
    ),
    "copies": Steady(
        "239.1.6.1%{}:5101",
        (
            (0, {"to": "239.2.6.1%{}:7106", "ttl": "decrement"}),
            (1, {"to": "239.2.6.2%{}:7106", "dscp": 46}),
            (1, {"to": "[ff35:2::6%{}]:7106"}),
        ),
        ("239.2.6.1%{}:7106", "239.2.6.2%{}:7106", "[ff35:2::6%{}]:7106"),
        range(40, 1400),
        range(1000, 3000),
    ),
    "one-source": Steady(
        "10.1.0.13@239.1.7.1%{}:5101",
        ((0, {"to": "239.2.7.1%{}:7107", "source": "keep"}),),
        ("10.1.0.13@239.2.7.1%{}:7107",),
        range(40, 1472),
        range(1000, 5000),
        sent_to="239.1.7.1%{}:5101",
        source=13,
    ),
}


@dataclass(frozen=True, slots=True)
class SteadyChoice:
    """A flow of a round."""

    kind: str
    size: int
    rate_pps: int


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What is settled before a round begins; *kills* are parts of its duration, each with its victim."""

    steady: tuple[SteadyChoice, ...]
    kills: tuple[float, ...]
    victims: tuple[int, ...]


def dice_of(seed: int, number: int) -> Random:
    """Give the source of all choices of one round, so that it can be played again by itself."""
    return Random(f"{seed}/{number}")


def choose_settings(dice: Random) -> dict[str, object]:
    """Choose how the daemon is to distribute its rules."""
    return dict(
        dice.choice(({}, {"steering": "hash"}, {"steering": "cpu"}, {"steering": "hash", "workers": 3}))
    )


def choose_round(dice: Random, *, workers: int, kills: int) -> RoundPlan:
    """
    Choose the steady flows of a round, and when which worker is killed.

    Workers take turns: one that dies soon after it was started is started again with a delay.
    """
    kinds = dice.sample(sorted(STEADY), STEADY_IN_A_ROUND)
    steady = (
        SteadyChoice(kind, dice.choice(STEADY[kind].sizes), dice.choice(STEADY[kind].rates)) for kind in kinds
    )
    moments = ((number + dice.uniform(0.2, 0.6)) / kills for number in range(kills))
    turns = dice.sample(range(workers), workers)
    return RoundPlan(tuple(steady), tuple(moments), tuple(turns[number % workers] for number in range(kills)))


def choose_rule(dice: Random, name: str, taken: set[Place]) -> PassingRule | None:
    """Choose a rule for a place that is free, or None if there is none."""
    places = [Place(*one) for one in ((v, b, n) for v in VERSIONS for b in range(BLOCKS) for n in LEVELS)]
    free = [place for place in places if place not in taken]
    if not free:
        return None
    place = dice.choice(free)
    meant = frozenset(dice.sample(range(SOURCES), dice.choice((0, 0, 1, 2))))
    outputs: dict[str, PassingOutput] = {}
    for _ in range(dice.randint(1, MOST_OUTPUTS)):
        output = _choose_output(dice, place.version)
        outputs.setdefault(output.target(), output)
    return PassingRule(name, place, meant, dice.random() < 0.5, tuple(outputs.values()))


def _choose_output(dice: Random, version: int) -> PassingOutput:
    form = dice.choice(FORMS)
    leaving = 10 - version if form is Form.TRANSLATED else version
    port = FIRST_PORT + dice.randrange(PORTS)
    return PassingOutput(
        form=form,
        version=leaving,
        sink=dice.randrange(SINKS),
        number=dice.randrange(FIXED_GROUPS),
        port=port,
        ttl=dice.choice(TTLS),
        dscp=dice.choice(DSCPS),
        keeps_source=leaving == version and dice.random() < 0.3,
        rate=dice.choice(RATES),
    )


def choose_burst(dice: Random, places: Sequence[Place], counts: range) -> list[Datagram]:
    """Choose datagrams from one sender to the block of one of *places*, or to any block."""
    version, block = dice.choice(VERSIONS), dice.randrange(BLOCKS)
    if places and dice.random() < 0.9:
        place = dice.choice(places)
        version, block = place.version, place.block
    source, ttl, dscp = dice.randrange(SOURCES), dice.choice(SENT_TTLS), dice.choice(SENT_DSCPS)
    return [
        Datagram(version, block, *_choose_address(dice), source, ttl, dscp, size)
        for size in _sizes(dice, version, dice.choice(counts))
    ]


def _choose_address(dice: Random) -> tuple[int, int]:
    """Choose group and port of a block so that each level gets its share."""
    level = LEVELS[dice.choice(sorted(LEVELS))]
    return dice.randrange(level.groups), dice.randrange(level.ports)


def _sizes(dice: Random, version: int, count: int) -> list[int]:
    """Choose sizes; each one that is too short for a serial number comes once, so that no two look alike."""
    spans = SIZES[version]
    chosen = dice.choices([span for span, _ in spans], [weight for _, weight in spans], k=count)
    sizes = [dice.choice(span) for span in chosen]
    return [
        size + SERIAL_BYTES if size < SERIAL_BYTES and size in sizes[:place] else size
        for place, size in enumerate(sizes)
    ]

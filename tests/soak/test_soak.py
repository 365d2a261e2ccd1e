"""What a soak expects and how it judges, without namespaces or traffic."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from mcr.wire.control import check_params
from mcr.wire.documents import rule_from_params
from tests.soak.catalogue import (
    BURST,
    FIRST_PORT,
    FIXED_GROUPS,
    PORTS,
    STEADY,
    SteadyChoice,
    choose_burst,
    choose_round,
    choose_rule,
    dice_of,
)
from tests.soak.ledger import Ledger
from tests.soak.main import main
from tests.soak.model import (
    LEVELS,
    SERIAL_BYTES,
    VERSIONS,
    Arrival,
    Datagram,
    Form,
    PassingOutput,
    PassingRule,
    Place,
    all_destinations,
    digest,
    payload_of,
    winner,
)
from tests.soak.play import Extent
from tests.soak.starvation import is_long
from tests.soak.steady import BATCH, Circumstances, rules, verdicts
from tests.soak.watch import MOST_GROWTH_KIB, Holding, errors_of, has_grown, went_back
from tests.support.laws import WRONG

OUTPUT = PassingOutput(Form.FIXED, version=4, sink=0, number=3, port=6002)
RULE = PassingRule("one", Place(4, 2, 0), frozenset(), excludes=False, outputs=(OUTPUT,))
DATAGRAM = Datagram(version=4, block=2, group=5, port=1, source=1, ttl=8, dscp=10, size=100)
ARRIVAL = Arrival(0, "239.30.0.3", 6002, "10.2.0.1", 7, 10, digest(b"payload"))
NO_KILLS = Circumstances(kills=0, kernel_dropped=0)
CHOICE = SteadyChoice("super-frames", 1000, 5000)
SENT = {"sent": 1000, "not_sent": 0}
GOT = {"distinct": 1000, "received": 1000, **dict.fromkeys(WRONG, 0)}


# ---- choices ----


def test_the_same_seed_makes_the_same_choices() -> None:
    def choices(seed: int) -> list[object]:
        dice = dice_of(seed, 3)
        return [
            choose_round(dice, workers=2, kills=2),
            choose_rule(dice, "p", set()),
            choose_burst(dice, [], BURST),
        ]

    assert choices(7) == choices(7)
    assert choices(7) != choices(8)


def test_every_rule_that_is_chosen_is_one_that_mcr_takes() -> None:
    dice, taken = Random(1), set[Place]()
    for number in range(len(LEVELS) * 16):
        chosen = choose_rule(dice, f"p{number}", taken)
        assert chosen is not None
        taken.add(chosen.place)
        params = chosen.params()
        check_params("rule.add", params)
        made = rule_from_params(params)
        assert made.name == chosen.name
        assert len(made.outputs) == len(chosen.outputs)

    assert choose_rule(dice, "none left", taken) is None


@pytest.mark.parametrize("kills", [0, 1, 2, 6])
def test_workers_are_killed_in_turns_all_over_the_round(kills: int) -> None:
    plan = choose_round(Random(kills), workers=3, kills=kills)

    assert len(plan.kills) == len(plan.victims) == kills
    assert list(plan.kills) == sorted(plan.kills)
    assert all(0 < moment < 1 for moment in plan.kills)
    assert len(set(plan.victims)) == min(kills, 3)
    assert plan.victims[:3] == plan.victims[3:] or kills < 6


def test_a_burst_comes_from_one_sender() -> None:
    bursts = [choose_burst(Random(seed), [RULE.place], BURST) for seed in range(50)]

    for burst in bursts:
        assert len({(one.version, one.block, one.source, one.ttl, one.dscp) for one in burst}) == 1
        shortest = [one.size for one in burst if one.size < SERIAL_BYTES]
        assert len(shortest) == len(set(shortest))
    assert any(one.size < SERIAL_BYTES for burst in bursts for one in burst)
    assert any(one.size > 1472 for burst in bursts for one in burst)
    assert all(one.size <= 1452 for burst in bursts for one in burst if one.version == 6)


def test_the_steady_rules_make_a_configuration() -> None:
    assert [rule["name"] for rule in rules()] == list(STEADY)
    for kind in STEADY.values():
        assert len(kind.to) == len(kind.arrives)


@pytest.mark.parametrize(("seconds", "rounds"), [(6, 2), (60, 2), (300, 10)])
def test_there_is_a_round_with_kills_and_one_without(seconds: float, rounds: int) -> None:
    extent = Extent(seconds, seed=1)

    assert extent.rounds == rounds
    assert extent.rounds * extent.round_s == pytest.approx(seconds)


# ---- the model ----

SIXES = replace(DATAGRAM, version=6)

EXPECTED: list[tuple[PassingOutput, Datagram, Mapping[str, object] | None]] = [
    (OUTPUT, DATAGRAM, {"group": "239.30.0.3", "port": 6002, "source": "10.2.0.1", "ttl": 7, "dscp": 10}),
    (replace(OUTPUT, sink=1), DATAGRAM, {"sink": 1, "source": "10.3.0.1"}),
    (replace(OUTPUT, keeps_source=True), DATAGRAM, {"source": "10.4.0.12"}),
    (replace(OUTPUT, form=Form.KEPT), DATAGRAM, {"group": "239.20.2.5", "port": 6002}),
    (replace(OUTPUT, form=Form.KEPT), replace(DATAGRAM, port=7), {"port": 6008}),
    (replace(OUTPUT, form=Form.PREFIX), DATAGRAM, {"group": "239.31.0.5", "port": 6002}),
    (
        replace(OUTPUT, form=Form.TRANSLATED, version=6),
        DATAGRAM,
        {"group": "ff35:30::3", "source": "fd00:2::1"},
    ),
    (replace(OUTPUT, form=Form.PREFIX, version=6), SIXES, {"group": "ff35:31::5"}),
    (replace(OUTPUT, form=Form.KEPT, version=6), SIXES, {"group": "ff35:20:2::5", "port": 6002}),
    (replace(OUTPUT, version=6, keeps_source=True), SIXES, {"source": "fd00:4::12"}),
    (replace(OUTPUT, ttl="keep"), DATAGRAM, {"ttl": 8}),
    (replace(OUTPUT, ttl=99), DATAGRAM, {"ttl": 99}),
    (OUTPUT, replace(DATAGRAM, ttl=1), {"ttl": 1}),
    (replace(OUTPUT, ttl="decrement"), replace(DATAGRAM, ttl=2), {"ttl": 1}),
    (replace(OUTPUT, ttl="decrement"), replace(DATAGRAM, ttl=1), None),
    (replace(OUTPUT, dscp=46), DATAGRAM, {"dscp": 46}),
]


@pytest.mark.parametrize(("output", "datagram", "expected"), EXPECTED)
def test_what_must_arrive(
    output: PassingOutput, datagram: Datagram, expected: Mapping[str, object] | None
) -> None:
    arrival = output.arrival(datagram, b"payload")

    if expected is None:
        assert arrival is None
        return
    assert arrival is not None
    assert {name: getattr(arrival, name) for name in expected} == expected
    assert arrival.payload == digest(b"payload")


def test_whatever_may_arrive_is_listened_to() -> None:
    dice = Random(2)
    heard = {version: set(all_destinations(version, FIXED_GROUPS)) for version in VERSIONS}
    ports = range(FIRST_PORT, FIRST_PORT + PORTS)
    for number in range(300):
        rule = choose_rule(dice, f"p{number}", set())
        assert rule is not None
        for datagram in choose_burst(dice, [rule.place], BURST):
            if winner([rule], datagram) is None:
                continue
            for output in rule.outputs:
                arrival = output.arrival(datagram, b"")
                assert arrival is None or arrival.group in heard[output.version]
                assert arrival is None or arrival.port in ports


@pytest.mark.parametrize(
    ("sources", "excludes", "fits"),
    [
        ((), False, True),
        ((1, 2), False, True),
        ((2,), False, False),
        ((), True, True),
        ((1,), True, False),
        ((2,), True, True),
    ],
)
def test_sources_are_meant_or_excluded(sources: tuple[int, ...], excludes: bool, fits: bool) -> None:  # noqa: FBT001
    assert replace(RULE, sources=frozenset(sources), excludes=excludes).fits(DATAGRAM) is fits


@pytest.mark.parametrize(
    ("group", "port", "level"), [(0, 0, 2), (1, 0, 1), (0, 1, 1), (3, 3, 1), (4, 0, 0), (0, 4, 0), (15, 7, 0)]
)
def test_the_most_specific_rule_wins(group: int, port: int, level: int) -> None:
    standing = [replace(RULE, name=str(one), place=Place(4, 2, one)) for one in LEVELS]

    found = winner(standing, replace(DATAGRAM, group=group, port=port))

    assert found is not None
    assert found.name == str(level)


def test_what_a_specific_rule_does_not_mean_goes_to_the_range_around_it() -> None:
    specific = replace(RULE, name="specific", place=Place(4, 2, 2), sources=frozenset({0}))
    at_both = replace(DATAGRAM, group=0, port=0)

    assert winner([RULE, specific], at_both) is RULE
    assert winner([RULE, specific], replace(at_both, source=0)) is specific
    assert winner([RULE], replace(DATAGRAM, block=3)) is None


def test_payloads_have_their_length_and_differ() -> None:
    payloads = [payload_of(serial, size) for serial, size in enumerate([0, 1, 7, 8, 9, 1472, 9000, 9000])]

    assert [len(payload) for payload in payloads] == [0, 1, 7, 8, 9, 1472, 9000, 9000]
    assert len({digest(payload) for payload in payloads[3:]}) == 5


# ---- verdicts ----


def test_what_is_due_is_owed_until_it_has_come() -> None:
    ledger = Ledger()
    ledger.expect(ARRIVAL, ("one", 0), may_be_lost=False)
    ledger.expect(ARRIVAL, ("one", 0), may_be_lost=False)
    ledger.take(ARRIVAL)

    assert ledger.due == {ARRIVAL: 1}

    ledger.take(ARRIVAL)

    assert not ledger.due
    assert ledger.problems(0) == []
    assert ledger.arrived["one", 0] == 2


def test_what_comes_again_is_a_problem_unless_a_worker_was_killed() -> None:
    ledger = Ledger()
    ledger.expect(ARRIVAL, ("one", 0), may_be_lost=False)
    for _ in range(3):
        ledger.take(ARRIVAL)

    assert ledger.problems(2) == []
    assert ledger.problems(1) == ["2 by output 0 of rule one came again, expected at most 1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sink": 1},
        {"group": "239.30.0.4"},
        {"port": 6001},
        {"source": "10.4.0.11"},
        {"ttl": 8},
        {"dscp": 0},
        {"payload": digest(b"payloae")},
    ],
)
def test_what_differs_in_anything_was_never_due(wrong: dict[str, Any]) -> None:
    ledger = Ledger()
    ledger.expect(ARRIVAL, ("one", 0), may_be_lost=False)
    ledger.take(replace(ARRIVAL, **wrong))

    assert len(ledger.problems(1000)) == 1
    assert ledger.due == {ARRIVAL: 1}


def test_what_a_limit_may_drop_is_not_owed_but_may_come_once() -> None:
    ledger = Ledger()
    ledger.expect(ARRIVAL, ("one", 0), may_be_lost=True)

    assert not ledger.due

    ledger.take(ARRIVAL)
    ledger.take(ARRIVAL)

    assert ledger.arrived["one", 0] == 1
    assert len(ledger.problems(0)) == 1


@pytest.mark.parametrize("name", WRONG)
def test_a_steady_flow_tolerates_nothing_without_a_kill(name: str) -> None:
    got = {**GOT, name: 1, "distinct": 999 if name == "lost" else 1000}

    assert verdicts(CHOICE, SENT, GOT, NO_KILLS) == []
    assert verdicts(CHOICE, SENT, got, NO_KILLS) == [f"{name} 1, expected at most 0"]


@pytest.mark.parametrize(
    ("wrong", "kernel_dropped", "problems"),
    [
        ({"duplicated": 2 * BATCH * 8}, 0, 0),
        ({"duplicated": 2 * BATCH * 8 + 1}, 0, 1),
        ({"lost": 1, "distinct": 999}, 0, 1),
        ({"lost": 1, "distinct": 999}, 1, 0),
        ({"distinct": 999}, 1, 1),
        ({"corrupted": 1}, 1, 1),
    ],
)
def test_a_kill_excuses_repetitions_and_an_overflow_of_the_ring_excuses_losses(
    wrong: dict[str, int], kernel_dropped: int, problems: int
) -> None:
    circumstances = Circumstances(kills=2, kernel_dropped=kernel_dropped)

    assert len(verdicts(CHOICE, SENT, {**GOT, **wrong}, circumstances)) == problems


def test_a_kill_excuses_the_loss_of_frames_longer_than_one_of_the_ring() -> None:
    got = {**GOT, "lost": 16, "distinct": 984}

    assert verdicts(CHOICE, SENT, got, Circumstances(kills=1, kernel_dropped=0, truncated=2)) == []
    assert verdicts(CHOICE, SENT, got, Circumstances(kills=1, kernel_dropped=0, truncated=1)) != []
    assert verdicts(CHOICE, SENT, got, Circumstances(kills=0, kernel_dropped=0, truncated=2)) != []


def test_without_a_kill_an_overflow_excuses_nothing() -> None:
    got = {**GOT, "lost": 1, "distinct": 999}

    assert verdicts(CHOICE, SENT, got, Circumstances(kills=0, kernel_dropped=1)) != []


def test_on_a_busy_machine_an_overflow_excuses_losses() -> None:
    got = {**GOT, "lost": 2, "distinct": 998}

    assert verdicts(CHOICE, SENT, got, Circumstances(0, 2, is_starved=True)) == []
    assert verdicts(CHOICE, SENT, got, Circumstances(0, 1, is_starved=True)) != []


@pytest.mark.parametrize(
    ("waited_s", "elapsed_s", "expected"), [(0.3, 1.0, True), (0.2, 0.2, False), (0.3, 2.0, False)]
)
def test_a_worker_starves_that_waits_long_and_for_much_of_the_time(
    waited_s: float,
    elapsed_s: float,
    expected: bool,  # noqa: FBT001
) -> None:
    assert is_long(waited_s, elapsed_s) is expected


def test_a_counter_that_is_smaller_than_before_is_found() -> None:
    before = {"rule a": {"matched": 5, "rate": 2}, "rule b": {"matched": 7}}

    assert went_back(before, {"rule a": {"matched": 5, "rate": 2, "ttl": 1}}) == []
    assert went_back(before, {"rule a": {"matched": 4, "rate": 2}}) == ["matched of rule a: 5 to 4"]
    assert went_back(before, {"rule a": {"matched": 6}}) == ["rate of rule a: 2 to 0"]


@pytest.mark.parametrize(
    ("more_kib", "named"), [(0, []), (MOST_GROWTH_KIB, []), (MOST_GROWTH_KIB + 1, ["worker 0"])]
)
def test_memory_that_grows_is_found(more_kib: int, named: list[str]) -> None:
    first = [Holding("supervisor", 100, 9), Holding("worker 0", 100, 9)]
    last = [first[0], Holding("worker 0", 100 + more_kib, 9)]

    assert [one.partition(":")[0] for one in has_grown(first, last)] == named


@pytest.mark.parametrize(
    ("line", "killed", "is_error"),
    [
        ('level=error event="worker ended" worker=1 pid=12 reason="closed"', {12}, False),
        ('level=error event="worker ended" worker=1 pid=123 reason="closed"', {12}, True),
        ('level=error event="interface refused" name=r0', {12}, True),
        ("Traceback (most recent call last):", {12}, True),
        ('level=warning event="worker gone" worker=1 pid=13', set(), False),
    ],
)
def test_only_the_end_of_a_killed_worker_may_be_an_error(line: str, killed: set[int], is_error: bool) -> None:  # noqa: FBT001
    assert bool(errors_of(f"level=info event=started\n{line}\n", killed)) is is_error


# ---- the command ----


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "five"])
def test_a_soak_without_a_length_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([minutes])

    assert ended.value.code == 2
    assert "expected a number of minutes" in capsys.readouterr().err

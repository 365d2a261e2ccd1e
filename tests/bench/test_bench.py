"""The arithmetic of the benchmarks, without namespaces or traffic."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from mcr.gen.quantity import parse_rate
from tests.bench.chart import Bar, Panel, draw
from tests.bench.cpu import Reading, Usage
from tests.bench.job import FULL_SPEED, Job, Stream, as_many_as_fit
from tests.bench.metrics import METRICS, medians
from tests.bench.play import turns
from tests.bench.relays import RELAYS, mcr_config, nft_ruleset
from tests.bench.rest import resident_kib
from tests.bench.scenarios import SCENARIOS, Scenario
from tests.bench.stage import Cpus, Stage
from tests.bench.targets import Target, no_loss
from tests.bench.trial import Reports, sample_of
from tests.support.lab import Host

HOST = Host("host", "nowhere")
CPUS = Cpus(sender=0, relay=1, usable=(0, 1))


def stage(hops: int = 1) -> Stage:
    return Stage(HOST, (HOST,) * hops, HOST, CPUS)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_scenario_only_names_what_there_is(scenario: Scenario) -> None:
    names = {contender.name for contender in scenario.contenders}

    assert len(names) == len(scenario.contenders)
    assert {contender.relay for contender in scenario.contenders} <= RELAYS.keys()
    assert {*scenario.columns, *scenario.charts} <= METRICS.keys()
    assert scenario.targets
    for target in scenario.targets:
        assert {target.subject, target.against} <= {*names, ""}
        assert target.metric in METRICS
        assert target.least is not None or target.most is not None


AT_A_RATE = [one for one in SCENARIOS.values() if one.contenders[0].job.rate not in {FULL_SPEED, "0"}]


@pytest.mark.parametrize("scenario", AT_A_RATE, ids=lambda scenario: str(scenario.name))
def test_a_scenario_is_not_won_at_a_lower_rate(scenario: Scenario) -> None:
    subject = scenario.contenders[0]
    reached = parse_rate(subject.job.rate) * 0.9
    slow = {subject.name: [{"offered_pps": reached}] * 5}

    verdicts = [target.judge(slow) for target in scenario.targets if target.metric == "offered_pps"]

    assert [verdict.met for verdict in verdicts] == [False]


IN_A_CROWD = [one for one in SCENARIOS.values() if one.contenders[0].job.crowd]


@pytest.mark.parametrize("scenario", IN_A_CROWD, ids=lambda scenario: str(scenario.name))
def test_a_scenario_is_not_won_among_fewer(scenario: Scenario) -> None:
    subject = scenario.contenders[0]
    assert subject.job.crowd
    fewer = {subject.name: [{"crowd_pps": parse_rate(subject.job.crowd.rate) * 0.9}] * 5}

    verdicts = [target.judge(fewer) for target in scenario.targets if target.metric == "crowd_pps"]

    assert [verdict.met for verdict in verdicts] == [False]


@pytest.mark.parametrize(
    ("payload_bytes", "datagrams"), [(64, 64), (1023, 64), (1400, 46), (9000, 7), (65507, 1)]
)
def test_as_many_datagrams_are_handed_over_as_a_call_takes(payload_bytes: int, datagrams: int) -> None:
    assert as_many_as_fit(payload_bytes) == datagrams


def test_the_crowd_is_sent_to_groups_without_a_rule() -> None:
    job = Job("5k", 100, flows=3, crowd=Stream("500k", 100, flows=100))

    wanted = {one.partition("%")[0] for one in stage().inputs(0, job)}

    assert stage().sent_to().partition("%")[0] in wanted
    assert stage().sent_to(job.flows).partition("%")[0] not in wanted


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rounds = {
        "mcr": [{"relayed_pps": 200.0}, {"relayed_pps": 30.0}, {"relayed_pps": 400.0}],
        "peer": [{"relayed_pps": 100.0}, {"relayed_pps": 10.0}, {"relayed_pps": 100.0}],
    }

    verdict = Target("mcr", "relayed_pps", least=3.0, against="peer").judge(rounds)

    assert (verdict.value, verdict.met) == ("3.00 x", True)
    assert Target("mcr", "relayed_pps", least=3.1, against="peer").judge(rounds).met is False


def test_one_lossy_round_misses_zero_loss() -> None:
    rounds = {"mcr": [{"lost": 0.0, "wrong": 0.0}, {"lost": 2.0, "wrong": 0.0}, {"lost": 0.0, "wrong": 0.0}]}

    lost, wrong = (target.judge(rounds) for target in no_loss("mcr"))

    assert (lost.value, lost.met) == ("2", False)
    assert wrong.met is True


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    rounds = {"mcr": [{"relay_ns": 100.0}], "peer": []}

    assert Target("mcr", "relay_ns", most=1.0, against="peer").judge(rounds).met is None


def test_medians_are_of_what_every_round_has() -> None:
    assert medians([{"lost": 1.0, "p50_us": 4.0}, {"lost": 5.0}, {"lost": 2.0, "p50_us": 4.0}]) == {
        "lost": 2.0
    }


def test_each_contender_has_its_turn_in_every_place() -> None:
    contenders = SCENARIOS["latency-1k"].contenders

    orders = [turns(contenders, number) for number in range(len(contenders))]

    for place in range(len(contenders)):
        assert {order[place].name for order in orders} == {one.name for one in contenders}


def test_usage_is_what_was_neither_idle_nor_stolen() -> None:
    before = Reading(at_s=10.0, cpus=2, idle_s=100.0, steal_s=5.0, processes_s={7: 1.0})
    after = Reading(at_s=12.0, cpus=2, idle_s=102.5, steal_s=5.5, processes_s={7: 1.75})

    usage = Usage.between(before, after)

    assert (usage.busy_s, usage.steal_s, list(usage.processes_s)) == (1.0, 0.5, [0.75])


def reports(**got: Any) -> Reports:
    received = {
        "distinct": 1000,
        "received": 1000,
        "messages": 100,
        "lost": 0,
        "rate_pps": 500.0,
        "latency_us": {"p50": 10.0, "p99": 20.0},
        "socket_dropped": 0,
        **dict.fromkeys(("duplicated", "corrupted", "misdirected", "foreign", "stale"), 0),
        **got,
    }
    usage = Usage(elapsed_s=2.0, busy_s=1.0, steal_s=0.0, processes_s=[0.3, 0.1])
    return Reports({"sent": 1000, "rate_pps": 500.0}, received, usage, 0, 0, 0, {"rate_pps": 9000.0})


def test_cpu_time_is_shared_out_over_the_datagrams_of_the_time_watched() -> None:
    sample = sample_of(Job("500", 1000), reports())

    assert sample["relay_ns"] == pytest.approx(0.4e9 / 1000)
    assert sample["busy_ns"] == pytest.approx(1e9 / 1000)
    assert sample["least_share"] == pytest.approx(0.25)
    assert sample["batch"] == 10
    assert sample["crowd_pps"] == 9000.0


@pytest.mark.parametrize(
    ("job", "lost"),
    [
        (Job("500", 100), 1),
        (Job("500", 100, copies=3), 2001),
        (Job("500", 100, crowd=Stream("1k", 100, flows=5)), 1),
    ],
)
def test_loss_is_what_is_missing_of_all_copies_but_not_of_the_crowd(job: Job, lost: int) -> None:
    assert sample_of(job, reports(distinct=999))["lost"] == lost


def test_every_copy_has_an_output_and_every_hop_a_rule_for_each() -> None:
    job = Job("1k", 100, copies=3)

    first, second = (mcr_config(stage(hops=2), hop, job, {}) for hop in (0, 1))

    (rule,) = first["rules"]
    assert len(rule["to"]) == len(set(rule["to"])) == 3
    assert [one["from"].replace("r0", "r1") for one in second["rules"]] == rule["to"]


def test_settings_reach_the_file_and_the_outputs() -> None:
    config = mcr_config(stage(), 0, Job("1k", 100), {"workers": 1, "to.source": "keep"})

    assert config["workers"] == 1
    assert config["rules"][0]["to"][0]["source"] == "keep"


def test_nftables_copies_for_all_outputs_but_the_last() -> None:
    ruleset = nft_ruleset("239.1.0.1", ["239.2.0.1%r1:6000", "239.2.0.2%r1:6000"])

    assert ruleset.count("dup to r1") == ruleset.count("fwd to r1") == 1
    assert "ether daddr set 01:00:5e:02:00:02 ip daddr set 239.2.0.2 udp dport set 6000 fwd" in ruleset


def test_the_memory_of_rings_is_told_apart() -> None:
    lines = """\
7ff3c3279000-7ff3c5279000 rw-s 00000000 00:09 202949                     socket:[202949]
Size:              32768 kB
Rss:               32768 kB
7ff3c5279000-7ff3c5280000 rw-p 00000000 00:00 0
Size:                 28 kB
Rss:                  20 kB
""".splitlines()

    assert resident_kib(lines) == {"rings": 32768, "other": 20}


def test_a_chart_is_well_formed_and_shows_every_round() -> None:
    panel = Panel("relayed <kpps>", [Bar("mcr & co", 2.0, "2.0", [1.0, 2.0, 3.0]), Bar("none", 0.0, "0", [])])

    drawn = ET.fromstring(draw("title", [panel]))  # noqa: S314 - made here

    names = [element.tag.rpartition("}")[2] for element in drawn.iter()]
    assert names.count("circle") == 3

from typing import cast

import pytest

from mcr.cli import render
from mcr.wire.documents import RuleDocument, StatsDocument
from tests.support.documents import INTERFACE, PENDING, RULE, STATS, WORKER


def lines(*texts: str) -> str:
    return "\n".join(texts)


def test_rules_are_a_table_with_a_line_for_each_output() -> None:
    assert render.show_rules([RULE, PENDING]) == lines(
        "NAME      STATE    FROM                 TO                         WHY",
        "camera-1  active   239.1.1.1%eth0:5001  239.2.2.2%eth1:6000",
        "                                        192.0.2.7%eth2:6000,ttl=8  pending: no interface eth2",
        "b         pending  239.1.1.1%eth0:5001  239.2.2.2%eth1:6000        no interface eth9",
    )


def test_a_column_without_content_is_left_out() -> None:
    rule: RuleDocument = {**RULE, "outputs": RULE["outputs"][:1]}

    assert render.show_rules([rule]).splitlines()[0] == "NAME      STATE   FROM                 TO"


def test_a_rule_is_shown_with_all_its_facts() -> None:
    assert render.show_rule(RULE) == lines(
        "camera-1",
        "  id          b09e44333996",
        "  origin      control",
        "  state       active",
        "  workers     0 1",
        "  link-local  refused",
        "  from        239.1.1.1%eth0:5001",
        "  to          239.2.2.2%eth1:6000  ttl auto  dscp keep  source interface  path link  active",
        "  to          192.0.2.7%eth2:6000  ttl 8  dscp keep  source interface  path stack    "
        "pending: no interface eth2",
    )


def test_statistics_name_the_reasons_for_what_was_not_relayed() -> None:
    assert render.show_stats(STATS) == lines(
        "INTERFACE  RECEIVED  MATCHED  IGNORED               KERNEL-DROPPED",
        "eth0             12        5  7 (no_rule 5, tcp 2)               1",
        "",
        "RULE      STATE   MATCHED  TO                   SENT  BYTES  NOT SENT",
        "camera-1  active        5  239.2.2.2%eth1:6000     5   5000  0",
        "                           192.0.2.7:6000          2   2000  3 (netunreach 3)",
    )


def test_statistics_say_that_fragments_got_lost() -> None:
    stats: StatsDocument = {**STATS, "reassembly_failed": 2}

    assert render.show_stats(STATS).endswith("3 (netunreach 3)")
    assert render.show_stats(stats).splitlines()[-2:] == [
        "",
        "fragments got lost: 2 reassemblies failed on this host",
    ]


def test_statistics_that_were_read_in_passing_say_so() -> None:
    stats: StatsDocument = {**STATS, "consistent": False}

    assert render.show_stats(stats).endswith("read while packets were under way: sums may differ by those")


def test_workers_are_a_table_in_which_digests_stay_as_they_are() -> None:
    assert render.show_workers([WORKER]).splitlines()[1].split() == [
        *["0", "812", "3", "ready", "1h2m", "0", "2", "12345678901234e5", "-", "30", "MiB", "4.0", "MiB"]
    ]


def test_interfaces_are_a_table_that_says_why() -> None:
    assert "hash" in render.show_interfaces([INTERFACE])
    assert render.show_interfaces([INTERFACE]).endswith(INTERFACE["reason"])


@pytest.mark.parametrize("show", [render.show_rules, render.show_workers, render.show_interfaces])
def test_nothing_is_said_in_words(show: object) -> None:
    assert callable(show)
    assert show([]).startswith("no ")


def test_usual_tables_fit_100_columns() -> None:
    texts = [
        render.show_rules([RULE, PENDING]),
        render.show_stats(STATS),
        render.show_workers([{**WORKER, "installed_digest": WORKER["expected_digest"]}]),
    ]

    assert max(len(line) for text in texts for line in text.splitlines()) <= 100


def test_what_would_steer_the_terminal_is_replaced() -> None:
    rule = cast("RuleDocument", {**RULE, "name": "x\x1b[31m", "state": "pending", "reason": "no \x07"})

    for text in (render.show_rules([rule]), render.show_rule(rule), render.show_added(rule)):
        assert "\x1b" not in text
        assert "\x07" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (60, "1m"), (200, "3m20s"), (18000, "5h"), (187200, "2d4h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 << 20, "3.0 MiB"),
        (32 << 20, "32 MiB"),
        (10_188, "9.9 KiB"),
        (10_239, "10 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1023 << 30, "1023 GiB"),
        (1 << 42, "4096 GiB"),
        (5 << 30, "5.0 GiB"),
        (None, None),
    ],
)
def test_sizes_have_binary_units(count: int | None, text: str | None) -> None:
    assert render.size(count) == text

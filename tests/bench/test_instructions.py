"""How counts of callgrind are read and judged, without counting."""

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.bench.callgrind import Place, Profile, parse, statements
from tests.bench.instructions import (
    BATCHES,
    FRAMES,
    PLAIN,
    SIZES,
    SOURCES,
    TARGETS,
    VARIANTS,
    Target,
    all_met,
    document_of,
    is_met,
    page,
    parts_of,
    per_byte,
    percent,
    percent_of_worker,
)

COUNT_BATCH = SOURCES.parent / "tests" / "count_batch.c"
PROFILE = """\
# callgrind format
positions: line
events: Ir
summary: 100

fl=native/src/latency.c
fn=mcr_stamps__measure
430 20
cfn=mcr_relay__latency_bucket
calls=4 411
434 16

fn=mcr_relay__latency_bucket
411 16

ob=count_batch
fl=native/tests/../src/relay.c
fn=relay_batch
443 30
fi=native/src/trace.h
29 10
fe=native/tests/../src/relay.c
444 24
cob=count_batch
cfn=mcr_stamps__measure
calls=2 422
445 36
"""


def test_instructions_belong_to_the_function_and_the_line_that_they_are_of() -> None:
    profile = parse(PROFILE.splitlines())

    assert profile.total == 100
    assert profile.own_by_function() == {
        "mcr_stamps__measure": 20,
        "mcr_relay__latency_bucket": 16,
        "relay_batch": 64,
    }
    assert profile.own[Place("relay_batch", "trace.h", 29)] == 10
    assert profile.own[Place("relay_batch", "relay.c", 444)] == 24


def test_what_a_function_calls_is_part_of_it() -> None:
    profile = parse(PROFILE.splitlines())

    assert profile.function("mcr_stamps__measure") == 36
    assert profile.function("relay_batch") == 100
    with pytest.raises(LookupError):
        profile.function("inlined")


def test_lines_are_counted_by_their_file() -> None:
    profile = parse(PROFILE.splitlines())

    assert profile.lines("relay.c", {430, 443, 444}) == 54
    assert profile.lines("latency.c", {430}) == 20
    assert profile.lines("table.c", {430, 444}) == 0


@pytest.mark.parametrize("broken", [PROFILE.replace("443 30", "443 31"), PROFILE.replace("summary", "total")])
def test_a_profile_with_another_sum_is_refused(broken: str) -> None:
    with pytest.raises(ValueError, match="expected the sum"):
        parse(broken.splitlines())


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("a;\nstamp = 1;\nb;", {2}),
        ("stamp = {\n.a = 1 };\nb;", {1}),
        ("stamp = f(a,\n\tb,\n\tc); /* why; */\nd;", {1, 2, 3}),
        ("if (stamp)\n\tf();\ng();", {1, 2}),
        ("none", set()),
    ],
)
def test_a_statement_goes_on_to_its_end(source: str, numbers: set[int]) -> None:
    assert statements(source, "stamp") == numbers


def test_the_program_has_the_variants_and_no_others() -> None:
    names = re.findall(r'^\t\{ "([a-z0-9-]+)"', COUNT_BATCH.read_text("utf-8"), re.MULTILINE)

    assert names == [one.name for one in VARIANTS]
    assert {one.against for one in VARIANTS} <= set(names)


def document(**instructions: int) -> dict[str, Any]:
    """Give one where variants take that many instructions per packet, all others 100."""
    plain = parse(PROFILE.splitlines())
    of_size = {
        one.name: replace(plain, total=BATCHES * FRAMES * instructions.get(one.name.replace("-", "_"), 100))
        for one in VARIANTS
    }
    return document_of(dict.fromkeys(SIZES, of_size), {"gcc": "12"}, {"counted_ns": 40, "relay_ns": 40})


def test_a_difference_is_beside_the_variant_that_differs_in_one_thing() -> None:
    size = document(range=103, flows_100=200, flows_1000=210)["sizes"][0]

    assert percent(size, PLAIN) == 0
    assert percent(size, "range") == pytest.approx(3)
    assert percent(size, "flows-100") == pytest.approx(100)
    assert percent(size, "flows-1000") == pytest.approx(5)


def test_a_part_is_a_share_of_the_plain_variant() -> None:
    size = document(plain=200)["sizes"][0]
    size["parts"]["latency"] = 50.0

    assert percent(size, "latency") == pytest.approx(25)


def test_targets_are_about_the_whole_time_of_a_worker() -> None:
    counted = {**document(range=110), "counted_ns": 40, "relay_ns": 400}

    assert percent_of_worker(counted, counted["sizes"][0], "range") == pytest.approx(1)
    assert is_met(counted, Target("range", "", 1.01))
    assert not is_met(counted, Target("range", "", 0.99))


def test_one_size_that_misses_a_target_misses_it() -> None:
    counted = document()
    target = Target("range", "a range", 2.0)
    assert is_met(counted, target)

    range_ = next(one for one in counted["sizes"][1]["variants"] if one["name"] == "range")
    range_["instructions"] *= 1.1

    assert not is_met(counted, target)


def test_a_checksum_that_takes_word_by_word_misses_its_target() -> None:
    counted = document(checksum=200)
    assert per_byte(counted, "checksum") == 0
    assert all_met(counted)

    checksum = next(one for one in counted["sizes"][0]["variants"] if one["name"] == "checksum")
    checksum["instructions"] += 0.6 * (SIZES[0] - SIZES[1])

    assert per_byte(counted, "checksum") == pytest.approx(0.6)
    assert not all_met(counted)


def test_the_sources_have_the_lines_that_parts_are_counted_by() -> None:
    relay = (SOURCES / "relay.c").read_text("utf-8")
    stamp = min(statements(relay, r"mcr_stamps__note\("))
    own = {Place("relay_batch", "relay.c", stamp): 3, Place("relay_batch", "trace.h", 29): 2}
    profile = Profile(10, own, {"mcr_stamps__measure": 4})

    assert parts_of(profile, 1) == {"latency": 7, "trace": 2}


def test_the_page_shows_every_variant_and_target() -> None:
    shown = page(document(range=200))

    assert all(f"| {one.name} " in shown for one in VARIANTS)
    assert all(target.meaning in shown for target in TARGETS)
    assert PLAIN in shown
    assert "MISSED" in shown

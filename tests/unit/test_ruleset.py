import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import RuleError
from mcr.model.endpoint import parse_endpoint
from mcr.model.rule import Output, Rule
from mcr.model.ruleset import MAX_OUTPUTS, MAX_RULES, Ruleset, problems, ruleset


def rule(name: str, place: str, *outputs: str) -> Rule:
    return Rule(
        parse_endpoint(place),
        tuple(Output(parse_endpoint(output)) for output in outputs or ("192.0.2.1:1",)),
        name,
    )


def found(*rules: Rule) -> list[tuple[str, str]]:
    return [(problem.rule.name, problem.error.code) for problem in problems(rules)]


A = "239.1.1.1%eth0:5001"
B = "239.1.1.2%eth0:5001"


def test_rules_for_different_inputs_have_no_problems() -> None:
    assert (
        found(rule("a", A), rule("b", B), rule("c", "239.1.1.1%eth1:5001"), rule("d", "239.1.1.1%eth0:5002"))
        == []
    )


def test_the_same_input_twice_is_a_problem_of_the_later_rule() -> None:
    (problem,) = problems([rule("a", A), rule("b", A)])

    assert problem.rule.name == "b"
    assert problem.error.code == "duplicate_input"
    assert str(problem.error) == f"got input {A}, expected another one than that of rule 'a': {A}"


def test_the_same_input_twice_without_names_is_one_problem() -> None:
    assert [code for _, code in found(rule("", A), rule("", A))] == ["duplicate_input"]


def test_the_same_name_twice_is_a_problem() -> None:
    (problem,) = problems([rule("a", A), rule("a", B)])

    assert problem.error.code == "duplicate_name"
    assert str(problem.error) == f"got name 'a', expected another one than that of the rule for {A}"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("10.0.0.1@232.1.1.1%eth0:1", "10.0.0.2@232.1.1.1%eth0:1", []),
        ("10.0.0.1@232.1.1.1%eth0:1", "232.1.1.1%eth0:1", []),  # the most specific rule gets the packet
        (
            "10.0.0.1,10.0.0.2@232.1.1.1%eth0:1",
            "10.0.0.2,10.0.0.3@232.1.1.1%eth0:1",
            [("b", "duplicate_input")],
        ),
        ("10.0.0.1@232.1.1.1%eth0:1", "10.0.0.1@232.1.1.1%eth0:2", []),
    ],
)
def test_no_source_may_be_meant_by_two_rules(one: str, other: str, expected: list[tuple[str, str]]) -> None:
    assert found(rule("a", one), rule("b", other)) == expected
    assert found(rule("x", other), rule("b", one)) == expected


def test_an_output_that_is_its_own_input_is_a_ring() -> None:
    (problem,) = problems([rule("a", A, B, A)])

    assert problem.error.code == "ring"
    assert str(problem.error) == "got outputs that feed their own input, expected no ring: 'a' -> 'a'"


def test_a_ring_through_other_rules_is_drawn_the_way_packets_run() -> None:
    c = "239.1.1.3%eth1:5001"

    (problem,) = problems([rule("a", A, B), rule("b", B, c), rule("c", c, A)])

    assert problem.rule.name == "c"
    drawn = str(problem.error).partition(": ")[2].replace("'", "").split(" -> ")
    assert drawn[0] == drawn[-1]
    assert set(itertools.pairwise(drawn)) == {("a", "b"), ("b", "c"), ("c", "a")}


def test_sources_do_not_hide_a_ring() -> None:
    assert found(rule("a", "10.0.0.1@" + A, A)) == [("a", "ring")]


def test_every_ring_is_found() -> None:
    assert sorted(found(rule("a", A, A), rule("b", B, B), rule("c", "239.1.1.3%eth0:1", A))) == [
        ("a", "ring"),
        ("b", "ring"),
    ]


PLACES = [f"239.0.{position}.1%eth{position}:{5000 + position}" for position in range(8)]


@given(st.integers(1, 8), st.data())
def test_a_chain_has_no_problem_and_an_edge_back_makes_exactly_one_ring(
    length: int, data: st.DataObject
) -> None:
    ends = [*PLACES[1:length], "192.0.2.1:1"]
    chain = [rule(f"r{position}", PLACES[position], ends[position]) for position in range(length)]
    order = data.draw(st.permutations(range(length)))
    assert problems([chain[position] for position in order]) == []

    begin = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(begin, length - 1))
    outputs = {ends[end], PLACES[begin]}
    chain[end] = rule(f"r{end}", PLACES[end], *outputs)
    (problem,) = problems([chain[position] for position in order])

    assert problem.error.code == "ring"
    drawn = str(problem.error).partition("ring: ")[2].replace("'", "").split(" -> ")
    assert set(drawn) == {f"r{position}" for position in range(begin, end + 1)}
    assert len(drawn) == end - begin + 2


def test_too_many_rules_are_a_problem() -> None:
    rules = [
        rule("", f"239.{position >> 16}.{position >> 8 & 255}.{position & 255}%eth0:1")
        for position in range(MAX_RULES + 1)
    ]

    (problem,) = problems(rules)

    assert problem.error.code == "too_many_rules"
    assert (
        str(problem.error)
        == f"got 8193 rules with 8193 outputs, expected at most {MAX_RULES} and {MAX_OUTPUTS}"
    )


def test_a_rule_is_found_by_name_and_by_id() -> None:
    one = rule("a", A)
    rules = ruleset([one, rule("b", B)])

    assert rules.find("a") is one
    assert rules.find(one.id) is one


def test_a_rule_that_is_not_there_is_refused() -> None:
    with pytest.raises(RuleError, match="got 'x', expected the name or id of one of 1 rules") as error:
        ruleset([rule("a", A)]).find("x")

    assert error.value.code == "no_such_rule"


def test_rules_come_and_go() -> None:
    one, other = rule("a", A), rule("b", B)

    rules = Ruleset().with_rule(one).with_rule(other)

    assert list(rules) == [one, other]
    assert list(rules.without(one.id)) == [other]
    assert len(rules.without(one.id).without(other.id)) == 0


@pytest.mark.parametrize(
    ("candidate", "code"),
    [(rule("x", A), "duplicate_input"), (rule("a", B), "duplicate_name"), (rule("x", B, A), "ring")],
)
def test_a_rule_in_conflict_is_not_taken_up(candidate: Rule, code: str) -> None:
    rules = ruleset([rule("a", A, B)])

    with pytest.raises(RuleError) as error:
        rules.with_rule(candidate)

    assert error.value.code == code
    assert len(rules) == 1

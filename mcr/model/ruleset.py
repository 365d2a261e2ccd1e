"""The rules that are in force together, and what keeps some from being so."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_network

from mcr.errors import RuleError
from mcr.model.endpoint import Address
from mcr.model.reach import Reach, Reaches, reach_of, reach_of_output
from mcr.model.rule import Rule, RuleId

MAX_RULES = 8192
MAX_OUTPUTS = 32768
MAX_RINGS = 20  # reported at once: finding one takes a walk over all rules


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One reason why rules cannot be in force together.

    Attributes:
        rule: the later one of the rules concerned.
        error: what is wrong, with the stable code.
    """

    rule: Rule
    error: RuleError


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Rules by id; building one does not check it, `problems` does."""

    rules: Mapping[RuleId, Rule] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules.values())

    def __len__(self) -> int:
        return len(self.rules)

    def with_rule(self, rule: Rule) -> "Ruleset":
        """
        Give the rules and *rule*.

        Raises:
            RuleError: *rule* cannot be in force together with them.
        """
        candidate = Ruleset({**self.rules, rule.id: rule})
        for problem in problems([*self, rule]):
            raise problem.error
        return candidate

    def without(self, rule_id: RuleId) -> "Ruleset":
        """Give the rules but *rule_id*."""
        return Ruleset({key: rule for key, rule in self.rules.items() if key != rule_id})

    def find(self, key: str) -> Rule:
        """
        Look a rule up by its id or name.

        Raises:
            RuleError: there is none.
        """
        found = self.rules.get(RuleId(key)) or next((rule for rule in self if rule.name == key), None)
        if found is None:
            raise RuleError(
                "no_such_rule", f"got {key!r}, expected the name or id of one of {len(self)} rules"
            )
        return found


def ruleset(rules: Iterable[Rule]) -> Ruleset:
    """Collect rules that were found to have no problems."""
    return Ruleset({rule.id: rule for rule in rules})


def problems(rules: Iterable[Rule]) -> list[Problem]:
    """List everything that keeps *rules* from being in force together, in their order."""
    ordered = list(rules)
    return [*_too_many(ordered), *_same_names(ordered), *_same_inputs(ordered), *_rings(ordered)]


def _too_many(rules: list[Rule]) -> Iterator[Problem]:
    outputs = sum(len(rule.outputs) for rule in rules)
    if len(rules) > MAX_RULES or outputs > MAX_OUTPUTS:
        message = (
            f"got {len(rules)} rules with {outputs} outputs, expected at most {MAX_RULES} and {MAX_OUTPUTS}"
        )
        yield Problem(rules[-1], RuleError("too_many_rules", message))


def _same_names(rules: list[Rule]) -> Iterator[Problem]:
    first: dict[str, Rule] = {}
    for rule in rules:
        other = first.setdefault(rule.name, rule)
        if other is not rule and rule.name != rule.id:  # without names, their inputs are the same: said below
            message = f"got name {rule.name!r}, expected another one than that of the rule for {other.input}"
            yield Problem(rule, RuleError("duplicate_name", message))


def _same_inputs(rules: list[Rule]) -> Iterator[Problem]:
    """
    Two rules for the same groups and ports may differ in sources, but no source may be meant by both.

    Of ranges one must lie within the other, so that one of them is the more specific.
    """
    reaches = [reach_of(rule.input) for rule in rules]
    ranges = [position for position, rule in enumerate(rules) if rule.input.is_range]
    index = Reaches(reaches[position] for position in ranges)
    meant: dict[tuple[Reach, Address | None], list[int]] = {}
    for position, rule in enumerate(rules):
        own = reaches[position]
        same: set[int] = set()
        # A rule that only excludes sources means all others, as one for any source means all.
        for source in rule.input.sources or (None,):
            before = meant.setdefault((own, source), [])
            same.update(before)
            before.append(position)
        overlapping = [ranges[at] for at in index.overlapping(own)] if rule.input.is_range else []
        crossing = [at for at in overlapping if at < position and _crosses(own, reaches[at])]
        for at in [*sorted(same), *crossing]:
            taken = f"that of rule {rules[at].name!r}: {rules[at].input}"
            message = f"got input {rule.input}, expected another one than {taken}"
            yield Problem(rule, RuleError("duplicate_input", message))


def _crosses(one: Reach, other: Reach) -> bool:
    """Say of two ranges that overlap whether neither lies within the other."""
    return not one.is_within(other) and not other.is_within(one)


def _rings(rules: list[Rule]) -> Iterator[Problem]:
    """Find the rules whose outputs come back to them, directly or through other rules."""
    index = Reaches(reach_of(rule.input) for rule in rules)
    fed: dict[int, Sequence[int]] = {}
    for position, rule in enumerate(rules):
        given = rule.input
        groups = ip_network((given.address, given.prefix_length))
        ports = (given.port, given.last_port)
        reaches = {reach_of_output(output.to, groups, ports) for output in rule.outputs}
        fed[position] = sorted({at for reach in reaches for at in index.overlapping(reach)})
    for _ in range(MAX_RINGS):
        ring = _ring(fed)
        if not ring:
            return
        names = " -> ".join(repr(rules[position].name) for position in ring)
        message = f"got outputs that feed their own input, expected no ring: {names}"
        last = max(ring)
        yield Problem(rules[last], RuleError("ring", message))
        fed[last] = ()


def _ring(fed: Mapping[int, Sequence[int]]) -> list[int]:
    """Give one ring in the order in which packets would run through it, its first member again at its end."""
    try:
        TopologicalSorter(fed).prepare()
    except CycleError as error:
        # graphlib draws its arrows from a node to what it depends on, so its ring runs against the packets.
        return list(reversed(error.args[1]))
    return []

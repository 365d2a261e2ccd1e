"""The rules that are in force together, and what keeps some from being so."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_network

from mcr.errors import RuleError
from mcr.model.endpoint import Endpoint
from mcr.model.mapping import Network
from mcr.model.rule import Output, Rule, RuleId

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
    inputs: dict[tuple[object, ...], list[Rule]] = {}
    ranges: dict[str, list[Rule]] = {}
    for rule in rules:
        same = inputs.setdefault(_key(rule), [])
        across = ranges.setdefault(rule.interface, []) if rule.input.is_range else []
        for other in [one for one in same if _share_a_source(rule.input, one.input)] + [
            one for one in across if _crosses(rule.input, one.input)
        ]:
            taken = f"that of rule {other.name!r}: {other.input}"
            message = f"got input {rule.input}, expected another one than {taken}"
            yield Problem(rule, RuleError("duplicate_input", message))
        same.append(rule)
        across.append(rule)


def _key(rule: Rule) -> tuple[object, ...]:
    given = rule.input
    return rule.interface, given.address, given.prefix_length, given.port, given.last_port


def _share_a_source(one: Endpoint, other: Endpoint) -> bool:
    """A rule that only excludes sources means all others, as one for any source means all."""
    if not one.sources or not other.sources:
        return not one.sources and not other.sources
    return not set(one.sources).isdisjoint(other.sources)


def _crosses(one: Endpoint, other: Endpoint) -> bool:
    """Say whether two ranges overlap and neither lies within the other."""
    return (
        _groups(one).overlaps(_groups(other))
        and one.port <= other.last_port
        and other.port <= one.last_port
        and not _within(one, other)
        and not _within(other, one)
    )


def _within(inner: Endpoint, outer: Endpoint) -> bool:
    return (
        inner.prefix_length >= outer.prefix_length
        and outer.port <= inner.port
        and inner.last_port <= outer.last_port
    )


def _groups(endpoint: Endpoint) -> Network:
    return ip_network((endpoint.address, endpoint.prefix_length))


def _feeds(output: Output, rule: Rule, other: Rule) -> bool:
    """Say whether something that leaves by *output* of *rule* would be taken in by *other*."""
    to = output.to
    if to.interface != other.interface or output.version(rule.input) != other.input.address.version:
        return False
    if isinstance(to, Endpoint):
        groups, (first, last) = _groups(to), (to.port, to.port)
    else:
        groups, (first, last) = to.image(_groups(rule.input)), to.ports(rule.input.port, rule.input.last_port)
    return (
        groups.overlaps(_groups(other.input)) and first <= other.input.last_port and other.input.port <= last
    )


def _rings(rules: list[Rule]) -> Iterator[Problem]:
    """
    Find the rules whose outputs come back to them, directly or through other rules.

    Single groups and ports are matched by look-up, so that many rules cost little; ranges one by one.
    """
    single: dict[tuple[object, ...], set[int]] = {}
    for position, rule in enumerate(rules):
        single.setdefault((rule.interface, rule.input.address, rule.input.port), set()).add(position)
    several = [position for position, rule in enumerate(rules) if rule.input.is_range]
    fed: dict[int, set[int]] = {}
    for position, rule in enumerate(rules):
        fed[position] = set()
        for output in rule.outputs:
            fixed = isinstance(output.to, Endpoint)
            if isinstance(output.to, Endpoint):
                fed[position] |= single.get((output.to.interface, output.to.address, output.to.port), set())
            others = several if fixed else range(len(rules))
            fed[position] |= {other for other in others if _feeds(output, rule, rules[other])}
    for _ in range(MAX_RINGS):
        ring = _ring(fed)
        if not ring:
            return
        names = " -> ".join(repr(rules[position].name) for position in ring)
        message = f"got outputs that feed their own input, expected no ring: {names}"
        last = max(ring)
        yield Problem(rules[last], RuleError("ring", message))
        fed[last] = set()


def _ring(fed: Mapping[int, set[int]]) -> list[int]:
    """Give one ring in the order in which packets would run through it, its first member again at its end."""
    try:
        TopologicalSorter(fed).prepare()
    except CycleError as error:
        # graphlib draws its arrows from a node to what it depends on, so its ring runs against the packets.
        return list(reversed(error.args[1]))
    return []

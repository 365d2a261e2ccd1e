"""From what a configuration file says to what it means."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from mcr.config.problems import explain
from mcr.config.schema import (
    MAX_BATCH,
    File,
    RuleEntry,
    read_input,
    read_output,
    without_subject,
)
from mcr.errors import RuleError
from mcr.model.rule import Origin, Rule
from mcr.model.ruleset import Ruleset, problems, ruleset
from mcr.model.steering import Steering


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    What the daemon shall do.

    Attributes:
        workers: how many; None for one on each CPU that the daemon may use.
        steering: for interfaces of every kind.
        coalesce_us: how long a worker lets a batch gather once it sends 20,000 datagrams/s; 0 for not at all,
            None for what waiting costs there.
        watch_unmatched: keep a table of UDP multicast that matches no rule.
        bypass_stack: spare the host's IP stack what only mcr wants.
        busy_poll: workers never sleep.
        realtime: workers go before other programs on their CPUs, unless they never sleep.
        batch: packets of an interface that a worker sends together at most.
        ring_bytes: of one worker's ring on one interface; None for what fits the number of workers.
        rules: without problems, all of origin ``config``.
    """

    workers: int | None = None
    steering: Steering = Steering.AUTO
    coalesce_us: int | None = None
    busy_poll: bool = False
    realtime: bool = True
    batch: int = MAX_BATCH
    watch_unmatched: bool = True
    bypass_stack: bool = True
    ring_bytes: int | None = None
    rules: Ruleset = field(default_factory=Ruleset)


# The key of a rule that an error of the model is about.
_KEYS = {
    "link_local": "from",
    "duplicate_name": "name",
    "duplicate_input": "from",
    "ring": "to",
}


def compile_tree(tree: object) -> tuple[Configuration, list[str]]:
    """Give what *tree* means and every problem in it; with problems, the configuration is not to be used."""
    found: list[str] = []
    try:
        file = File.model_validate(tree)
    except ValidationError as error:
        found += explain(error)
        file = File()
    rules: list[tuple[int, Rule]] = []
    for position, entry in enumerate(_entries(tree)):
        for result in _compile_rule(position, entry):
            if isinstance(result, Rule):
                rules.append((position, result))
            else:
                found.append(result)
    found += _conflicts(rules)
    configuration = Configuration(
        workers=file.workers,
        steering=file.steering,
        coalesce_us=file.coalesce_us,
        busy_poll=file.busy_poll,
        realtime=file.realtime,
        batch=file.batch,
        watch_unmatched=file.watch_unmatched,
        bypass_stack=file.bypass_stack,
        ring_bytes=None if file.ring_mib is None else file.ring_mib << 20,
        rules=ruleset(rule for _, rule in rules),
    )
    return configuration, found


def _entries(tree: object) -> list[object]:
    """Give the rules as they stand in the file, even if something else in it is wrong."""
    entries = tree.get("rules") if isinstance(tree, dict) else None
    return entries if isinstance(entries, list) else []


def _compile_rule(position: int, entry: object) -> Iterator[Rule | str]:
    """Give the problems of one rule, then the rule unless its parts are bad."""
    try:
        parsed = RuleEntry.model_validate(entry)
    except ValidationError as error:
        yield from explain(error, ["rules", position])
        return
    places = parsed.to if isinstance(parsed.to, list) else [parsed.to]
    outputs = tuple(read_output(place) for place in places)
    draft = functools.partial(Rule, read_input(parsed.from_), outputs, parsed.name, Origin.CONFIG)
    try:
        yield draft(allow_link_local=parsed.allow_link_local)
    except RuleError as error:
        # All that two parts of a rule can still have against each other; the rule may have conflicts besides.
        yield _describe(position, error)
        with contextlib.suppress(RuleError):
            yield draft(allow_link_local=True)


def _conflicts(rules: Sequence[tuple[int, Rule]]) -> Iterator[str]:
    """Give what keeps rules, each of which is good, from being in force together."""
    positions = {id(rule): position for position, rule in rules}
    for problem in problems(rule for _, rule in rules):
        yield _describe(positions[id(problem.rule)], problem.error)


def _describe(position: int, error: RuleError) -> str:
    key = f".{_KEYS[error.code]}" if error.code in _KEYS else ""
    return f"rules[{position}]{key}: {without_subject(str(error))}"

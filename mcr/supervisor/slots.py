"""Who counts where: places in the shared counters, lowest first, so that what is in use stays dense."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from mcr.errors import Bug
from mcr.model.rule import Rule, RuleId
from mcr.model.ruleset import MAX_OUTPUTS, MAX_RULES


class SlotPool:
    """Gives the lowest free number below *size*."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[int] = []
        self._next = 0

    @property
    def used_up_to(self) -> int:
        """Give the number above the highest slot that was ever taken."""
        return self._next

    @property
    def free(self) -> int:
        """Count the slots that can be taken."""
        return len(self._free) + self._size - self._next

    @property
    def is_full(self) -> bool:
        """Say whether every slot is taken."""
        return not self.free

    def take(self) -> int:
        """
        Take a slot.

        Raises:
            Bug: more are taken than rules can have.
        """
        if self.is_full:
            raise Bug(f"all {self._size} slots are taken")
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def give_back(self, slot: int) -> None:
        """Let the slot be taken again."""
        heapq.heappush(self._free, slot)


@dataclass(frozen=True, slots=True)
class RuleSlots:
    """Where a rule and each of its outputs count."""

    rule: int
    outputs: Sequence[int]


class SlotBook:
    """
    Owns which rule has which slots.

    A removed rule keeps its slots until `release`: as long as a worker may still count there.
    """

    def __init__(self) -> None:
        self.rules = SlotPool(MAX_RULES)
        self.outputs = SlotPool(MAX_OUTPUTS)
        self._taken: dict[RuleId, RuleSlots] = {}
        self._leaving: list[RuleSlots] = []

    def __getitem__(self, rule_id: RuleId) -> RuleSlots:
        return self._taken[rule_id]

    def has_room(self, rule: Rule) -> bool:
        """Say whether `take` will do."""
        return self.rules.free >= 1 and self.outputs.free >= len(rule.outputs)

    def take(self, rule: Rule) -> RuleSlots:
        """Give a new rule its slots."""
        slots = RuleSlots(self.rules.take(), tuple(self.outputs.take() for _ in rule.outputs))
        self._taken[rule.id] = slots
        return slots

    def leave(self, rule_id: RuleId) -> None:
        """Remember that a rule is gone."""
        self._leaving.append(self._taken.pop(rule_id))

    def release(self) -> None:
        """Let the slots of rules that are gone be taken again: no worker has them in its table any more."""
        for slots in self._leaving:
            self.rules.give_back(slots.rule)
            for output in slots.outputs:
                self.outputs.give_back(output)
        self._leaving.clear()

    @property
    def leaving(self) -> bool:
        """Say whether there is anything to release."""
        return bool(self._leaving)

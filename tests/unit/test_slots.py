"""Slots: whatever rules come and go, no two of them count in one place."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from hypothesis.stateful import rule as step

from mcr.errors import Bug
from mcr.model.rule import Rule, RuleId
from mcr.model.ruleset import MAX_OUTPUTS, MAX_RULES
from mcr.supervisor.slots import RuleSlots, SlotBook, SlotPool
from tests.support.rules import rule

OUTPUTS = ("239.2.2.1%out:6000", "239.2.2.2%out:6000", "239.2.2.3%out:6000")
RULES = [rule(f"239.1.1.{number}%in:5001", *OUTPUTS[: 1 + number % 3]) for number in range(8)]


class Book(RuleBasedStateMachine):
    """A book of slots, and beside it a plain account of who counts where."""

    def __init__(self) -> None:
        super().__init__()
        self.book = SlotBook()
        self.taken: dict[RuleId, RuleSlots] = {}
        self.leaving: list[RuleSlots] = []
        self.most_rules = self.most_outputs = 0

    @step(one=st.sampled_from(RULES))
    def add(self, one: Rule) -> None:
        if one.id not in self.taken:
            self.taken[one.id] = self.book.take(one)
            assert len(self.taken[one.id].outputs) == len(one.outputs)

    @step(one=st.sampled_from(RULES))
    def remove(self, one: Rule) -> None:
        if one.id in self.taken:
            self.book.leave(one.id)
            self.leaving.append(self.taken.pop(one.id))

    @step()
    def release(self) -> None:
        self.book.release()
        self.leaving.clear()

    @property
    def counting(self) -> list[RuleSlots]:
        return [*self.taken.values(), *self.leaving]

    @invariant()
    def no_two_count_in_one_place(self) -> None:
        rules = [slots.rule for slots in self.counting]
        outputs = [output for slots in self.counting for output in slots.outputs]

        assert len(set(rules)) == len(rules)
        assert len(set(outputs)) == len(outputs)

    @invariant()
    def a_rule_keeps_its_slots(self) -> None:
        assert {rule_id: self.book[rule_id] for rule_id in self.taken} == self.taken

    @invariant()
    def slots_in_use_are_the_lowest(self) -> None:
        """What is copied for every report is as long as the highest slot that was ever in use."""
        rules = [slots.rule for slots in self.counting]
        outputs = [output for slots in self.counting for output in slots.outputs]
        self.most_rules = max(self.most_rules, len(rules))
        self.most_outputs = max(self.most_outputs, len(outputs))

        assert self.book.rules.used_up_to == self.most_rules
        assert self.book.outputs.used_up_to == self.most_outputs
        assert all(rule < self.most_rules for rule in rules)
        assert all(output < self.most_outputs for output in outputs)

    @invariant()
    def it_is_known_whether_anything_leaves(self) -> None:
        assert self.book.leaving == bool(self.leaving)


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=100, deadline=None)


def test_the_lowest_free_slot_is_taken_first() -> None:
    pool = SlotPool(4)
    taken = [pool.take() for _ in range(4)]
    for slot in (3, 1, 2):
        pool.give_back(slot)

    assert taken == [0, 1, 2, 3]
    assert [pool.take(), pool.take(), pool.take()] == [1, 2, 3]
    assert pool.used_up_to == 4


def test_more_slots_than_there_are_is_a_bug() -> None:
    pool = SlotPool(1)
    pool.take()

    with pytest.raises(Bug, match="all 1 slots are taken"):
        pool.take()


def test_a_removed_rule_has_no_slots() -> None:
    book = SlotBook()
    book.take(RULES[0])
    book.leave(RULES[0].id)

    with pytest.raises(KeyError):
        book[RULES[0].id]


def test_there_is_room_for_as_many_rules_and_outputs_as_may_be_in_force() -> None:
    book = SlotBook()
    outputs = [f"192.0.2.1:{port}" for port in range(1, MAX_OUTPUTS // MAX_RULES + 1)]
    for number in range(MAX_RULES):
        book.take(rule(f"239.1.{number >> 8}.{number & 255}%in:5001", *outputs))

    assert (book.rules.used_up_to, book.outputs.used_up_to) == (MAX_RULES, MAX_OUTPUTS)

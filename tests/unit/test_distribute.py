import random
from collections import Counter
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.model.share import PlacedRule, Share
from mcr.model.steering import Steering, rule_hash
from mcr.supervisor.distribute import distribute, holders
from tests.support.rules import placed, rule, shares

WORKERS = st.integers(1, 64)
STEERINGS = st.fixed_dictionaries(
    {f"in{number}": st.sampled_from([Steering.CPU, Steering.HASH]) for number in range(4)}
)
EVERYWHERE = {"in": Steering.CPU}
BY_HASH = {"in": Steering.HASH}
OPEN = {9: 1, 2: 0}
READ = ((2, 0), (9, 1))


@given(shares(), WORKERS, STEERINGS)
def test_every_rule_is_where_the_kernel_sends_its_packets(
    rules: Share, workers: int, steering: dict[str, Steering]
) -> None:
    given_out = distribute(rules.rules, workers, steering, OPEN)

    assert len(given_out) == workers
    for one in rules.rules:
        holding = {number for number, share in enumerate(given_out) if one in share.rules}
        if steering[one.rule.interface] is Steering.CPU:
            assert holding == set(range(workers))
        else:
            assert holding == {rule_hash(one.rule.input.address, one.rule.input.port) % workers}


@given(shares(), WORKERS, STEERINGS)
def test_no_share_has_anything_else_or_twice(
    rules: Share, workers: int, steering: dict[str, Steering]
) -> None:
    for share in distribute(rules.rules, workers, steering, OPEN):
        assert len(set(share.rules)) == len(share.rules)
        assert set(share.rules) <= set(rules.rules)


@given(shares(), shares(), WORKERS, STEERINGS)
def test_other_rules_do_not_move_a_rule(
    rules: Share, others: Share, workers: int, steering: dict[str, Steering]
) -> None:
    """What is added or removed elsewhere costs a rule nothing."""
    together = distribute([*rules.rules, *others.rules], workers, steering, OPEN)
    alone = distribute(rules.rules, workers, steering, OPEN)

    assert all(set(share.rules) <= set(more.rules) for share, more in zip(alone, together, strict=True))


@given(shares(), WORKERS, STEERINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_rules_does_not_matter(
    rules: Share, workers: int, steering: dict[str, Steering], order: random.Random
) -> None:
    shuffled = list(rules.rules)
    order.shuffle(shuffled)
    one, other = (distribute(some, workers, steering, OPEN) for some in (rules.rules, shuffled))

    assert [set(share.rules) for share in one] == [set(share.rules) for share in other]


@pytest.mark.parametrize("steering", [EVERYWHERE, BY_HASH])
def test_worker_without_rules_gets_an_empty_share(steering: dict[str, Steering]) -> None:
    assert distribute([], 3, steering, OPEN) == [Share((), READ)] * 3


def test_rules_of_one_group_live_in_one_worker_whatever_their_sources() -> None:
    """The kernel's program sees group and port; look-up sees the sources."""
    rules = [placed(rule(f"{source}239.1.1.1%in:5001")) for source in ("10.0.0.1@", "10.0.0.2@", "")]
    shares_given = distribute(rules, 4, BY_HASH, OPEN)

    assert sorted(len(share.rules) for share in shares_given) == [0, 0, 0, 3]


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_random_rules_are_shared_fairly(seed: int, workers: int) -> None:
    generator = random.Random(seed)
    groups = generator.sample(range(0xE0000100, 0xF0000000), 1000)
    rules: list[PlacedRule] = [
        placed(rule(f"{IPv4Address(group)}%in:{generator.randint(1, 65535)}")) for group in groups
    ]
    counts = Counter(number for one in rules for number in holders(one, workers, Steering.HASH))

    assert sum(counts.values()) == 1000
    assert max(counts.values()) <= 1.25 * 1000 / workers

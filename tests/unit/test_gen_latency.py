import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import lib
from mcr.gen.latency import latency_us, percentile_ns

U64_MAX = 2**64 - 1
NANOSECONDS = st.one_of(st.integers(0, 10**4), st.integers(0, 10**10), st.integers(0, U64_MAX))


def histogram(values: Sequence[int]) -> list[int]:
    buckets = [0] * lib.MCR_LATENCY_BUCKETS
    for value in values:
        buckets[lib.mcr_latency__bucket(value)] += 1
    return buckets


def test_buckets_are_seamless() -> None:
    bounds = [lib.mcr_latency__lower_bound(bucket) for bucket in range(lib.MCR_LATENCY_BUCKETS)]

    assert bounds[0] == 0
    assert all(low < high for low, high in pairwise(bounds))
    assert all(lib.mcr_latency__bucket(bound) == bucket for bucket, bound in enumerate(bounds))
    assert all(lib.mcr_latency__bucket(bound - 1) == bucket for bucket, bound in enumerate(bounds[1:]))


def test_the_last_bucket_holds_the_largest_value() -> None:
    assert lib.mcr_latency__bucket(U64_MAX) == lib.MCR_LATENCY_BUCKETS - 1


@given(NANOSECONDS)
def test_a_value_lies_within_its_bucket(value: int) -> None:
    bucket = lib.mcr_latency__bucket(value)

    assert lib.mcr_latency__lower_bound(bucket) <= value <= lib.mcr_latency__lower_bound(bucket + 1)


@given(st.lists(NANOSECONDS, min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_percentiles_are_off_by_less_than_two_percent(values: list[int], share: float) -> None:
    exact = sorted(values)[math.ceil(share * len(values)) - 1]

    estimate = percentile_ns(histogram(values), share)

    assert estimate is not None
    assert abs(estimate - exact) <= 0.02 * exact


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert percentile_ns(histogram([]), 0.5) is None
    assert latency_us(histogram([]), 0).max is None


def test_percentiles_never_exceed_the_exact_maximum() -> None:
    latency = latency_us(histogram([10_000_001]), 10_000_001)

    assert latency.p50 == pytest.approx(10_000.001)
    assert latency.max == pytest.approx(10_000.001)


def test_percentiles_tell_the_slow_ones_apart() -> None:
    latency = latency_us(histogram([1000] * 985 + [50_000] * 13 + [9_000_000] * 2), 9_000_000)

    assert latency.p50 == pytest.approx(1, rel=0.02)
    assert latency.p99 == pytest.approx(50, rel=0.02)
    assert latency.p999 == pytest.approx(9000, rel=0.02)

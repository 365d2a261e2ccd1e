import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import UsageError
from mcr.gen.quantity import FULL_SPEED, parse_count, parse_loss, parse_rate, parse_seconds

FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}


@pytest.mark.parametrize(
    ("text", "rate_pps"),
    [("1", 1), ("500", 500), ("10k", 10_000), ("1.5M", 1_500_000), ("0.5", 0.5), ("max", FULL_SPEED)],
)
def test_rates_are_read_as_people_type_them(text: str, rate_pps: float) -> None:
    assert parse_rate(text) == rate_pps


@given(st.integers(1, 10**6), st.sampled_from(sorted(FACTORS)))
def test_a_suffix_multiplies(number: int, suffix: str) -> None:
    assert parse_rate(f"{number}{suffix}") == number * FACTORS[suffix]
    assert parse_count(f"{number}{suffix}") == number * FACTORS[suffix]


@given(st.integers(1, 10**6), st.integers(0, 999))
def test_thousandths_of_a_kilo_are_exact(whole: int, thousandths: int) -> None:
    assert parse_count(f"{whole}.{thousandths:03}k") == whole * 1000 + thousandths


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "k", "1kk", "1 k", "1e3", "inf", "nan", "1_000", "MAX", "0.0", "1.", ".5", "٣"]
)
def test_other_rates_are_refused_with_what_came_and_what_was_expected(text: str) -> None:
    with pytest.raises(UsageError, match=r"^got rate .*, expected a positive number") as refusal:
        parse_rate(text)

    assert repr(text) in str(refusal.value)


@given(st.text(max_size=12))
def test_any_text_is_a_positive_rate_or_refused(text: str) -> None:
    try:
        rate_pps = parse_rate(text)
    except UsageError:
        return

    assert rate_pps > 0 or text == "max"


@pytest.mark.parametrize("text", ["1.5", "0", "1.0005k", "max", "10**3", "9999999999999999"])
def test_a_count_is_whole_and_positive(text: str) -> None:
    with pytest.raises(UsageError, match="got count"):
        parse_count(text)


def test_no_loss_can_be_demanded() -> None:
    assert parse_loss("0") == 0
    assert parse_loss("2k") == 2000


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("0.5", 0.5), ("3s", 3)])
def test_times_are_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1m", "s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="got time"):
        parse_seconds(text)

"""Datagrams made by hand, fed to the C accounts one by one."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr._native import ffi, lib

HEADER_BYTES = lib.MCR_GENERATED_HEADER_BYTES
WINDOW = lib.MCR_MEASURE_WINDOW
SENT_NS = 1_000_000_000


class Accounts:
    """The C accounts of *flows* destinations."""

    def __init__(self, flows: int = 1, *, by_flow: bool = False, stop_after: int = 0) -> None:
        plan = ffi.new("struct mcr_measure_plan *")
        plan.flows = flows
        plan.by_flow = by_flow
        plan.has_first = flows > 1
        plan.stop_after = stop_after
        self.native = ffi.gc(lib.mcr_measure__new(plan, ffi.NULL), lib.mcr_measure__free)
        self.tally = lib.mcr_measure__tally(self.native)

    def take(self, datagram: bytes, destination: int = 0, arrived_ns: int = SENT_NS) -> None:
        lib.mcr_measure__take(self.native, datagram, len(datagram), destination, arrived_ns)

    def lost(self, destination: int = 0) -> int:
        return int(lib.mcr_measure__lost(self.native, destination))

    def gaps(self) -> int:
        return int(lib.mcr_measure__all_gaps(self.native))

    def counts(self) -> dict[str, int]:
        names = (
            "received",
            "distinct",
            "duplicated",
            "stale",
            "reordered",
            "corrupted",
            "foreign",
            "misdirected",
        )
        return {name: count for name in names if (count := getattr(self.tally, name))}


def datagram(sequence: int, *, size: int = 100, flow: int = 0, total: int = 0) -> bytes:
    buffer = ffi.new("uint8_t[]", size)
    lib.mcr_generated__write(buffer, size, flow, sequence, total, SENT_NS)
    return bytes(buffer)


def test_the_header_is_as_documented() -> None:
    first = datagram(0x0102030405060708, flow=0x0A0B, total=0x1112131415161718, size=43)

    assert first[:4] == b"mcrg"
    assert first[4:6] == b"\x02\x00"
    assert first[6:8].hex() == "0a0b"
    assert first[8:16].hex() == "0102030405060708"
    assert int.from_bytes(first[16:24], "big") == SENT_NS
    assert first[24:32].hex() == "1112131415161718"
    assert int.from_bytes(first[32:36], "big") == len(first)


def test_all_of_an_announced_total_is_no_loss() -> None:
    accounts = Accounts()
    for sequence in range(1000):
        accounts.take(datagram(sequence, total=1000))

    assert accounts.counts() == {"received": 1000, "distinct": 1000}
    assert accounts.lost() == 0
    assert accounts.tally.bytes == 100_000


def test_an_announced_total_tells_what_is_missing_at_both_ends() -> None:
    accounts = Accounts()
    for sequence in range(10, 90):
        accounts.take(datagram(sequence, total=100))

    assert accounts.lost() == 20
    assert accounts.gaps() == 10


def test_without_a_total_only_gaps_are_missing() -> None:
    accounts = Accounts()
    for sequence in (5, 6, 9, 10):
        accounts.take(datagram(sequence))

    assert accounts.lost() == 2


def test_a_total_that_only_the_last_datagram_carries_counts() -> None:
    accounts = Accounts()
    accounts.take(datagram(1))
    accounts.take(datagram(4, total=5))

    assert accounts.lost() == 3


def test_a_repetition_is_duplicated_and_does_not_hide_a_loss() -> None:
    accounts = Accounts()
    for sequence in (0, 1, 1, 1, 3):
        accounts.take(datagram(sequence, total=5))

    assert accounts.counts() == {"received": 5, "distinct": 3, "duplicated": 2}
    assert accounts.lost() == 2


def test_a_late_datagram_is_reordered_and_no_loss() -> None:
    accounts = Accounts()
    for sequence in (0, 2, 3, 1, 4):
        accounts.take(datagram(sequence, total=5))

    assert accounts.counts() == {"received": 5, "distinct": 5, "reordered": 1}
    assert accounts.lost() == 0


def test_a_datagram_from_before_the_first_is_no_negative_loss() -> None:
    accounts = Accounts()
    for sequence in (7, 3, 8):
        accounts.take(datagram(sequence))

    assert accounts.counts() == {"received": 3, "distinct": 3, "reordered": 1}
    assert accounts.lost() == 3  # 4, 5 and 6


def test_what_is_too_old_to_be_told_from_a_repetition_stays_lost() -> None:
    accounts = Accounts()
    for sequence in (0, WINDOW + 5, 3, 6):
        accounts.take(datagram(sequence))

    assert accounts.counts() == {"received": 4, "distinct": 3, "stale": 1, "reordered": 1}
    assert accounts.lost() == WINDOW + 6 - 3


def test_the_window_forgets_exactly_what_falls_out_of_it() -> None:
    accounts = Accounts()
    for sequence in range(64):
        accounts.take(datagram(sequence))
    accounts.take(datagram(WINDOW + 31))
    accounts.take(datagram(32))
    accounts.take(datagram(31))
    accounts.take(datagram(WINDOW + 30))

    assert accounts.counts() == {"received": 68, "distinct": 66, "duplicated": 1, "stale": 1, "reordered": 1}


def test_a_skipped_number_has_no_mark_from_a_window_ago() -> None:
    accounts = Accounts()
    for sequence in (0, 1, WINDOW - 1, WINDOW + 2, WINDOW, WINDOW + 1):
        accounts.take(datagram(sequence))

    assert accounts.counts() == {"received": 6, "distinct": 6, "reordered": 2}


def test_a_jump_of_more_than_the_window_leaves_no_old_marks() -> None:
    accounts = Accounts()
    for sequence in (0, 1, 2, 3 * WINDOW + 10, 2 * WINDOW + 11, 2 * WINDOW + 12):
        accounts.take(datagram(sequence))

    assert accounts.counts() == {"received": 6, "distinct": 6, "reordered": 2}


@pytest.mark.parametrize("size", [HEADER_BYTES, HEADER_BYTES + 1, 47, 48, 100, 1001])
def test_any_changed_bit_is_noticed(size: int) -> None:
    whole = datagram(77, size=size, total=100)
    for position in range(8 * size):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        accounts = Accounts()
        accounts.take(bytes(changed))

        assert accounts.counts() == ({"foreign": 1} if position < 32 else {"corrupted": 1})
        assert accounts.tally.bytes == 0


def test_a_cut_or_padded_datagram_is_corrupted() -> None:
    accounts = Accounts()
    whole = datagram(0, size=200)
    for length in range(4, 200):
        accounts.take(whole[:length])
    accounts.take(whole + b"\0")

    assert accounts.counts() == {"corrupted": 197}


def test_a_corrupted_datagram_is_lost_unless_a_whole_one_comes() -> None:
    accounts = Accounts()
    accounts.take(datagram(0, total=2))
    accounts.take(datagram(1, total=2)[:-1] + b"x")

    assert accounts.lost() == 1
    accounts.take(datagram(1, total=2))
    assert accounts.lost() == 0


def test_what_mcrgen_did_not_send_is_foreign() -> None:
    accounts = Accounts()
    for stranger in (b"", b"mcr", b"hello world", random.Random(1).randbytes(1000)):
        accounts.take(stranger)

    assert accounts.counts() == {"foreign": 4}


@pytest.mark.parametrize("distance", [1, 2, 8, 512, 2730, 4096, 16384])
def test_the_payload_of_a_datagram_some_places_further_on_is_corrupted(distance: int) -> None:
    """Its place is what a ring of that many frames, or a batch, might mistake for this one."""
    accounts = Accounts()
    accounts.take(datagram(5)[:HEADER_BYTES] + datagram(5 + distance)[HEADER_BYTES:])

    assert accounts.counts() == {"corrupted": 1}


def test_two_swapped_payloads_are_corrupted() -> None:
    accounts = Accounts()
    one, other = datagram(1), datagram(2)
    accounts.take(one[:HEADER_BYTES] + other[HEADER_BYTES:])

    assert accounts.counts() == {"corrupted": 1}


def test_flows_are_accounted_for_on_their_own() -> None:
    accounts = Accounts(flows=3)
    for sequence in range(10):
        accounts.take(datagram(sequence, flow=0, total=10), 0)
        accounts.take(datagram(sequence // 2, flow=1, total=10), 1)

    assert [accounts.lost(destination) for destination in range(3)] == [0, 5, 10]
    assert accounts.counts() == {"received": 20, "distinct": 15, "duplicated": 5}


def test_one_flow_copied_to_several_destinations_is_no_duplicate() -> None:
    accounts = Accounts(flows=2)
    for sequence in range(10):
        accounts.take(datagram(sequence), 0)
        accounts.take(datagram(sequence), 1)

    assert accounts.counts() == {"received": 20, "distinct": 20}


def test_a_datagram_of_another_flow_is_misdirected() -> None:
    accounts = Accounts(flows=2)
    accounts.take(datagram(0, flow=7, total=2), 0)
    accounts.take(datagram(1, flow=8, total=2), 0)

    assert accounts.counts() == {"received": 1, "distinct": 1, "misdirected": 1}
    assert accounts.lost(0) == 1


def test_a_destination_that_was_not_asked_for_is_foreign() -> None:
    accounts = Accounts(flows=2)
    accounts.take(datagram(0), 2)
    accounts.take(datagram(0), 2**32 - 1)

    assert accounts.counts() == {"foreign": 2}


def test_flows_that_share_a_destination_can_be_told_by_number() -> None:
    accounts = Accounts(flows=2, by_flow=True)
    for flow in (0, 1, 2):
        accounts.take(datagram(0, flow=flow), 0)

    assert accounts.counts() == {"received": 2, "distinct": 2, "foreign": 1}


def test_latency_is_from_sending_to_arrival() -> None:
    accounts = Accounts()
    accounts.take(datagram(0), arrived_ns=SENT_NS + 12_345)
    accounts.take(datagram(1), arrived_ns=SENT_NS - 1)

    assert accounts.tally.latency[lib.mcr_latency__bucket(12_345)] == 1
    assert accounts.tally.latency_max_ns == 12_345
    assert accounts.tally.clock_behind == 1


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(301, 400))
def test_accounts_agree_with_a_set(sequences: list[int], total: int) -> None:
    accounts = Accounts()
    for sequence in sequences:
        accounts.take(datagram(sequence, size=40, total=total))
    tally = accounts.tally

    assert tally.received == len(sequences)
    assert tally.distinct == len(set(sequences))
    assert tally.duplicated == len(sequences) - len(set(sequences))
    assert accounts.lost() == (total - len(set(sequences)) if sequences else 0)


@given(st.lists(st.integers(0, 4 * WINDOW), min_size=1, max_size=60))
def test_nothing_is_counted_twice_and_no_loss_is_negative(sequences: list[int]) -> None:
    accounts = Accounts()
    for sequence in sequences:
        accounts.take(datagram(sequence, size=40))
    tally = accounts.tally

    assert tally.received == tally.distinct + tally.duplicated + tally.stale == len(sequences)
    assert tally.distinct <= len(set(sequences))
    assert accounts.lost() >= max(sequences) + 1 - min(sequences) - len(set(sequences))


@pytest.mark.parametrize(("flows", "has_first"), [(0, 0), (2, 0), (2**20, 1)])
def test_a_plan_that_contradicts_itself_is_refused(flows: int, has_first: int) -> None:
    plan: Any = ffi.new("struct mcr_measure_plan *")
    plan.flows = flows
    plan.has_first = has_first

    assert lib.mcr_measure__new(plan, ffi.NULL) == ffi.NULL

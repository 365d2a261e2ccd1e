#include "../src/guard.h"
#include "must.h"

#include <string.h>

#include "testing.h"

#define MS 1000000ull
#define S (1000 * MS)
#define LONG_BYTES 1400

static struct mcr_guard guard;
static uint8_t payload[LONG_BYTES];
static uint64_t now_ns;

static int make_guard(void **state)
{
	(void)state;
	memset(&guard, 0, sizeof(guard));
	memset(payload, 0x5A, sizeof(payload));
	now_ns = 100 * S;
	return 0;
}

static bool pass(uint32_t bytes)
{
	struct mcr_datagram datagram = { .ttl = 1, .payload = payload, .payload_bytes = bytes };

	return mcr_guard__found_loop(&guard, &datagram, now_ns);
}

/* Give how many of them a loop was found with. */
static uint32_t pass_times(uint32_t times, uint32_t bytes)
{
	uint32_t found = 0;

	while (times--)
		found += pass(bytes);
	return found;
}

/* A payload that no other number has. */
static void number_payload(uint32_t number)
{
	memcpy(payload, &number, sizeof(number));
}

static void a_loop_is_found_with_the_100th_equal_payload(void **state)
{
	static const uint32_t lengths[] = { 0, 1, 63, 64, 65, 128, 129, LONG_BYTES };

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		make_guard(state);
		assert_int_equal(pass_times(99, lengths[i]), 0);
		assert_false(mcr_guard__is_on(&guard, now_ns));
		assert_true(pass(lengths[i]));
		assert_true(mcr_guard__is_on(&guard, now_ns));
	}
}

static void different_payloads_are_no_loop(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 10000; i++) {
		number_payload(i);
		assert_false(pass(100));
	}
	assert_false(mcr_guard__is_on(&guard, now_ns));
}

/* Of long ones the beginning, the end and the length are compared. */
static void payloads_differ_by_beginning_end_or_length(void **state)
{
	static const uint32_t places[] = { 0, 63, 99 };

	for (size_t place = 0; place < sizeof(places) / sizeof(places[0]); place++) {
		make_guard(state);
		for (uint32_t i = 0; i < 198; i++) {
			payload[places[place]] = (uint8_t)(i % 2);
			assert_false(pass(100));
		}
	}
	make_guard(state);
	for (uint32_t i = 0; i < 198; i++)
		assert_false(pass(100 + i % 2));
}

static void a_loop_among_other_datagrams_is_found(void **state)
{
	uint32_t found = 0;

	(void)state;
	for (uint32_t i = 0; i < 400 && !found; i++) {
		number_payload(1000000);
		found = pass(100);
		number_payload(i);
		must(!pass(100));
	}
	assert_int_equal(found, 1);
}

/* The one place that is in use. */
static uint32_t place_of(uint32_t number)
{
	memset(&guard, 0, sizeof(guard));
	number_payload(number);
	must(!pass(100));
	for (uint32_t i = 0; i < MCR_GUARD_ENTRIES; i++)
		if (guard.entries[i].times)
			return i;
	abort();
}

/* Of two that have one place the one that comes more often stays there. */
static void a_loop_is_found_although_others_have_its_place(void **state)
{
	uint32_t place = place_of(0), other = 1, found = 0, rounds = 0;

	(void)state;
	while (place_of(other) != place)
		other++;
	memset(&guard, 0, sizeof(guard));
	for (; rounds < 100 && !found; rounds++) {
		number_payload(other);
		assert_false(pass(100));
		number_payload(0);
		found = pass_times(3, 100);
	}
	assert_int_equal(found, 1);
	assert_in_range(rounds, 40, 60);
}

static void equal_payloads_over_more_than_a_second_are_no_loop(void **state)
{
	(void)state;
	/* The first begins a second of its own. */
	assert_int_equal(pass_times(99, 100), 0);
	now_ns += S;
	assert_int_equal(pass_times(99, 100), 0);
	now_ns += S - 1;
	assert_true(pass(100));
}

static void a_repeater_of_99_a_second_is_never_a_loop(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 99 * 20; i++) {
		assert_false(pass(100));
		now_ns += S / 99 + 1;
	}
}

static void the_guard_is_on_for_10_seconds(void **state)
{
	(void)state;
	assert_int_equal(pass_times(100, 100), 1);
	now_ns += 10 * S - 1;
	assert_true(mcr_guard__is_on(&guard, now_ns));
	now_ns++;
	assert_false(mcr_guard__is_on(&guard, now_ns));
}

static void while_the_guard_is_on_no_loop_is_found_again(void **state)
{
	(void)state;
	assert_int_equal(pass_times(100, 100), 1);
	for (uint32_t ms = 0; ms < 10000; ms += 500) {
		assert_int_equal(pass_times(1000, 100), 0);
		now_ns += 500 * MS;
	}
	assert_false(mcr_guard__is_on(&guard, now_ns));
	assert_int_equal(pass_times(100, 100), 1);
	assert_true(mcr_guard__is_on(&guard, now_ns));
}

/* Beyond 20,000 a second only some payloads are followed; which, their contents decide. */
static void loops_of_many_datagrams_are_found_in_a_crowd(void **state)
{
	uint32_t found = 0;

	(void)state;
	for (uint32_t i = 0; i < 20001; i++) {
		number_payload(i);
		must(!pass(100));
	}
	assert_int_equal(guard.sample_mask, 0);
	now_ns += S;
	/* 400 datagrams that go round 100 times. */
	for (uint32_t i = 0; i < 40000; i++) {
		number_payload(i % 400);
		found += pass(100);
	}
	assert_int_not_equal(guard.sample_mask, 0);
	assert_int_equal(found, 1);
}

#define GUARD_TEST(test) cmocka_unit_test_setup(test, make_guard)

int main(void)
{
	const struct CMUnitTest tests[] = {
		GUARD_TEST(a_loop_is_found_with_the_100th_equal_payload),
		GUARD_TEST(different_payloads_are_no_loop),
		GUARD_TEST(payloads_differ_by_beginning_end_or_length),
		GUARD_TEST(a_loop_among_other_datagrams_is_found),
		GUARD_TEST(a_loop_is_found_although_others_have_its_place),
		GUARD_TEST(equal_payloads_over_more_than_a_second_are_no_loop),
		GUARD_TEST(a_repeater_of_99_a_second_is_never_a_loop),
		GUARD_TEST(the_guard_is_on_for_10_seconds),
		GUARD_TEST(while_the_guard_is_on_no_loop_is_found_again),
		GUARD_TEST(loops_of_many_datagrams_are_found_in_a_crowd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "../src/latency.h"

#include "must.h"
#include "testing.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000ull
#define NOW_NS (4000000000 * NS_PER_S)
#define LONGEST_NS (1000 * (int64_t)NS_PER_S)
#define RULES 3
#define STAMPS 512

static struct mcr_stamp all[STAMPS];
static struct mcr_latency measured[RULES], expected[RULES];

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	assert_int_equal(clock, CLOCK_REALTIME);
	*now = (struct timespec){ .tv_sec = NOW_NS / NS_PER_S };
	return 0;
}

static void note(struct mcr_stamps *stamps, uint32_t rule, uint32_t datagrams, int64_t elapsed_ns)
{
	uint64_t counted = elapsed_ns > 0 ? (uint64_t)elapsed_ns : 0;

	mcr_stamps__note(stamps, rule, datagrams, NOW_NS - (uint64_t)elapsed_ns);
	expected[rule].buckets[mcr_relay__latency_bucket(counted)] += datagrams;
}

static void check(struct mcr_stamps *stamps)
{
	mcr_stamps__measure(stamps, measured);
	assert_int_equal(stamps->count, 0);
	assert_memory_equal(measured, expected, sizeof(expected));
}

static int forget(void **state)
{
	(void)state;
	memset(measured, 0, sizeof(measured));
	memset(expected, 0, sizeof(expected));
	return 0;
}

static void every_time_is_counted_in_its_own_bucket(void **state)
{
	struct mcr_stamps stamps = { .all = all };

	(void)state;
	srand(1);
	for (uint32_t batch = 0; batch < 2000; batch++) {
		int64_t elapsed = (int64_t)(((uint64_t)rand() << 20) >> rand() % 50);
		int64_t step = elapsed >> rand() % 16;

		for (uint32_t i = 0; i < STAMPS && elapsed > -1000; i++, elapsed -= step)
			note(&stamps, (uint32_t)rand() % 8 % RULES, 1 + (uint32_t)rand() % 3,
			     elapsed);
		check(&stamps);
	}
}

/* Where a bucket ends the next one begins, also right behind a time of the one before. */
static void buckets_end_where_the_next_begins(void **state)
{
	struct mcr_stamps stamps = { .all = all };

	(void)state;
	for (int64_t elapsed = 1; elapsed < LONGEST_NS; elapsed += 1 + elapsed / 9) {
		uint32_t bucket = mcr_relay__latency_bucket((uint64_t)elapsed);
		int64_t first = elapsed, next = elapsed;

		while (first > 0 && mcr_relay__latency_bucket((uint64_t)first - 1) == bucket)
			first -= first > 4000 ? first / 4000 : 1;
		while (next < LONGEST_NS && mcr_relay__latency_bucket((uint64_t)next) == bucket)
			next += next > 4000 ? next / 4000 : 1;
		note(&stamps, 0, 1, elapsed);
		note(&stamps, 0, 1, next);
		note(&stamps, 0, 1, elapsed);
		note(&stamps, 0, 1, first - 1);
		check(&stamps);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(every_time_is_counted_in_its_own_bucket, forget),
		cmocka_unit_test_setup(buckets_end_where_the_next_begins, forget),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

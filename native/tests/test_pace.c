#include "../src/pace.h"

#include "testing.h"

static void gathering_follows_the_rate_of_the_last_two_windows(void **state)
{
	struct mcr_pace pace = { .window_start_ns = 1, .gather_ns = 100000 };

	(void)state;
	mcr_pace__note(&pace, 40, 1 + MCR_PACE_WINDOW_NS - 1);
	assert_false(pace.gathering);
	mcr_pace__note(&pace, 0, 1 + MCR_PACE_WINDOW_NS);
	assert_false(pace.gathering); /* 40 in 2 ms, but only once */
	mcr_pace__note(&pace, 40, 1 + 2 * MCR_PACE_WINDOW_NS);
	assert_true(pace.gathering);
	mcr_pace__note(&pace, 39, 1 + 3 * MCR_PACE_WINDOW_NS);
	assert_false(pace.gathering);
	mcr_pace__note(&pace, 40, 1 + 4 * MCR_PACE_WINDOW_NS);
	assert_false(pace.gathering);
	mcr_pace__note(&pace, 40, 1 + 5 * MCR_PACE_WINDOW_NS);
	assert_true(pace.gathering);
	mcr_pace__note(&pace, 1000000, 1 + 5 * MCR_PACE_WINDOW_NS + 60000000000ull);
	assert_false(pace.gathering);
}

static void note_waits(struct mcr_pace *pace, uint32_t count, uint64_t cpu_ns)
{
	while (count--)
		mcr_pace__note_wait(pace, cpu_ns);
}

static void waiting_takes_a_twentieth_of_the_cpu_within_limits(void **state)
{
	struct mcr_pace pace = { 0 };

	(void)state;
	mcr_pace__set_gather(&pace, -1);
	assert_int_equal(pace.gather_ns, 100000);
	note_waits(&pace, 100, 1000);
	assert_int_equal(pace.gather_ns, 100000);
	note_waits(&pace, 200, 10000);
	assert_int_equal(pace.gather_ns, 200000);
	note_waits(&pace, 200, 1000000);
	assert_int_equal(pace.gather_ns, 350000);
	note_waits(&pace, 200, 10000);
	assert_int_equal(pace.gather_ns, 200000);
}

static void one_dear_wait_changes_little(void **state)
{
	struct mcr_pace pace = { 0 };

	(void)state;
	mcr_pace__set_gather(&pace, -1);
	note_waits(&pace, 100, 8000);
	mcr_pace__note_wait(&pace, 5000000);
	assert_in_range(pace.gather_ns, 160000, 185000);
}

static void a_fixed_wait_is_as_it_was_set(void **state)
{
	struct mcr_pace pace = { 0 };

	(void)state;
	mcr_pace__set_gather(&pace, 0);
	assert_false(mcr_pace__measures(&pace));
	assert_int_equal(pace.gather_ns, 0);
	mcr_pace__set_gather(&pace, 10000);
	assert_false(mcr_pace__measures(&pace));
	assert_int_equal(pace.gather_ns, 10000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gathering_follows_the_rate_of_the_last_two_windows),
		cmocka_unit_test(waiting_takes_a_twentieth_of_the_cpu_within_limits),
		cmocka_unit_test(one_dear_wait_changes_little),
		cmocka_unit_test(a_fixed_wait_is_as_it_was_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

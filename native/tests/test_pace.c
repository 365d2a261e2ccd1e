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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gathering_follows_the_rate_of_the_last_two_windows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

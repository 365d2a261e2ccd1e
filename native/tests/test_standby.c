#include "../src/standby.h"

#include "testing.h"

#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull
#define SPAN_NS (2 * MS)

static uint32_t times_set(uint64_t distance_ns, uint32_t waits)
{
	struct mcr_standby standby = { .fd = -1, .span_ns = SPAN_NS, .woke_ns = MS };
	uint64_t due_ns = 0;
	uint32_t count = 0;

	for (uint32_t i = 1; i <= waits; i++) {
		mcr_standby__prepare(&standby, MS + i * distance_ns);
		count += standby.due_ns != due_ns;
		due_ns = standby.due_ns;
	}
	return count;
}

static void it_is_set_seldom_while_datagrams_are_close_and_never_while_they_are_rare(void **state)
{
	(void)state;
	assert_int_equal(times_set(SPAN_NS, 1000), 0);
	assert_int_equal(times_set(10 * SPAN_NS, 1000), 0);
	assert_int_equal(times_set(SPAN_NS - 1, 1000), 1000);
	assert_int_equal(times_set(SPAN_NS * 3 / 4, 1000), 1000);
	assert_int_equal(times_set(SPAN_NS / 2, 1000), 500);
	/* 20 datagrams of a span, of which the last is not behind the timer any more. */
	assert_int_equal(times_set(SPAN_NS / 20, 2000), 100);
}

static void prepare_twice(struct mcr_standby *standby)
{
	mcr_standby__prepare(standby, 1000 * MS);
	mcr_standby__prepare(standby, 1000 * MS + 1);
}

static uint64_t left_ns(const struct mcr_standby *standby)
{
	struct itimerspec left;

	assert_int_equal(timerfd_gettime(standby->fd, &left), 0);
	assert_true(!left.it_interval.tv_sec && !left.it_interval.tv_nsec && !left.it_value.tv_sec);
	return (uint64_t)left.it_value.tv_nsec;
}

static void it_is_due_after_its_span_and_once(void **state)
{
	struct mcr_standby standby = { 0 };
	struct timespec tick;
	struct pollfd due;
	uint64_t times;

	(void)state;
	assert_int_equal(mcr_standby__open(&standby), 0);
	assert_int_equal(clock_getres(CLOCK_MONOTONIC_COARSE, &tick), 0);
	assert_int_equal(standby.span_ns, tick.tv_nsec / 2);
	prepare_twice(&standby);
	due = (struct pollfd){ .fd = standby.fd, .events = POLLIN };
	assert_int_equal(poll(&due, 1, 1000), 1);
	assert_int_equal(read(standby.fd, &times, sizeof(times)), sizeof(times));
	assert_int_equal(times, 1);
	assert_int_equal(left_ns(&standby), 0);
	/* Long enough to be seen on a busy machine. */
	standby = (struct mcr_standby){ .fd = standby.fd, .span_ns = 900 * MS };
	mcr_standby__prepare(&standby, 1000 * MS);
	assert_int_equal(left_ns(&standby), 0);
	mcr_standby__prepare(&standby, 1000 * MS + 1);
	assert_in_range(left_ns(&standby), 1, 900 * MS);
	mcr_standby__close(&standby);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			it_is_set_seldom_while_datagrams_are_close_and_never_while_they_are_rare),
		cmocka_unit_test(it_is_due_after_its_span_and_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

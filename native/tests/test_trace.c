/* Linked with --wrap=clock_gettime: time is of our own. */
#include "../src/trace.h"
#include "must.h"
#include "packet.h"

#include <string.h>
#include <time.h>

#include "testing.h"

#define RULE 5
#define SLOT 9
#define LANE 3
#define REFUSED (MCR_NOT_SENT_REFUSED + 1u)

static struct mcr_trace trace;
static struct mcr_tracer tracer;
static struct mcr_datagram datagram;
static uint64_t clock_ns;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	assert_int_equal(clock, CLOCK_REALTIME);
	now->tv_sec = (time_t)(clock_ns / 1000000000);
	now->tv_nsec = (long)(clock_ns % 1000000000);
	return 0;
}

static int make_tracer(void **state)
{
	(void)state;
	memset(&trace, 0, sizeof(trace));
	memset(&tracer, 0, sizeof(tracer));
	tracer.shared = &trace;
	tracer.received_ns = 1000;
	clock_ns = 1700000000123456789;
	datagram = (struct mcr_datagram){ .source_port = 40123, .ttl = 17 };
	packet__map_v4(datagram.source, 0x0A000009);
	return 0;
}

static const struct mcr_trace_entry *entry_of(uint64_t number)
{
	return &trace.entries[number % MCR_TRACE_ENTRIES];
}

/* Whether a reader that expects the entry takes it. */
static bool is_whole(uint64_t number)
{
	return entry_of(number)->number == number + 1;
}

static void note_times(uint32_t times)
{
	while (times--)
		mcr_tracer__note(&tracer, SLOT, &datagram, 100, REFUSED);
}

static void begin(uint32_t lane, uint32_t payload)
{
	mcr_tracer__begin(&tracer, lane, payload, SLOT, &datagram, 100 + payload);
}

/* ---- which datagrams ---- */

static uint32_t wanted_of(uint32_t rule, uint32_t datagrams)
{
	uint32_t wanted = 0;

	while (datagrams--)
		wanted += mcr_tracer__wants(&tracer, rule);
	return wanted;
}

static void without_a_rule_nothing_is_traced(void **state)
{
	(void)state;
	assert_int_equal(wanted_of(0, 10), 0);
	assert_int_equal(wanted_of(MCR_MAX_RULES - 1, 10), 0);
}

static void only_the_named_rule_is_traced(void **state)
{
	(void)state;
	trace.rule = RULE + 1;
	trace.every = 1;
	assert_int_equal(wanted_of(RULE, 10), 10);
	assert_int_equal(wanted_of(RULE + 1, 10), 0);
	assert_int_equal(wanted_of(RULE - 1, 10), 0);
	assert_int_equal(wanted_of(0, 10), 0);
}

static void the_first_and_then_every_nth_is_taken(void **state)
{
	(void)state;
	trace.rule = RULE + 1;
	trace.every = 3;
	for (uint32_t i = 0; i < 30; i++) {
		/* Those of other rules do not count. */
		assert_false(mcr_tracer__wants(&tracer, RULE + 1));
		assert_int_equal(mcr_tracer__wants(&tracer, RULE), i % 3 == 0);
	}
}

/* The two words are not written at once. */
static void every_0th_is_every_one(void **state)
{
	(void)state;
	trace.rule = RULE + 1;
	assert_int_equal(wanted_of(RULE, 10), 10);
}

/* ---- what is written ---- */

static void an_entry_says_what_and_when(void **state)
{
	struct mcr_trace_entry want = {
		.number = 1,
		.received_ns = 1000,
		.sent_ns = 1700000000123456789,
		.output = SLOT,
		.verdict = REFUSED,
		.bytes = 1234,
		.source_port = 40123,
		.ttl = 17,
	};

	(void)state;
	packet__map_v4(want.source, 0x0A000009);
	mcr_tracer__note(&tracer, SLOT, &datagram, 1234, REFUSED);
	assert_memory_equal(entry_of(0), &want, sizeof(want));
	assert_int_equal(trace.written, 1);
}

static void what_waits_in_a_lane_is_not_whole_before_its_end(void **state)
{
	(void)state;
	begin(LANE, 0);
	assert_int_equal(trace.written, 1);
	assert_false(is_whole(0));
	clock_ns++;
	mcr_tracer__end(&tracer, LANE, 0, 1, 0);
	assert_true(is_whole(0));
	assert_int_equal(entry_of(0)->sent_ns, 1700000000123456790);
	assert_int_equal(entry_of(0)->verdict, 0);
	assert_int_equal(entry_of(0)->bytes, 100);
	assert_int_equal(tracer.pending_count, 0);
}

static void an_end_is_of_its_lane_and_its_payloads(void **state)
{
	(void)state;
	for (uint32_t payload = 0; payload < 4; payload++) {
		begin(LANE, payload);
		begin(LANE + 1, payload);
	}
	mcr_tracer__end(&tracer, LANE, 1, 2, REFUSED);
	for (uint64_t number = 0; number < 8; number++) {
		bool ended = number == 2 || number == 4;

		assert_int_equal(is_whole(number), ended);
		assert_int_equal(entry_of(number)->verdict, ended ? REFUSED : 0);
	}
	assert_int_equal(tracer.pending_count, 6);
	mcr_tracer__end(&tracer, LANE + 1, 0, 4, 0);
	mcr_tracer__end(&tracer, LANE, 0, 1, 0);
	assert_int_equal(tracer.pending_count, 1);
	assert_false(is_whole(6));
	mcr_tracer__end(&tracer, LANE, 3, 1, 0);
	for (uint64_t number = 0; number < 8; number++)
		assert_true(is_whole(number));
}

/* Those beyond are left out, and what is pending is not harmed. */
static void more_than_may_be_pending_is_not_traced(void **state)
{
	(void)state;
	for (uint32_t payload = 0; payload < MCR_TRACE_PENDING + 50; payload++)
		begin(LANE, payload);
	assert_int_equal(trace.written, MCR_TRACE_PENDING);
	assert_int_equal(tracer.pending_count, MCR_TRACE_PENDING);
	mcr_tracer__end(&tracer, LANE, 0, MCR_TRACE_PENDING + 50, 0);
	assert_int_equal(tracer.pending_count, 0);
	for (uint64_t number = 0; number < MCR_TRACE_PENDING; number++) {
		assert_true(is_whole(number));
		assert_int_equal(entry_of(number)->bytes, 100 + number);
	}
}

/* ---- the ring ---- */

static void the_oldest_entry_makes_room(void **state)
{
	(void)state;
	note_times(MCR_TRACE_ENTRIES);
	assert_true(is_whole(0));
	assert_true(is_whole(MCR_TRACE_ENTRIES - 1));
	datagram.ttl = 99;
	note_times(1);
	assert_int_equal(trace.written, MCR_TRACE_ENTRIES + 1);
	assert_false(is_whole(0));
	assert_true(is_whole(MCR_TRACE_ENTRIES));
	assert_int_equal(entry_of(MCR_TRACE_ENTRIES)->ttl, 99);
	assert_true(is_whole(1));
	assert_int_equal(entry_of(1)->ttl, 17);
}

/* A reader that still looks for the old one must not take half of the new one for it. */
static void an_entry_that_is_overwritten_is_neither_the_old_nor_the_new_one(void **state)
{
	(void)state;
	note_times(MCR_TRACE_ENTRIES);
	begin(LANE, 0);
	assert_int_equal(entry_of(0)->number, 0);
	assert_false(is_whole(0));
	assert_false(is_whole(MCR_TRACE_ENTRIES));
	mcr_tracer__end(&tracer, LANE, 0, 1, 0);
	assert_false(is_whole(0));
	assert_true(is_whole(MCR_TRACE_ENTRIES));
}

static void the_ring_wraps_again_and_again(void **state)
{
	(void)state;
	for (uint64_t number = 0; number < 3 * MCR_TRACE_ENTRIES + 7; number++) {
		datagram.source_port = (uint16_t)number;
		begin(LANE, (uint32_t)(number % 64));
		mcr_tracer__end(&tracer, LANE, (uint32_t)(number % 64), 1, 0);
	}
	assert_int_equal(trace.written, 3 * MCR_TRACE_ENTRIES + 7);
	for (uint64_t number = 2 * MCR_TRACE_ENTRIES + 7; number < trace.written; number++) {
		assert_true(is_whole(number));
		assert_int_equal(entry_of(number)->source_port, number);
	}
}

#define TRACE_TEST(test) cmocka_unit_test_setup(test, make_tracer)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TRACE_TEST(without_a_rule_nothing_is_traced),
		TRACE_TEST(only_the_named_rule_is_traced),
		TRACE_TEST(the_first_and_then_every_nth_is_taken),
		TRACE_TEST(every_0th_is_every_one),
		TRACE_TEST(an_entry_says_what_and_when),
		TRACE_TEST(what_waits_in_a_lane_is_not_whole_before_its_end),
		TRACE_TEST(an_end_is_of_its_lane_and_its_payloads),
		TRACE_TEST(more_than_may_be_pending_is_not_traced),
		TRACE_TEST(the_oldest_entry_makes_room),
		TRACE_TEST(an_entry_that_is_overwritten_is_neither_the_old_nor_the_new_one),
		TRACE_TEST(the_ring_wraps_again_and_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

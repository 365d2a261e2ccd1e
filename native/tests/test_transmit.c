#include "../src/transmit.h"
#include "must.h"
#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "testing.h"

#define MS 1000000ull
#define NS_PER_S (1000 * MS)
#define SLOT 7
#define MOST_BYTES 65535

static const uint8_t nowhere[16];
static struct mcr_transmit transmit;
static struct mcr_shared *shared;
static struct mcr_output_counters *counters;
static struct mcr_output output;
static struct network_message message;
static uint8_t payloads[128][MOST_BYTES];
static int receiver;
static uint16_t port;
static bool is_private;

/* ---- an output and its receiver ---- */

static void attach(int ip_version)
{
	port = 0;
	receiver = network__open_receiver(ip_version, &port);
	output.ipv6 = ip_version == 6;
	mcr_transmit__attach(&transmit, SLOT, network__open_output(ip_version, port), nowhere, 0);
}

static int make_output(void **state)
{
	(void)state;
	memset(&transmit, 0, sizeof(transmit));
	shared = calloc(1, sizeof(*shared));
	must(shared != NULL);
	counters = shared->outputs;
	output = (struct mcr_output){ .slot = SLOT, .ttl_policy = MCR_TTL_KEEP };
	must(!mcr_transmit__init(&transmit, shared));
	transmit.now_ns = 1;
	attach(4);
	return 0;
}

static int free_output(void **state)
{
	(void)state;
	mcr_transmit__free(&transmit);
	close(receiver);
	free(shared);
	if (is_private)
		network__set_loopback(true, 65536);
	return 0;
}

static void want_private_network(void)
{
	if (!is_private)
		skip();
}

static void add_to(const struct mcr_output *to, uint8_t ttl, const uint8_t *payload, uint32_t bytes)
{
	struct mcr_datagram datagram = { .ttl = ttl, .payload = payload, .payload_bytes = bytes };

	mcr_transmit__add(&transmit, to, &datagram, 0);
}

static void add(uint8_t number, uint8_t ttl, uint32_t bytes)
{
	memset(payloads[number], number, bytes);
	add_to(&output, ttl, payloads[number], bytes);
}

static void flush(void)
{
	mcr_transmit__flush(&transmit);
	assert_int_equal(transmit.dirty_count, 0);
	assert_int_equal(transmit.lanes[SLOT].gathered, 0);
	assert_false(transmit.lanes[SLOT].dirty);
}

/* The next message holds the payloads of these numbers, each of these lengths. */
static void check_message(uint8_t first, uint32_t count, uint32_t bytes, uint32_t last_bytes)
{
	const uint8_t *at = message.payload;

	network__receive(receiver, &message);
	assert_int_equal(message.bytes, (count - 1) * bytes + last_bytes);
	assert_int_equal(message.segment_bytes, count > 1 ? bytes : 0);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t length = i + 1 < count ? bytes : last_bytes;

		assert_memory_equal(at, payloads[first + i], length);
		at += length;
	}
}

static void check_counters(uint64_t sent, uint64_t bytes, enum mcr_not_sent reason,
			   uint64_t not_sent)
{
	struct mcr_output_counters want = { .sent = sent, .bytes = bytes };

	want.not_sent[reason] = not_sent;
	assert_memory_equal(&counters[SLOT], &want, sizeof(want));
}

static void check_all_sent(uint64_t sent, uint64_t bytes)
{
	assert_true(network__is_empty(receiver));
	check_counters(sent, bytes, MCR_NOT_SENT_OTHER, 0);
}

/* ---- what leaves in one call ---- */

static void one_payload_leaves_with_its_ttl(void **state)
{
	(void)state;
	add(1, 17, 100);
	flush();
	check_message(1, 1, 0, 100);
	assert_int_equal(message.ttl, 17);
	check_all_sent(1, 100);
}

static void equal_payloads_leave_together_with_their_ttl(void **state)
{
	(void)state;
	for (int version = 4; version <= 6; version += 2) {
		close(receiver);
		attach(version);
		for (uint8_t i = 0; i < 5; i++)
			add(i, 33, 100);
		flush();
		check_message(0, 5, 100, 100);
		assert_int_equal(message.ttl, 33);
	}
	check_all_sent(10, 1000);
}

static void a_shorter_one_ends_a_message(void **state)
{
	(void)state;
	add(0, 1, 100);
	add(1, 1, 100);
	add(2, 1, 99);
	add(3, 1, 99);
	flush();
	check_message(0, 3, 100, 99);
	check_message(3, 1, 0, 99);
	check_all_sent(4, 398);
}

static void a_longer_one_begins_a_message(void **state)
{
	(void)state;
	add(0, 1, 100);
	add(1, 1, 101);
	add(2, 1, 101);
	flush();
	check_message(0, 1, 0, 100);
	check_message(1, 2, 101, 101);
	check_all_sent(3, 302);
}

static void another_ttl_begins_a_message(void **state)
{
	(void)state;
	add(0, 1, 100);
	add(1, 1, 100);
	add(2, 2, 100);
	flush();
	check_message(0, 2, 100, 100);
	assert_int_equal(message.ttl, 1);
	check_message(2, 1, 0, 100);
	assert_int_equal(message.ttl, 2);
	check_all_sent(3, 300);
}

static void empty_payloads_leave_alone(void **state)
{
	(void)state;
	add(0, 1, 0);
	add(1, 1, 0);
	add(2, 1, 10);
	add(3, 1, 0);
	flush();
	check_message(0, 1, 0, 0);
	check_message(1, 1, 0, 0);
	check_message(2, 1, 0, 10);
	check_message(3, 1, 0, 0);
	check_all_sent(4, 10);
}

static void a_message_has_64_payloads_at_most(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < 128; i++)
		add(i, 1, 10);
	flush();
	check_message(0, 64, 10, 10);
	check_message(64, 64, 10, 10);
	check_all_sent(128, 1280);
}

static void a_message_has_65507_bytes_at_most(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < 47; i++)
		add(i, 1, 1400);
	flush();
	check_message(0, 46, 1400, 1400);
	check_message(46, 1, 0, 1400);
	check_all_sent(47, 47 * 1400);
	add(0, 1, 40000);
	add(1, 1, 25507);
	assert_int_equal(transmit.lanes[SLOT].gathered, 2);
	flush();
	add(0, 1, 40000);
	add(1, 1, 25508);
	assert_int_equal(transmit.lanes[SLOT].gathered, 1);
	flush();
	/* The kernel takes messages of that length apart again on their way. */
	check_message(0, 1, 0, 40000);
	check_message(1, 1, 0, 25507);
	check_message(0, 1, 0, 40000);
	check_message(1, 1, 0, 25508);
	check_all_sent(51, 47 * 1400 + 65507 + 65508);
}

static void what_is_sent_is_forgotten(void **state)
{
	(void)state;
	add(0, 1, 100);
	flush();
	flush();
	add(1, 1, 100);
	flush();
	check_message(0, 1, 0, 100);
	check_message(1, 1, 0, 100);
	check_all_sent(2, 200);
}

/* ---- where UDP_SEGMENT is refused ---- */

static void payloads_longer_than_the_path_leave_one_by_one(void **state)
{
	(void)state;
	want_private_network();
	network__set_loopback(true, 1500);
	for (uint8_t i = 0; i < 3; i++)
		add(i, 5, 2000);
	flush();
	for (uint8_t i = 0; i < 3; i++) {
		check_message(i, 1, 0, 2000);
		assert_int_equal(message.ttl, 5);
	}
	assert_int_equal(transmit.senders[SLOT].segment_bytes_limit, 1999);
	for (uint8_t i = 0; i < 3; i++)
		add(i, 5, 1000);
	flush();
	check_message(0, 3, 1000, 1000);
	check_all_sent(6, 9000);
}

static void add_three(uint32_t bytes)
{
	for (uint8_t i = 0; i < 3; i++)
		add(i, 5, bytes);
	flush();
}

static void check_three_singly(uint32_t bytes)
{
	for (uint8_t i = 0; i < 3; i++)
		check_message(i, 1, 0, bytes);
}

static void longer_payloads_leave_together_again_once_the_path_takes_them(void **state)
{
	(void)state;
	want_private_network();
	network__set_loopback(true, 1500);
	add_three(2000);
	check_three_singly(2000);
	network__set_loopback(true, 65536);
	transmit.now_ns += 999999999;
	add_three(2000);
	check_three_singly(2000);
	transmit.now_ns += 1;
	add_three(2000);
	check_message(0, 3, 2000, 2000);
	add_three(2000);
	check_message(0, 3, 2000, 2000);
	check_all_sent(12, 24000);
}

static void a_path_that_stays_short_is_tried_once_a_second(void **state)
{
	struct mcr_sender *sender = &transmit.senders[SLOT];

	(void)state;
	want_private_network();
	network__set_loopback(true, 1500);
	add_three(1800);
	check_three_singly(1800);
	assert_int_equal(sender->segment_bytes_limit, 1799);
	transmit.now_ns += 1000000000;
	add_three(2000);
	check_three_singly(2000);
	assert_int_equal(sender->segment_bytes_limit, 1799);
	assert_int_equal(sender->longer_at_ns, transmit.now_ns + 1000000000);
	check_all_sent(6, 11400);
}

static void a_socket_that_cannot_segment_sends_one_by_one(void **state)
{
	int yes = 1;

	(void)state;
	must(!setsockopt(transmit.senders[SLOT].fd, SOL_SOCKET, SO_NO_CHECK, &yes, sizeof(yes)));
	for (uint32_t round = 0; round < 2; round++) {
		for (uint8_t i = 0; i < 3; i++)
			add(i, 5, 100);
		flush();
		for (uint8_t i = 0; i < 3; i++)
			check_message(i, 1, 0, 100);
	}
	check_all_sent(6, 600);
}

/* ---- errors of one payload ---- */

static void a_payload_that_is_too_long_does_not_stop_its_neighbours(void **state)
{
	(void)state;
	add(0, 1, 10);
	add(1, 1, 65508);
	add(2, 1, 20);
	add(3, 1, 65507);
	flush();
	check_message(0, 1, 0, 10);
	check_message(2, 1, 0, 20);
	check_message(3, 1, 0, 65507);
	check_counters(3, 65537, MCR_NOT_SENT_TOO_LONG, 1);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 0);
}

/* Two that left together, of which the path takes one. */
static void a_payload_that_is_too_long_does_not_stop_those_gathered_with_it(void **state)
{
	int probe = 2; /* IP_PMTUDISC_DO */

	(void)state;
	want_private_network();
	network__set_loopback(true, 1500);
	must(!setsockopt(transmit.senders[SLOT].fd, 0, 10, &probe, sizeof(probe)));
	add(0, 1, 2000);
	add(1, 1, 2000);
	add(2, 1, 500);
	flush();
	check_message(2, 1, 0, 500);
	check_counters(1, 500, MCR_NOT_SENT_TOO_LONG, 2);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 0);
}

static void the_longest_datagram_over_ipv6_leaves(void **state)
{
	(void)state;
	close(receiver);
	attach(6);
	add(0, 1, 65527);
	flush();
	check_message(0, 1, 0, 65527);
	check_all_sent(1, 65527);
}

/* The error of an earlier datagram is reported in place of the next: which must leave all the same.
 */
static void a_refused_datagram_does_not_cost_the_next_ones(void **state)
{
	(void)state;
	close(receiver);
	add(0, 1, 100);
	flush();
	receiver = network__open_receiver(4, &port);
	for (uint8_t i = 1; i < 4; i++)
		add(i, 1, 100);
	flush();
	for (uint8_t i = 1; i < 4; i++)
		check_message(i, 1, 0, 100);
	check_all_sent(4, 400);
}

static void while_nobody_listens_every_datagram_is_counted_once(void **state)
{
	uint64_t added = 0;

	(void)state;
	close(receiver);
	for (uint8_t round = 0; round < 20; round++) {
		for (uint8_t i = 0; i <= round; i++, added++)
			add(i, 1, 10 + i % 2u);
		flush();
	}
	receiver = network__open_receiver(4, &port);
	assert_int_equal(counters[SLOT].sent + counters[SLOT].not_sent[MCR_NOT_SENT_REFUSED],
			 added);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 0);
}

/* ---- errors of an output ---- */

static void without_a_socket_nothing_is_sent(void **state)
{
	(void)state;
	mcr_transmit__detach(&transmit, SLOT);
	for (uint8_t i = 0; i < 100; i++)
		add(i, 1, 100);
	flush();
	check_counters(0, 0, MCR_NOT_SENT_NO_SOCKET, 100);
}

/* Fail once, after as long as the output was left alone, and say for how long it is left alone now.
 */
static uint64_t fail_again(void)
{
	uint64_t before = counters[SLOT].not_sent[MCR_NOT_SENT_UNREACHABLE];

	add(0, 1, 100);
	add(1, 1, 100);
	flush();
	assert_int_equal(counters[SLOT].not_sent[MCR_NOT_SENT_UNREACHABLE], before + 2);
	return transmit.senders[SLOT].retry_at_ns - transmit.now_ns;
}

static void an_output_that_fails_is_left_alone_longer_and_longer(void **state)
{
	static const uint64_t waits_ms[] = { 10, 20, 40, 80, 160, 320, 640, 1000, 1000 };
	uint64_t left_alone = 0;

	(void)state;
	want_private_network();
	network__set_loopback(false, 65536);
	for (size_t i = 0; i < sizeof(waits_ms) / sizeof(waits_ms[0]); i++) {
		assert_int_equal(fail_again(), waits_ms[i] * MS);
		transmit.now_ns += waits_ms[i] * MS - 1;
		add(0, 1, 100);
		flush();
		assert_int_equal(counters[SLOT].not_sent[MCR_NOT_SENT_BACKING_OFF], ++left_alone);
		transmit.now_ns++;
	}
	assert_int_equal(counters[SLOT].sent, 0);
}

static void an_output_that_recovers_starts_over(void **state)
{
	(void)state;
	want_private_network();
	network__set_loopback(false, 65536);
	fail_again();
	transmit.now_ns += 10 * MS;
	assert_int_equal(fail_again(), 20 * MS);
	network__set_loopback(true, 65536);
	transmit.now_ns += 20 * MS;
	add(0, 1, 100);
	flush();
	check_message(0, 1, 0, 100);
	network__set_loopback(false, 65536);
	assert_int_equal(fail_again(), 10 * MS);
	assert_int_equal(counters[SLOT].sent, 1);
}

static void a_new_socket_is_tried_at_once(void **state)
{
	(void)state;
	want_private_network();
	network__set_loopback(false, 65536);
	fail_again();
	network__set_loopback(true, 65536);
	close(receiver);
	attach(4);
	add(0, 1, 100);
	flush();
	check_message(0, 1, 0, 100);
	assert_int_equal(counters[SLOT].sent, 1);
}

/* A local socket's queue is the one that fills up for certain. */
static void a_full_queue_costs_only_what_does_not_fit(void **state)
{
	int pair[2], little = 10000;
	uint64_t sent;

	(void)state;
	must(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	must(!setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)));
	mcr_transmit__attach(&transmit, SLOT, pair[0], nowhere, 0);
	transmit.senders[SLOT].segment_bytes_limit = 0;
	transmit.senders[SLOT].longer_at_ns = UINT64_MAX;
	for (uint8_t i = 0; i < 64; i++)
		add(i, 1, 100);
	flush();
	sent = counters[SLOT].sent;
	assert_in_range(sent, 1, 63);
	check_counters(sent, 100 * sent, MCR_NOT_SENT_NO_BUFFER, 64 - sent);
	for (uint64_t i = 0; i < sent; i++) {
		assert_int_equal(recv(pair[1], message.payload, 1000, MSG_DONTWAIT), 100);
		assert_memory_equal(message.payload, payloads[i], 100);
	}
	add(0, 1, 100); /* at once: a full queue is no reason to leave an output alone */
	flush();
	assert_int_equal(counters[SLOT].sent, sent + 1);
	close(pair[1]);
}

static void what_cannot_send_at_all_is_left_alone(void **state)
{
	(void)state;
	mcr_transmit__attach(&transmit, SLOT, open("/dev/null", O_WRONLY | O_CLOEXEC), nowhere, 0);
	add(0, 1, 100);
	add(1, 1, 100);
	flush();
	check_counters(0, 0, MCR_NOT_SENT_OTHER, 2);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 10 * MS);
}

/* ---- policies ---- */

static void each_ttl_policy_sends_what_it_says(void **state)
{
	static const struct {
		struct mcr_output output;
		uint8_t arrived, guarded, leaves;
	} cases[] = {
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 64, 0, 63 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 2, 0, 1 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 1, 0, 1 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 0, 0, 1 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 2, 1, 1 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 1, 1, 0 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_AUTO }, 0, 1, 0 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_KEEP }, 255, 0, 255 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_KEEP }, 1, 1, 1 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_KEEP }, 0, 0, 0 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_DECREMENT }, 255, 0, 254 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_DECREMENT }, 1, 0, 0 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_DECREMENT }, 0, 0, 0 },
		{ { .slot = SLOT, .ttl_policy = MCR_TTL_FIXED, .ttl = 8 }, 1, 1, 8 },
	};
	uint64_t dropped = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct mcr_datagram datagram = { .ttl = cases[i].arrived,
						       .guarded = cases[i].guarded,
						       .payload = payloads[0],
						       .payload_bytes = 10 };

		mcr_transmit__add(&transmit, &cases[i].output, &datagram, 0);
		flush();
		dropped += !cases[i].leaves;
		assert_int_equal(counters[SLOT].not_sent[MCR_NOT_SENT_TTL], dropped);
		if (!cases[i].leaves)
			continue;
		network__receive(receiver, &message);
		assert_int_equal(message.ttl, cases[i].leaves);
	}
}

/* 100 datagrams a second: one every 10 ms, and one of them ahead of time. */
static void a_rate_limit_drops_the_surplus_and_lets_through_what_it_says(void **state)
{
	(void)state;
	output.rate = 100;
	for (uint32_t ms = 0; ms < 1000; ms++) {
		transmit.now_ns = NS_PER_S + ms * MS;
		add(0, 1, 10);
	}
	flush();
	assert_in_range(counters[SLOT].sent, 100, 102);
	check_counters(counters[SLOT].sent, 10 * counters[SLOT].sent, MCR_NOT_SENT_RATE,
		       1000 - counters[SLOT].sent);
}

/* 100 bytes of payload are 1,024 bits of IPv4 packet. */
static void a_rate_limit_in_bits_counts_whole_packets(void **state)
{
	(void)state;
	output.rate = 100 * 1024;
	output.rate_in_bits = 1;
	for (uint32_t ms = 0; ms < 1000; ms++) {
		transmit.now_ns = NS_PER_S + ms * MS;
		add(0, 1, 100);
	}
	flush();
	assert_in_range(counters[SLOT].sent, 100, 102);
}

static void what_was_not_used_of_a_rate_is_not_saved_up(void **state)
{
	(void)state;
	output.rate = 1000;
	transmit.now_ns = 3600 * NS_PER_S;
	for (uint32_t i = 0; i < 1000; i++)
		add(0, 1, 10);
	flush();
	/* As many as the burst of 10 ms, and the one that fills it. */
	assert_int_equal(counters[SLOT].sent, 11);
}

/* ---- many outputs ---- */

static void all_outputs_may_be_used_in_one_batch(void **state)
{
	struct mcr_output *outputs = calloc(MCR_MAX_OUTPUTS, sizeof(*outputs));

	(void)state;
	must(outputs != NULL);
	for (uint32_t round = 0; round < 3; round++)
		for (uint32_t slot = 0; slot < MCR_MAX_OUTPUTS; slot++) {
			outputs[slot].slot = slot;
			if (slot != SLOT)
				add_to(&outputs[slot], 1, payloads[0], 10 * round);
		}
	/* Outputs share lanes, and what another one has in it leaves first. */
	assert_int_equal(transmit.dirty_count, MCR_LANES);
	add(0, 1, 100);
	assert_int_equal(transmit.dirty_count, MCR_LANES);
	flush();
	free(outputs);
	check_message(0, 1, 0, 100);
	for (uint32_t slot = 0; slot < MCR_MAX_OUTPUTS; slot++)
		assert_int_equal(counters[slot].sent +
					 counters[slot].not_sent[MCR_NOT_SENT_NO_SOCKET],
				 slot == SLOT ? 1 : 3);
}

static void one_output_does_not_hold_another_up(void **state)
{
	const struct mcr_output before = { .slot = SLOT - 1 }, after = { .slot = SLOT + 1 };

	(void)state;
	add_to(&before, 1, payloads[0], 10);
	add(1, 1, 100);
	add_to(&after, 1, payloads[0], 10);
	flush();
	check_message(1, 1, 0, 100);
	check_all_sent(1, 100);
}

#define OUTPUT_TEST(test) cmocka_unit_test_setup_teardown(test, make_output, free_output)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OUTPUT_TEST(one_payload_leaves_with_its_ttl),
		OUTPUT_TEST(equal_payloads_leave_together_with_their_ttl),
		OUTPUT_TEST(a_shorter_one_ends_a_message),
		OUTPUT_TEST(a_longer_one_begins_a_message),
		OUTPUT_TEST(another_ttl_begins_a_message),
		OUTPUT_TEST(empty_payloads_leave_alone),
		OUTPUT_TEST(a_message_has_64_payloads_at_most),
		OUTPUT_TEST(a_message_has_65507_bytes_at_most),
		OUTPUT_TEST(what_is_sent_is_forgotten),
		OUTPUT_TEST(payloads_longer_than_the_path_leave_one_by_one),
		OUTPUT_TEST(longer_payloads_leave_together_again_once_the_path_takes_them),
		OUTPUT_TEST(a_path_that_stays_short_is_tried_once_a_second),
		OUTPUT_TEST(a_socket_that_cannot_segment_sends_one_by_one),
		OUTPUT_TEST(a_payload_that_is_too_long_does_not_stop_its_neighbours),
		OUTPUT_TEST(a_payload_that_is_too_long_does_not_stop_those_gathered_with_it),
		OUTPUT_TEST(the_longest_datagram_over_ipv6_leaves),
		OUTPUT_TEST(a_refused_datagram_does_not_cost_the_next_ones),
		OUTPUT_TEST(while_nobody_listens_every_datagram_is_counted_once),
		OUTPUT_TEST(without_a_socket_nothing_is_sent),
		OUTPUT_TEST(an_output_that_fails_is_left_alone_longer_and_longer),
		OUTPUT_TEST(an_output_that_recovers_starts_over),
		OUTPUT_TEST(a_new_socket_is_tried_at_once),
		OUTPUT_TEST(a_full_queue_costs_only_what_does_not_fit),
		OUTPUT_TEST(what_cannot_send_at_all_is_left_alone),
		OUTPUT_TEST(each_ttl_policy_sends_what_it_says),
		OUTPUT_TEST(a_rate_limit_drops_the_surplus_and_lets_through_what_it_says),
		OUTPUT_TEST(a_rate_limit_in_bits_counts_whole_packets),
		OUTPUT_TEST(what_was_not_used_of_a_rate_is_not_saved_up),
		OUTPUT_TEST(all_outputs_may_be_used_in_one_batch),
		OUTPUT_TEST(one_output_does_not_hold_another_up),
	};

	is_private = network__enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

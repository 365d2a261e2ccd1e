/* The relay as a whole.  Its source is included for relay_batch(): one batch, at a time of our own.
 * Linked with --wrap=clock_gettime: CPU time is of our own, too. */
#include "../src/relay.c"

#include "fake_ring.h"
#include "must.h"
#include "network.h"
#include "packet.h"
#include "shares.h"

#include <fcntl.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>

#include "testing.h"

#define LINK_BYTES 14
#define WAIT_COST_NS 10000
#define PORT 5001
#define TTL 64

static const uint8_t nowhere[16];
static struct mcr_relay *relay;
static struct test_share share;
static struct fake_ring ring, busy, calm;
static int shared_fd;
static uint8_t group[16];
static uint64_t received_ns; /* what the next frames are stamped with */

/* ---- a relay ---- */

static void start_worker(void)
{
	relay = mcr_relay__new(dup(shared_fd));
	must(relay != NULL);
}

/* ---- the clock of CPU time ---- */

static uint64_t used_ns;
static uint32_t looks;
static int forbidden; /* an errno */

int __real_clock_gettime(clockid_t clock, struct timespec *now);

/* Between two looks at it a wait has passed. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	if (clock != CLOCK_THREAD_CPUTIME_ID)
		return __real_clock_gettime(clock, now);
	if (forbidden) {
		errno = forbidden;
		return -1;
	}
	looks++;
	used_ns += WAIT_COST_NS;
	*now = (struct timespec){ .tv_sec = used_ns / 1000000000, .tv_nsec = used_ns % 1000000000 };
	return 0;
}

static int scheduler;
static uint32_t turns_given;

int __wrap_sched_getscheduler(pid_t process)
{
	assert_int_equal(process, 0);
	return scheduler;
}

int __wrap_sched_yield(void)
{
	turns_given++;
	return 0;
}

static int make_relay(void **state)
{
	(void)state;
	shared_fd = memfd_create("counters", MFD_CLOEXEC);
	must(shared_fd >= 0);
	must(!ftruncate(shared_fd, sizeof(struct mcr_shared)));
	packet__map_v4(group, 0xEF010101);
	share__init(&share, 7);
	received_ns = 0;
	start_worker();
	return 0;
}

static int free_relay(void **state)
{
	(void)state;
	mcr_relay__free(relay);
	fake_ring__destroy_all();
	close(shared_fd);
	return 0;
}

static int install(const struct test_share *one)
{
	uint64_t bytes;
	int fd = share__file(one, &bytes);

	return mcr_relay__install(relay, fd, bytes);
}

/* Until the control descriptor is found readable, which it is. */
static int run_once(void)
{
	int control[2], result;

	must(!pipe(control));
	must(write(control[1], "", 1) == 1);
	result = mcr_relay__run(relay, control[0]);
	close(control[0]);
	close(control[1]);
	return result;
}

static void run(void)
{
	assert_int_equal(run_once(), 0);
}

static void attach_ring(struct fake_ring *one, uint32_t slot)
{
	assert_int_equal(mcr_relay__attach_ring(relay, slot, fake_ring__open(one), one->frame_bytes,
						one->frames),
			 0);
}

static void receive_any(struct fake_ring *one, uint32_t payload_bytes, uint16_t segment_bytes,
			uint8_t ttl)
{
	static uint8_t payload[65507], bytes[LINK_BYTES + PACKET_MAX_BYTES];
	struct test_packet packet = {
		.port = PORT, .ttl = ttl, .payload = payload, .payload_bytes = payload_bytes
	};
	struct fake_frame frame = { .bytes = bytes,
				    .link_bytes = LINK_BYTES,
				    .pkttype = PACKET_MULTICAST,
				    .protocol = ETH_P_IP,
				    .received_ns = received_ns };

	memcpy(packet.group, group, 16);
	frame.count = LINK_BYTES + packet__write(bytes + LINK_BYTES, &packet);
	if (segment_bytes)
		frame.offloads =
			(struct virtio_net_hdr){ .gso_type = 5, .gso_size = segment_bytes };
	must(fake_ring__receive(one, &frame));
}

static void receive(struct fake_ring *one, uint32_t payload_bytes, uint16_t segment_bytes)
{
	receive_any(one, payload_bytes, segment_bytes, TTL);
}

static void receive_ttl(struct fake_ring *one, uint8_t ttl)
{
	receive_any(one, 100, 0, ttl);
}

static void check_laws(void)
{
	const struct mcr_shared *shared = relay->shared;

	assert_int_equal(shared->sequence & 1, 0);
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++)
		assert_int_equal(shared->interfaces[slot].received,
				 shared->interfaces[slot].matched +
					 mcr_counters__sum(shared->interfaces[slot].ignored,
							   MCR_IGNORED_REASONS));
	for (uint32_t i = 0; i < share.header.rules; i++)
		for (uint32_t n = 0; n < share.rules[i].outputs; n++) {
			const struct mcr_output_counters *counters =
				&shared->outputs[share.outputs[share.rules[i].first_output + n].slot];

			assert_int_equal(shared->rules[share.rules[i].slot].matched,
					 counters->sent + mcr_counters__sum(counters->not_sent,
									    MCR_NOT_SENT_REASONS));
		}
}

/* ---- frames and tables ---- */

static void frames_wait_until_the_table_names_their_ring(void **state)
{
	(void)state;
	fake_ring__init(&ring, 2048, 8);
	receive(&ring, 100, 0);
	attach_ring(&ring, 0);
	run();
	assert_int_equal(relay->shared->interfaces[0].received, 0);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	run();
	assert_int_equal(relay->shared->interfaces[0].matched, 1);
	assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_NO_SOCKET], 1);
	check_laws();
}

/* More than one batch, some of it in the queue of whole frames. */
static void a_ring_is_emptied_before_it_is_closed(void **state)
{
	struct test_share empty;
	(void)state;
	fake_ring__init(&ring, 2048, 2000);
	attach_ring(&ring, 0);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	for (uint32_t i = 0; i < 2000; i++)
		receive(&ring, i % 10 ? 10 : 3000, 0);
	share__init(&empty, 8);
	assert_int_equal(install(&empty), 0);
	assert_int_equal(relay->shared->interfaces[0].matched, 2000);
	assert_int_equal(relay->rings[0].fd, -1);
	check_laws();
}

static void a_ring_of_long_frames_does_not_starve_another(void **state)
{
	(void)state;
	fake_ring__init(&busy, 2048, 200);
	fake_ring__init(&calm, 2048, 8);
	attach_ring(&busy, 0);
	attach_ring(&calm, 1);
	share__add_rule(&share, 0, group, PORT);
	share__add_rule(&share, 1, group, PORT);
	assert_int_equal(install(&share), 0);
	receive(&calm, 100, 0);
	for (uint32_t batch = 0; batch < 3; batch++) {
		while (fake_ring__waiting(&busy) < 100)
			receive(&busy, 65000, 0);
		relay_batch(relay, 1);
	}
	assert_int_equal(relay->shared->interfaces[1].matched, 1);
	assert_true(relay->shared->interfaces[0].matched > 100);
	check_laws();
}

static void a_super_frame_counts_as_its_datagrams(void **state)
{
	static const struct {
		uint32_t payload_bytes;
		uint16_t segment_bytes;
		uint64_t datagrams;
	} cases[] = {
		{ 8000, 1000, 8 }, { 8001, 1000, 9 },	{ 1000, 1000, 1 }, { 999, 1000, 1 },
		{ 0, 1000, 1 },	   { 65507, 1, 65507 }, { 65507, 0, 1 },   { 1, 65535, 1 },
		{ 10, 3, 4 },	   { 65507, 65506, 2 },
	};
	uint64_t datagrams = 0, bytes = 0;
	(void)state;
	fake_ring__init(&ring, 2048, 16);
	attach_ring(&ring, 0);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_FIXED, 0);
	assert_int_equal(install(&share), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		receive(&ring, cases[i].payload_bytes, cases[i].segment_bytes);
		relay_batch(relay, 1);
		datagrams += cases[i].datagrams;
		bytes += cases[i].payload_bytes;
		assert_int_equal(relay->shared->interfaces[0].matched, datagrams);
		assert_int_equal(relay->shared->rules[0].matched, datagrams);
		assert_int_equal(relay->shared->rules[0].bytes, bytes);
		assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_NO_SOCKET],
				 datagrams);
		assert_int_equal(relay->shared->outputs[1].not_sent[MCR_NOT_SENT_TTL], datagrams);
		check_laws();
	}
}

/* ---- successors ---- */

static void what_a_dead_worker_had_in_hand_is_counted_as_interrupted(void **state)
{
	struct mcr_shared *shared = relay->shared;

	(void)state;
	shared->sequence = 5;
	shared->interfaces[3] = (struct mcr_interface_counters){ .received = 10, .matched = 6 };
	shared->interfaces[3].ignored[MCR_IGNORED_SOURCE] = 1;
	shared->rules[0].matched = 6;
	shared->outputs[0].sent = 4;
	shared->outputs[1].sent = 1;
	shared->outputs[1].not_sent[MCR_NOT_SENT_DENIED] = 5;
	mcr_relay__free(relay);
	start_worker();
	shared = relay->shared;
	share__add_rule(&share, 3, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	check_laws();
	assert_int_equal(shared->interfaces[3].ignored[MCR_IGNORED_INTERRUPTED], 3);
	assert_int_equal(shared->outputs[0].not_sent[MCR_NOT_SENT_INTERRUPTED], 2);
	assert_int_equal(shared->outputs[1].not_sent[MCR_NOT_SENT_INTERRUPTED], 0);
}

static void a_successor_without_doubt_changes_nothing(void **state)
{
	static struct mcr_shared before; /* longer than a stack */

	(void)state;
	share__add_rule(&share, 3, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	relay->shared->interfaces[3].received = relay->shared->interfaces[3].matched = 9;
	relay->shared->rules[0].matched = relay->shared->outputs[0].sent = 9;
	before = *relay->shared;
	mcr_relay__free(relay);
	start_worker();
	assert_int_equal(install(&share), 0);
	assert_memory_equal(relay->shared->interfaces, before.interfaces,
			    sizeof(before.interfaces));
	assert_memory_equal(relay->shared->outputs, before.outputs, sizeof(before.outputs));
}

/* ---- shares and descriptors ---- */

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void outputs_that_the_share_does_not_name_are_closed(void **state)
{
	int named = open("/dev/null", O_WRONLY), not_named = open("/dev/null", O_WRONLY);

	(void)state;
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(mcr_relay__attach_output(relay, 0, named, nowhere, 0), 0);
	assert_int_equal(mcr_relay__attach_output(relay, 1, not_named, nowhere, 0), 0);
	assert_int_equal(install(&share), 0);
	assert_true(is_open(named));
	assert_false(is_open(not_named));
}

static void a_new_output_closes_the_one_before(void **state)
{
	int first = open("/dev/null", O_WRONLY), second = open("/dev/null", O_WRONLY);

	(void)state;
	assert_int_equal(mcr_relay__attach_output(relay, 5, first, nowhere, 0), 0);
	assert_int_equal(mcr_relay__attach_output(relay, 5, second, nowhere, 0), 0);
	assert_false(is_open(first));
	assert_true(is_open(second));
}

static void a_refused_share_changes_nothing(void **state)
{
	struct test_share bad;
	uint64_t digest;

	(void)state;
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	digest = mcr_relay__digest(relay);
	bad = share;
	bad.header.generation = 8;
	bad.rules[0].outputs = 2;
	assert_int_equal(install(&bad), -EINVAL);
	assert_int_equal(mcr_relay__digest(relay), digest);
	assert_int_equal(mcr_relay__generation(relay), 7);
	share.header.generation = 9;
	assert_int_equal(install(&share), 0);
	assert_int_equal(mcr_relay__generation(relay), 9);
}

static void descriptors_are_closed_on_failure_too(void **state)
{
	int fds[4];

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		fds[i] = open("/dev/null", O_RDWR);
	assert_int_equal(mcr_relay__attach_ring(relay, MCR_MAX_INTERFACES, fds[0], 2048, 8),
			 -EINVAL);
	assert_int_equal(mcr_relay__attach_ring(relay, 0, fds[1], 2048, 0), -EINVAL);
	assert_int_equal(mcr_relay__attach_output(relay, MCR_MAX_OUTPUTS, fds[2], nowhere, 0),
			 -EINVAL);
	assert_true(mcr_relay__install(relay, fds[3], 0) < 0);
	for (uint32_t i = 0; i < 4; i++)
		assert_false(is_open(fds[i]));
	assert_null(mcr_relay__new(-1));
	assert_int_equal(errno, EBADF);
}

static void heartbeats_tell_generation_and_digest(void **state)
{
	uint64_t before;

	(void)state;
	share__add_rule(&share, 0, group, PORT);
	assert_int_equal(install(&share), 0);
	before = relay->shared->heartbeat_ns;
	assert_true(before);
	assert_int_equal(relay->shared->generation, 7);
	assert_int_equal(relay->shared->digest, mcr_relay__digest(relay));
	relay->next_heartbeat_ns = 0;
	run();
	assert_true(relay->shared->heartbeat_ns > before);
}

/* Control is looked at once a millisecond: a system call per wait would cost more than it gives. */
static void a_relay_that_gathers_answers_control_soon(void **state)
{
	uint64_t now = 5 * NS_PER_S;
	int control[2];

	(void)state;
	must(!pipe(control));
	must(write(control[1], "", 1) == 1);
	relay->waits[CONTROL] = (struct pollfd){ .fd = control[0], .events = POLLIN };
	relay->next_control_ns = now + 1;
	assert_int_equal(wait_for_more(relay, now), 0);
	assert_int_equal(wait_for_more(relay, now + 1), 1);
	assert_int_equal(relay->next_control_ns, now + 1 + CONTROL_NS);
	assert_int_equal(relay->shared->sleeps, 2);
	assert_int_equal(relay->shared->polls, 0);
	close(control[0]);
	close(control[1]);
}

static void waiting_is_as_long_as_its_cost_allows(void **state)
{
	(void)state;
	relay->waits[CONTROL].fd = -1;
	mcr_relay__set_pace(relay, -1, 0, MCR_MAX_BATCH);
	assert_int_equal(relay->shared->coalesce_ns, 100000);
	looks = 0;
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(wait_for_more(relay, 1), 0);
	assert_in_range(relay->shared->coalesce_ns, 19 * WAIT_COST_NS, 20 * WAIT_COST_NS);
	assert_int_equal(looks, 2 * 63);
	assert_int_equal(relay->shared->sleeps, 1000);
}

static void a_wait_that_is_fixed_or_never_comes_is_not_measured(void **state)
{
	(void)state;
	relay->waits[CONTROL].fd = -1;
	looks = 0;
	mcr_relay__set_pace(relay, 1, 0, MCR_MAX_BATCH);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(wait_for_more(relay, 1), 0);
	assert_int_equal(looks, 0);
	assert_int_equal(relay->shared->coalesce_ns, 1000);
	mcr_relay__set_pace(relay, -1, 1, MCR_MAX_BATCH);
	assert_int_equal(relay->shared->coalesce_ns, 0);
}

static void a_relay_that_may_not_see_its_cpu_time_says_so(void **state)
{
	(void)state;
	forbidden = EPERM;
	mcr_relay__set_pace(relay, -1, 0, MCR_MAX_BATCH);
	assert_int_equal(run_once(), -EPERM);
	mcr_relay__set_pace(relay, 100, 0, MCR_MAX_BATCH);
	run();
	forbidden = 0;
}

static void shared_memory_of_another_build_is_refused(void **state)
{
	int fd = memfd_create("counters", MFD_CLOEXEC);

	(void)state;
	must(fd >= 0 && !ftruncate(fd, sizeof(struct mcr_shared) - 1));
	assert_null(mcr_relay__new(fd));
	assert_int_equal(errno, EINVAL);
	assert_false(is_open(fd));
}

/* A worker that never sleeps must leave the reader of the counters time to copy them. */
static void a_look_that_finds_nothing_is_no_batch(void **state)
{
	uint64_t sequence;

	(void)state;
	fake_ring__init(&ring, 2048, 8);
	attach_ring(&ring, 0);
	share__add_rule(&share, 0, group, PORT);
	assert_int_equal(install(&share), 0);
	sequence = relay->shared->sequence;
	for (uint32_t i = 0; i < 10; i++)
		relay_batch(relay, NS_PER_S);
	assert_int_equal(relay->shared->sequence, sequence);
	receive(&ring, 100, 0);
	relay_batch(relay, NS_PER_S);
	assert_int_equal(relay->shared->sequence, sequence + 2);
}

/* ---- loops ---- */

/* Datagrams of one payload, received one after the other. */
static void receive_equal(uint32_t count, uint8_t ttl)
{
	for (uint32_t i = 0; i < count; i++) {
		receive_ttl(&ring, ttl);
		relay_batch(relay, NS_PER_S);
	}
}

static void start_loop(void)
{
	fake_ring__init(&ring, 2048, 8);
	attach_ring(&ring, 0);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
}

static void a_datagram_that_comes_again_and_again_with_a_ttl_of_1_is_found(void **state)
{
	const uint64_t *not_sent = relay->shared->outputs[0].not_sent;
	struct mcr_loop loop;

	(void)state;
	start_loop();
	receive_equal(99, 1);
	assert_false(relay->loop_found);
	assert_int_equal(not_sent[MCR_NOT_SENT_TTL], 0);
	receive_equal(1, 1);
	assert_true(relay->loop_found);
	loop = mcr_relay__loop(relay);
	assert_int_equal(loop.rule, 0);
	assert_memory_equal(loop.group, group, 16);
	assert_int_equal(not_sent[MCR_NOT_SENT_TTL], 1);
	receive_equal(10, 1);
	assert_int_equal(not_sent[MCR_NOT_SENT_TTL], 11);
	receive_equal(10, 2);
	assert_int_equal(not_sent[MCR_NOT_SENT_TTL], 11);
	check_laws();
}

static void a_broken_loop_is_guarded_for_a_while_and_told_once(void **state)
{
	(void)state;
	start_loop();
	receive_equal(100, 1);
	relay->loop_found = false;
	receive_equal(500, 1);
	assert_false(relay->loop_found);
	relay_batch(relay, NS_PER_S);
	receive_ttl(&ring, 1);
	relay_batch(relay, 11 * NS_PER_S - 1);
	assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_TTL], 502);
	receive_ttl(&ring, 1);
	relay_batch(relay, 11 * NS_PER_S);
	assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_TTL], 502);
	check_laws();
}

static void equal_datagrams_that_have_time_to_live_are_no_loop(void **state)
{
	(void)state;
	start_loop();
	receive_equal(1000, 2);
	assert_false(relay->loop_found);
	assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_TTL], 0);
}

/* The same while a share is installed, at the time of the clock. */
static void install_during_loop(const struct test_share *next)
{
	fake_ring__init(&ring, 2048, 256);
	attach_ring(&ring, 0);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	for (uint32_t i = 0; i < 110; i++)
		receive_ttl(&ring, 1);
	assert_int_equal(install(next), 0);
}

static void a_loop_that_is_found_during_an_install_is_told_afterwards(void **state)
{
	(void)state;
	install_during_loop(&share);
	assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_TTL], 11);
	assert_int_equal(run_once(), 1);
	assert_memory_equal(mcr_relay__loop(relay).group, group, 16);
	assert_int_equal(run_once(), 0);
}

static void a_rule_does_not_inherit_the_loop_of_the_one_that_had_its_slot(void **state)
{
	const uint64_t *not_sent = relay->shared->outputs[0].not_sent;
	struct test_share empty;

	(void)state;
	share__init(&empty, 8);
	empty.header.interfaces = 1;
	install_during_loop(&empty);
	assert_int_equal(run_once(), 0);
	assert_int_equal(not_sent[MCR_NOT_SENT_TTL], 11);
	assert_int_equal(install(&share), 0);
	receive_ttl(&ring, 1);
	assert_int_equal(run_once(), 0);
	assert_int_equal(not_sent[MCR_NOT_SENT_TTL], 11);
	assert_int_equal(relay->shared->rules[0].matched, 111);
}

static void a_rule_that_stays_is_guarded_on(void **state)
{
	(void)state;
	install_during_loop(&share);
	assert_int_equal(run_once(), 1);
	receive_ttl(&ring, 1);
	assert_int_equal(run_once(), 0);
	assert_int_equal(relay->shared->outputs[0].not_sent[MCR_NOT_SENT_TTL], 12);
}

/* Whether or not a rule of the share names it. */
static void every_interface_of_the_header_is_read(void **state)
{
	(void)state;
	fake_ring__init(&ring, 2048, 8);
	fake_ring__init(&calm, 2048, 8);
	attach_ring(&ring, 0);
	attach_ring(&calm, 63);
	share__add_rule(&share, 0, group, PORT);
	share.header.interfaces = 1ull << 63;
	receive(&calm, 100, 0);
	assert_int_equal(install(&share), 0);
	run();
	assert_int_equal(relay->rings[0].fd, -1);
	assert_int_equal(relay->shared->interfaces[63].received, 1);
	assert_int_equal(relay->shared->interfaces[63].ignored[MCR_IGNORED_NO_RULE], 1);
	share.header.interfaces = 0;
	assert_int_equal(install(&share), 0);
	assert_int_equal(relay->rings[63].fd, -1);
	check_laws();
}

/* ---- latency ---- */

static uint64_t sum_of_latencies(uint32_t rule)
{
	return mcr_counters__sum(relay->shared->latencies[rule].buckets, MCR_RULE_LATENCY_BUCKETS);
}

static uint64_t realtime_ns(void)
{
	struct timespec clock;

	must(!clock_gettime(CLOCK_REALTIME, &clock));
	return (uint64_t)clock.tv_sec * NS_PER_S + (uint64_t)clock.tv_nsec;
}

static void latency_is_counted_per_rule_and_datagram(void **state)
{
	(void)state;
	fake_ring__init(&ring, 2048, 8);
	fake_ring__init(&calm, 2048, 8);
	attach_ring(&ring, 0);
	attach_ring(&calm, 1);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_rule(&share, 1, group, PORT);
	assert_int_equal(install(&share), 0);
	/* Between 1 s (bucket 80, beyond the last) and 40 ms: the last bucket takes all from 48 ms.
	 */
	received_ns = realtime_ns() - NS_PER_S;
	receive(&ring, 1000, 300);
	received_ns = realtime_ns() + 3600 * NS_PER_S; /* a clock that was set back */
	receive(&calm, 10, 0);
	relay_batch(relay, 1);
	assert_int_equal(sum_of_latencies(0), 4);
	assert_int_equal(relay->shared->latencies[0].buckets[MCR_RULE_LATENCY_BUCKETS - 1], 4);
	assert_int_equal(sum_of_latencies(1), 1);
	assert_int_equal(relay->shared->latencies[1].buckets[0], 1);
	relay_batch(relay, 2);
	assert_int_equal(sum_of_latencies(0) + sum_of_latencies(1), 5);
}

/* Datagrams that wait, of all policies. */
static void start_loop_of_each_ttl_policy(void)
{
	fake_ring__init(&ring, 2048, 256);
	attach_ring(&ring, 0);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_KEEP, 0);
	share__add_output(&share, MCR_TTL_DECREMENT, 0);
	share__add_output(&share, MCR_TTL_FIXED, 5);
	assert_int_equal(install(&share), 0);
}

static void receive_times(struct fake_ring *one, uint32_t times, uint8_t ttl)
{
	while (times--)
		receive_ttl(one, ttl);
}

static void receive_and_run(uint32_t times, uint64_t next_control_ns)
{
	receive_times(&ring, times, TTL);
	relay->next_control_ns = next_control_ns;
	run();
}

static void a_realtime_relay_gives_way_as_often_as_it_looks_at_control(void **state)
{
	const struct mcr_interface_counters *interface = &relay->shared->interfaces[0];

	(void)state;
	start_loop_of_each_ttl_policy();
	turns_given = 0;
	scheduler = SCHED_FIFO;
	mcr_relay__set_pace(relay, 100, 0, 10);
	receive_and_run(35, 0);
	assert_int_equal(interface->received, 10);
	assert_int_equal(turns_given, 1);
	receive_and_run(0, UINT64_MAX);
	assert_int_equal(interface->received, 35);
	assert_int_equal(turns_given, 1);
	scheduler = SCHED_OTHER;
	receive_and_run(35, 0);
	assert_int_equal(interface->received, 45);
	assert_int_equal(turns_given, 1);
	scheduler = SCHED_FIFO;
	mcr_relay__set_pace(relay, 100, 1, 10);
	receive_and_run(0, 0);
	assert_int_equal(interface->received, 55);
	assert_int_equal(turns_given, 1);
}

static void a_timer_stands_by_from_the_second_wait_on(void **state)
{
	int control[2];

	(void)state;
	must(!pipe(control));
	must(write(control[1], "", 1) == 1);
	relay->waits[CONTROL] = (struct pollfd){ .fd = control[0], .events = POLLIN };
	assert_int_equal(wait_for_packets(relay, NS_PER_S), 1);
	assert_int_equal(relay->standby.due_ns, 0);
	assert_int_equal(wait_for_packets(relay, NS_PER_S + 1000), 1);
	assert_int_equal(relay->standby.due_ns, NS_PER_S + 1000 + relay->standby.span_ns);
	close(control[0]);
	close(control[1]);
}

static void check_without_ttl(uint64_t automatic, uint64_t decremented)
{
	const struct mcr_output_counters *outputs = relay->shared->outputs;

	assert_int_equal(outputs[0].not_sent[MCR_NOT_SENT_TTL], automatic);
	assert_int_equal(outputs[1].not_sent[MCR_NOT_SENT_TTL], 0);
	assert_int_equal(outputs[2].not_sent[MCR_NOT_SENT_TTL], decremented);
	assert_int_equal(outputs[3].not_sent[MCR_NOT_SENT_TTL], 0);
	check_laws();
}

static void a_loop_ends_the_run_and_the_next_goes_on(void **state)
{
	int control[2];

	(void)state;
	start_loop_of_each_ttl_policy();
	must(!pipe(control));
	receive_times(&ring, 100, 1);
	assert_int_equal(mcr_relay__run(relay, control[0]), 1);
	receive_times(&ring, 100, 1);
	run();
	check_without_ttl(101, 200);
	close(control[0]);
	close(control[1]);
}

static void the_guard_drops_only_what_has_run_out_under_auto(void **state)
{
	uint64_t now = 1000 * NS_PER_S;

	(void)state;
	start_loop_of_each_ttl_policy();
	receive_times(&ring, 99, 1);
	relay_batch(relay, now);
	check_without_ttl(0, 99);
	receive_times(&ring, 1, 0);
	relay_batch(relay, now + 1);
	assert_true(relay->loop_found);
	/* ttl: keep gives what arrived, which is nothing. */
	assert_int_equal(relay->shared->outputs[1].not_sent[MCR_NOT_SENT_TTL], 1);
	relay->shared->outputs[1].not_sent[MCR_NOT_SENT_TTL] = 0;
	relay->shared->outputs[1].not_sent[MCR_NOT_SENT_OTHER] = 1;
	check_without_ttl(1, 100);
	receive_times(&ring, 200, 2);
	relay_batch(relay, now + 2);
	check_without_ttl(1, 100);
	receive_times(&ring, 5, 1);
	relay_batch(relay, now + 3);
	check_without_ttl(6, 105);
}

static void the_guard_of_one_rule_is_not_that_of_another(void **state)
{
	(void)state;
	fake_ring__init(&calm, 2048, 256);
	start_loop_of_each_ttl_policy();
	share__add_rule(&share, 1, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	attach_ring(&calm, 1);
	assert_int_equal(install(&share), 0);
	receive_times(&ring, 99, 1);
	receive_times(&calm, 99, 1);
	relay_batch(relay, 1000 * NS_PER_S);
	assert_false(relay->loop_found);
	receive_times(&calm, 1, 1);
	relay_batch(relay, 1000 * NS_PER_S + 1);
	assert_true(relay->loop_found);
	assert_int_equal(mcr_relay__loop(relay).rule, 1);
	receive(&ring, 50, 0);
	receive_any(&ring, 50, 0, 1);
	receive_any(&calm, 50, 0, 1);
	relay_batch(relay, 1000 * NS_PER_S + 2);
	check_without_ttl(0, 100);
	assert_int_equal(relay->shared->outputs[4].not_sent[MCR_NOT_SENT_TTL], 2);
}

/* ---- trace and watch ---- */

static void a_traced_rule_leaves_entries_and_no_other(void **state)
{
	const struct mcr_trace *trace;

	(void)state;
	fake_ring__init(&ring, 2048, 64);
	fake_ring__init(&calm, 2048, 64);
	attach_ring(&ring, 0);
	attach_ring(&calm, 1);
	share__add_rule(&share, 0, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_FIXED, 0);
	share__add_rule(&share, 1, group, PORT);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
	trace = &relay->shared->trace;
	relay->shared->trace.rule = 1;
	relay->shared->trace.every = 3;
	received_ns = 1700000000123456789;
	for (uint32_t i = 0; i < 9; i++) {
		receive(&ring, 10 + i, 0);
		receive(&calm, 20, 0);
	}
	relay_batch(relay, 1);
	assert_int_equal(trace->written, 6);
	for (uint32_t i = 0; i < 6; i++) {
		const struct mcr_trace_entry *entry = &trace->entries[i];

		assert_int_equal(entry->number, i + 1);
		assert_int_equal(entry->output, i % 2);
		assert_int_equal(entry->bytes, 10 + i / 2 * 3);
		assert_int_equal(entry->received_ns, 1700000000123456789);
		assert_int_equal(entry->ttl, TTL);
		assert_int_equal(entry->verdict,
				 1 + (i % 2 ? MCR_NOT_SENT_TTL : MCR_NOT_SENT_NO_SOCKET));
	}
	relay->shared->trace.rule = 0;
	receive(&ring, 10, 0);
	relay_batch(relay, 2);
	assert_int_equal(trace->written, 6);
}

static void watches_are_closed_with_their_interface(void **state)
{
	int named = open("/dev/null", O_RDWR), not_named = open("/dev/null", O_RDWR),
	    later = open("/dev/null", O_RDWR), wrong = open("/dev/null", O_RDWR);

	(void)state;
	share.header.interfaces = 1;
	assert_int_equal(mcr_relay__attach_watch(relay, 0, named), 0);
	assert_int_equal(mcr_relay__attach_watch(relay, 1, not_named), 0);
	assert_int_equal(mcr_relay__attach_watch(relay, MCR_MAX_INTERFACES, wrong), -EINVAL);
	assert_false(is_open(wrong));
	assert_int_equal(install(&share), 0);
	assert_true(is_open(named));
	assert_false(is_open(not_named));
	assert_int_equal(mcr_relay__attach_watch(relay, 0, later), 0);
	assert_false(is_open(named));
	assert_true(is_open(later));
}

static void a_share_longer_than_its_file_is_refused(void **state)
{
	uint64_t bytes;
	int fd;

	(void)state;
	share__add_rule(&share, 0, group, PORT);
	fd = share__file(&share, &bytes);
	assert_int_equal(mcr_relay__install(relay, fd, bytes + 100000), -EINVAL);
	assert_false(is_open(fd));
	assert_int_equal(mcr_relay__generation(relay), 0);
}

/* ---- on the loopback device ---- */

static struct network_message message;

/* A rule for a port of 127.0.0.1, whose output is a receiver. */
static void relay_loopback(int *sender, int *receiver)
{
	uint16_t port = 0, input = 0;
	int unused = network__open_receiver(4, &input);

	*receiver = network__open_receiver(4, &port);
	*sender = network__open_output(4, input);
	close(unused);
	assert_int_equal(mcr_relay__attach_ring(relay, 0, network__open_ring(2048, 512), 2048, 512),
			 0);
	assert_int_equal(
		mcr_relay__attach_output(relay, 0, network__open_output(4, port), nowhere, 0), 0);
	packet__map_v4(group, 0x7F000001);
	share__add_rule(&share, 0, group, input);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(install(&share), 0);
}

/* Port unreachable is what the sender hears: it asked for it. */
static void send_payload(int sender, const uint8_t *payload, size_t bytes)
{
	if (send(sender, payload, bytes, 0) < 0)
		assert_int_equal(send(sender, payload, bytes, 0), bytes);
}

static void real_datagrams_are_relayed_whole_and_in_order(void **state)
{
	static uint8_t payloads[100][65507];
	int sender, receiver;

	if (!*state)
		skip();
	relay_loopback(&sender, &receiver);
	for (uint32_t i = 0; i < 100; i++) {
		uint32_t bytes = i % 10 == 9 ? 65507 : i * 37;

		memset(payloads[i], (int)i, bytes);
		send_payload(sender, payloads[i], bytes);
		run();
		network__receive(receiver, &message);
		assert_int_equal(message.bytes, bytes);
		assert_memory_equal(message.payload, payloads[i], bytes);
		assert_int_equal(message.ttl, TTL - 1);
	}
	assert_int_equal(relay->shared->outputs[0].sent, 100);
	check_laws();
	close(sender);
	close(receiver);
}

static void real_super_frames_are_relayed_as_their_datagrams(void **state)
{
	static uint8_t payload[60000];
	int sender, receiver, segment = 1000;

	if (!*state)
		skip();
	relay_loopback(&sender, &receiver);
	must(!setsockopt(sender, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)));
	for (uint32_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i / 1000);
	for (uint32_t bytes = 1500; bytes <= sizeof(payload); bytes += 4500) {
		uint64_t before = relay->shared->outputs[0].sent;

		send_payload(sender, payload, bytes);
		run();
		network__receive(receiver, &message);
		assert_int_equal(message.bytes, bytes);
		assert_int_equal(message.segment_bytes, 1000);
		assert_memory_equal(message.payload, payload, bytes);
		assert_int_equal(relay->shared->outputs[0].sent - before, (bytes + 999) / 1000);
	}
	check_laws();
	close(sender);
	close(receiver);
}

/* The error that it leaves at the socket would end every wait at once. */
static void a_link_that_flaps_does_not_keep_the_relay_awake(void **state)
{
	const struct itimerspec beat = { .it_value.tv_nsec = HEARTBEAT_NS };
	int sender, receiver, control[2];
	uint64_t before;

	if (!*state)
		skip();
	relay_loopback(&sender, &receiver);
	network__set_loopback(false, 65536);
	network__set_loopback(true, 65536);
	must(!pipe(control));
	relay->waits[CONTROL] = (struct pollfd){ .fd = control[0], .events = POLLIN };
	before = relay->shared->polls;
	must(!timerfd_settime(relay->waits[HEARTBEAT].fd, 0, &beat, NULL));
	relay->next_heartbeat_ns = UINT64_MAX;
	assert_int_equal(wait_for_packets(relay, 1), 0);
	assert_int_equal(relay->next_heartbeat_ns, UINT64_MAX);
	assert_int_equal(wait_for_packets(relay, 1), 0);
	assert_int_equal(relay->next_heartbeat_ns, 0);
	assert_int_equal(relay->shared->polls - before, 2);
	close(control[0]);
	close(control[1]);
	close(sender);
	close(receiver);
}

static bool is_private;

static int make_relay_in_network(void **state)
{
	*state = is_private ? &is_private : NULL;
	make_relay(NULL);
	return 0;
}

#define RELAY_TEST(test) cmocka_unit_test_setup_teardown(test, make_relay, free_relay)
#define NETWORK_TEST(test) cmocka_unit_test_setup_teardown(test, make_relay_in_network, free_relay)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RELAY_TEST(frames_wait_until_the_table_names_their_ring),
		RELAY_TEST(a_ring_is_emptied_before_it_is_closed),
		RELAY_TEST(a_ring_of_long_frames_does_not_starve_another),
		RELAY_TEST(a_super_frame_counts_as_its_datagrams),
		RELAY_TEST(what_a_dead_worker_had_in_hand_is_counted_as_interrupted),
		RELAY_TEST(a_successor_without_doubt_changes_nothing),
		RELAY_TEST(outputs_that_the_share_does_not_name_are_closed),
		RELAY_TEST(a_new_output_closes_the_one_before),
		RELAY_TEST(a_refused_share_changes_nothing),
		RELAY_TEST(descriptors_are_closed_on_failure_too),
		RELAY_TEST(heartbeats_tell_generation_and_digest),
		RELAY_TEST(waiting_is_as_long_as_its_cost_allows),
		RELAY_TEST(a_wait_that_is_fixed_or_never_comes_is_not_measured),
		RELAY_TEST(a_realtime_relay_gives_way_as_often_as_it_looks_at_control),
		RELAY_TEST(a_timer_stands_by_from_the_second_wait_on),
		RELAY_TEST(a_relay_that_may_not_see_its_cpu_time_says_so),
		RELAY_TEST(shared_memory_of_another_build_is_refused),
		RELAY_TEST(a_relay_that_gathers_answers_control_soon),
		RELAY_TEST(a_look_that_finds_nothing_is_no_batch),
		RELAY_TEST(a_datagram_that_comes_again_and_again_with_a_ttl_of_1_is_found),
		RELAY_TEST(a_broken_loop_is_guarded_for_a_while_and_told_once),
		RELAY_TEST(equal_datagrams_that_have_time_to_live_are_no_loop),
		RELAY_TEST(a_loop_that_is_found_during_an_install_is_told_afterwards),
		RELAY_TEST(a_rule_does_not_inherit_the_loop_of_the_one_that_had_its_slot),
		RELAY_TEST(a_rule_that_stays_is_guarded_on),
		RELAY_TEST(every_interface_of_the_header_is_read),
		RELAY_TEST(latency_is_counted_per_rule_and_datagram),
		RELAY_TEST(a_loop_ends_the_run_and_the_next_goes_on),
		RELAY_TEST(the_guard_drops_only_what_has_run_out_under_auto),
		RELAY_TEST(the_guard_of_one_rule_is_not_that_of_another),
		RELAY_TEST(a_traced_rule_leaves_entries_and_no_other),
		RELAY_TEST(watches_are_closed_with_their_interface),
		RELAY_TEST(a_share_longer_than_its_file_is_refused),
		NETWORK_TEST(real_datagrams_are_relayed_whole_and_in_order),
		NETWORK_TEST(real_super_frames_are_relayed_as_their_datagrams),
		NETWORK_TEST(a_link_that_flaps_does_not_keep_the_relay_awake),
	};

	is_private = network__enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

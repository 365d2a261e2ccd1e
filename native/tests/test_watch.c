/* Linked with --wrap=recvmmsg and --wrap=clock_gettime: packets and time are of our own. */
#include "../src/watch.h"
#include "must.h"
#include "packet.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "testing.h"

#define QUEUE 1024
#define FD 12345
#define LONGEST 2000

static struct mcr_unmatched table;
static uint64_t clock_ns;

/* ---- a socket ---- */

static struct {
	uint8_t bytes[LONGEST];
	uint32_t count;
	uint16_t protocol;
} queue[QUEUE];
static uint32_t queued, taken;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	assert_int_equal(clock, CLOCK_REALTIME);
	now->tv_sec = (time_t)(clock_ns / 1000000000);
	now->tv_nsec = (long)(clock_ns % 1000000000);
	return 0;
}

/* As packet_recvmsg(): with MSG_TRUNC the length is that of the packet. */
static uint32_t hand_over(struct msghdr *message)
{
	struct sockaddr_ll link = { .sll_family = AF_PACKET,
				    .sll_protocol = htons(queue[taken].protocol) };
	uint32_t count = queue[taken].count;

	assert_int_equal(message->msg_iovlen, 1);
	assert_true(message->msg_namelen >= sizeof(link));
	memcpy(message->msg_name, &link, sizeof(link));
	memcpy(message->msg_iov->iov_base, queue[taken].bytes,
	       count < message->msg_iov->iov_len ? count : message->msg_iov->iov_len);
	taken++;
	return count;
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout)
{
	unsigned int given = 0;

	assert_int_equal(fd, FD);
	assert_int_equal(flags, MSG_DONTWAIT | MSG_TRUNC);
	assert_null(timeout);
	for (; given < count && taken < queued; given++)
		messages[given].msg_len = hand_over(&messages[given].msg_hdr);
	return given ? (int)given : -1;
}

static int make_table(void **state)
{
	(void)state;
	memset(&table, 0, sizeof(table));
	queued = taken = 0;
	clock_ns = 1000;
	return 0;
}

static void queue_packet(const struct test_packet *packet)
{
	must(queued < QUEUE);
	queue[queued].protocol = packet->ipv6 ? ETH_P_IPV6 : ETH_P_IP;
	queue[queued].count = packet__write(queue[queued].bytes, packet);
	queued++;
}

static struct test_packet packet_to(uint32_t group, uint16_t port)
{
	static uint8_t payload[LONGEST];
	struct test_packet packet = {
		.port = port, .ttl = 1, .payload = payload, .payload_bytes = 10
	};

	packet__map_v4(packet.source, 0x0A000001);
	packet__map_v4(packet.group, group);
	return packet;
}

static void look(uint32_t interface)
{
	mcr_watch__look(&table, FD, interface);
}

static uint32_t entries_in_use(void)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < MCR_UNMATCHED_ENTRIES; i++)
		count += table.entries[i].packets > 0;
	return count;
}

static const struct mcr_unmatched_entry *entry_of(const struct test_packet *packet,
						  uint32_t interface)
{
	const struct mcr_unmatched_entry *found = NULL;

	for (uint32_t i = 0; i < MCR_UNMATCHED_ENTRIES; i++) {
		const struct mcr_unmatched_entry *entry = &table.entries[i];

		if (!entry->packets || entry->interface != interface ||
		    entry->port != packet->port || memcmp(entry->group, packet->group, 16) ||
		    memcmp(entry->source, packet->source, 16))
			continue;
		assert_null(found);
		found = entry;
	}
	return found;
}

/* ---- what is noted ---- */

static void packets_are_noted_by_interface_group_port_and_source(void **state)
{
	struct test_packet first = packet_to(0xEF010101, 5001), second = first, third = first,
			   fourth = first;

	(void)state;
	second.port++;
	third.group[14]++;
	fourth.source[13]++;
	for (uint32_t interface = 0; interface < 3; interface += 2) {
		queue_packet(&first);
		queue_packet(&second);
		queue_packet(&first);
		queue_packet(&third);
		queue_packet(&fourth);
		queue_packet(&first);
		look(interface);
	}
	assert_int_equal(entries_in_use(), 8);
	for (uint32_t interface = 0; interface < 3; interface += 2) {
		assert_int_equal(entry_of(&first, interface)->packets, 3);
		assert_int_equal(entry_of(&second, interface)->packets, 1);
		assert_int_equal(entry_of(&third, interface)->packets, 1);
		assert_int_equal(entry_of(&fourth, interface)->packets, 1);
	}
}

/* Changes after which the hash gives the same four places. */
static void those_of_the_same_places_are_told_apart_by_every_part(void **state)
{
	struct test_packet one = packet_to(0xEF010101, 5001), others[4];

	for (uint32_t i = 0; i < 4; i++)
		others[i] = one;
	others[1].port += 64;
	others[2].group[13]++;
	others[3].source[13]++;
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t interface = i ? 0 : 64;

		make_table(state);
		queue_packet(&one);
		look(0);
		queue_packet(&others[i]);
		look(interface);
		queue_packet(&one);
		look(0);
		assert_int_equal(entries_in_use(), 2);
		assert_int_equal(entry_of(&one, 0)->packets, 2);
		assert_int_equal(entry_of(&others[i], interface)->packets, 1);
	}
}

static void the_last_time_is_kept(void **state)
{
	struct test_packet packet = packet_to(0xEF010101, 5001);

	(void)state;
	queue_packet(&packet);
	look(0);
	assert_int_equal(entry_of(&packet, 0)->last_seen_ns, 1000);
	clock_ns = 1700000000123456789;
	queue_packet(&packet);
	look(0);
	assert_int_equal(entry_of(&packet, 0)->last_seen_ns, 1700000000123456789);
	assert_int_equal(entry_of(&packet, 0)->packets, 2);
}

static void ipv6_is_noted(void **state)
{
	struct test_packet packet = packet_to(0, 5001);

	(void)state;
	packet.ipv6 = true;
	memset(packet.source, 0xFD, 16);
	memset(packet.group, 0xFF, 16);
	queue_packet(&packet);
	look(7);
	assert_int_equal(entry_of(&packet, 7)->packets, 1);
}

/* Of long ones only the beginning is read. */
static void packets_of_every_length_are_noted(void **state)
{
	struct test_packet packet = packet_to(0xEF010101, 5001);

	(void)state;
	for (packet.payload_bytes = 0; packet.payload_bytes < 120; packet.payload_bytes++)
		queue_packet(&packet);
	packet.payload_bytes = LONGEST - 100;
	queue_packet(&packet);
	look(0);
	assert_int_equal(entry_of(&packet, 0)->packets, 121);
	assert_int_equal(entries_in_use(), 1);
}

static void what_is_not_udp_or_malformed_is_not_noted(void **state)
{
	struct test_packet packet = packet_to(0xEF010101, 5001);

	(void)state;
	for (uint32_t i = 0; i < 5; i++)
		queue_packet(&packet);
	queue[0].protocol = ETH_P_ARP;
	queue[1].bytes[9] = IPPROTO_TCP;
	packet__finish_header(queue[1].bytes);
	queue[2].count = 19;
	queue[3].count = 27;
	queue[4].bytes[0] = 0x65;
	look(0);
	assert_int_equal(taken, 5);
	assert_int_equal(entries_in_use(), 0);
}

/* ---- bounds ---- */

static void one_look_is_at_256_packets_at_most(void **state)
{
	struct test_packet packet = packet_to(0xEF010101, 5001);

	(void)state;
	for (uint32_t i = 0; i < 600; i++)
		queue_packet(&packet);
	look(0);
	assert_int_equal(taken, 256);
	assert_int_equal(entry_of(&packet, 0)->packets, 256);
	look(0);
	look(0);
	look(0);
	assert_int_equal(taken, 600);
	assert_int_equal(entry_of(&packet, 0)->packets, 600);
}

/* Each as the only one of its look, so that all times differ. */
static void look_at_groups(uint32_t first, uint32_t count, uint32_t step)
{
	for (uint32_t i = 0; i < count; i++) {
		struct test_packet packet = packet_to(0xEF000000 + first + i * step, 5001);

		queued = taken = 0;
		queue_packet(&packet);
		clock_ns += 1000;
		look(0);
	}
}

static void the_table_is_bounded_and_filled(void **state)
{
	(void)state;
	look_at_groups(0, 10000, 1);
	assert_int_equal(entries_in_use(), MCR_UNMATCHED_ENTRIES);
	for (uint32_t i = 0; i < MCR_UNMATCHED_ENTRIES; i++)
		assert_int_equal(table.entries[i].packets, 1);
}

/* Groups that differ in their second byte only have the same four places. */
static void the_oldest_of_four_places_is_replaced(void **state)
{
	struct test_packet packets[6];

	(void)state;
	for (uint32_t i = 0; i < 6; i++)
		packets[i] = packet_to(0xEF000000 + i * 0x10000, 5001);
	look_at_groups(0, 4, 0x10000);
	look_at_groups(0, 1, 0x10000); /* the first, seen again, is no longer the oldest */
	assert_int_equal(entries_in_use(), 4);
	look_at_groups(4 * 0x10000, 1, 1);
	assert_null(entry_of(&packets[1], 0));
	assert_int_equal(entry_of(&packets[0], 0)->packets, 2);
	look_at_groups(5 * 0x10000, 1, 1);
	assert_null(entry_of(&packets[2], 0));
	for (uint32_t i = 3; i < 6; i++)
		assert_int_equal(entry_of(&packets[i], 0)->packets, 1);
	assert_int_equal(entries_in_use(), 4);
}

static void a_place_that_is_taken_over_starts_anew(void **state)
{
	struct test_packet packet = packet_to(0xEF000000, 5001);

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		queue_packet(&packet);
	look(0);
	look_at_groups(0x10000, 4, 0x10000);
	assert_null(entry_of(&packet, 0));
	look_at_groups(0, 1, 1);
	assert_int_equal(entry_of(&packet, 0)->packets, 1);
}

#define WATCH_TEST(test) cmocka_unit_test_setup(test, make_table)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WATCH_TEST(packets_are_noted_by_interface_group_port_and_source),
		WATCH_TEST(those_of_the_same_places_are_told_apart_by_every_part),
		WATCH_TEST(the_last_time_is_kept),
		WATCH_TEST(ipv6_is_noted),
		WATCH_TEST(packets_of_every_length_are_noted),
		WATCH_TEST(what_is_not_udp_or_malformed_is_not_noted),
		WATCH_TEST(one_look_is_at_256_packets_at_most),
		WATCH_TEST(the_table_is_bounded_and_filled),
		WATCH_TEST(the_oldest_of_four_places_is_replaced),
		WATCH_TEST(a_place_that_is_taken_over_starts_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

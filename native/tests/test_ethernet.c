/* Whole packets over a cable of our own, read back at its other end. */
#include "../src/transmit.h"
#include "must.h"
#include "network.h"
#include "packet.h"

#include <linux/if_ether.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "testing.h"

#define SLOT 7
#define MTU 1500
#define UDP_BYTES 8
#define NO_WAIT_MS 20

static const uint8_t link_source[6] = { 2, 0, 0, 0, 0, 0x99 };
static const uint8_t group_v4[16] = { [10] = 0xFF, 0xFF, 239, 129, 1, 2 };
static const uint8_t source_v4[16] = { [10] = 0xFF, 0xFF, 10, 0, 0, 9 };
static const uint8_t group_v6[16] = { 0xFF, 0x35, [11] = 7, 0x80, 1, 2, 3 };
static const uint8_t source_v6[16] = { 0xFD, [15] = 9 };

static struct mcr_transmit transmit;
static struct mcr_shared *shared;
static struct mcr_output_counters *counters;
static struct mcr_output output;
static struct mcr_datagram datagram;
static struct network_frame frame;
static uint8_t payload[65536];
static int capture;
static bool has_cable;

static void use(int ip_version)
{
	memcpy(datagram.group, ip_version == 4 ? group_v4 : group_v6, 16);
	memcpy(datagram.source, ip_version == 4 ? source_v4 : source_v6, 16);
	memcpy(output.address, datagram.group, 16);
	output.ipv6 = ip_version == 6;
}

static int make_output(void **state)
{
	(void)state;
	if (!has_cable)
		return 0;
	memset(&transmit, 0, sizeof(transmit));
	shared = calloc(1, sizeof(*shared));
	must(shared != NULL);
	counters = &shared->outputs[SLOT];
	must(!mcr_transmit__init(&transmit, shared));
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		transmit.packet_fds[i] = network__open_packet_output();
	transmit.now_ns = 1;
	for (uint32_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 7 + i / 251);
	datagram = (struct mcr_datagram){
		.source_port = 40123, .port = 5001, .ttl = 17, .dscp = 46, .payload = payload
	};
	output = (struct mcr_output){ .engine = MCR_ENGINE_KEEPING,
				      .ttl_policy = MCR_TTL_KEEP,
				      .prefix_bits = 128,
				      .port = 6001,
				      .ifindex = if_nametoindex("left"),
				      .mtu = MTU,
				      .link_bytes = ETH_HLEN,
				      .slot = SLOT };
	memcpy(output.link_source, link_source, 6);
	network__set_left(true, false);
	capture = network__open_capture();
	use(4);
	return 0;
}

static int free_output(void **state)
{
	(void)state;
	if (!has_cable)
		return 0;
	mcr_transmit__free(&transmit);
	close(capture);
	free(shared);
	return 0;
}

static void want_cable(void)
{
	if (!has_cable)
		skip();
}

static void add(const uint8_t *from, uint32_t bytes)
{
	datagram.payload = from;
	datagram.payload_bytes = bytes;
	mcr_transmit__add(&transmit, &output, &datagram, 0);
}

static void send_one(const uint8_t *from, uint32_t bytes)
{
	add(from, bytes);
	mcr_transmit__flush(&transmit);
}

static void check_sent(uint64_t sent, uint64_t bytes)
{
	const struct mcr_output_counters want = { .sent = sent, .bytes = bytes };

	assert_memory_equal(counters, &want, sizeof(want));
}

static void check_nothing_came(void)
{
	network__capture(capture, link_source, NO_WAIT_MS, &frame);
	assert_int_equal(frame.count, -1);
}

/* ---- what comes out ---- */

static void check_link(const uint8_t destination[6], uint16_t protocol)
{
	assert_memory_equal(frame.bytes, destination, 6);
	assert_int_equal(packet__get16(frame.bytes + 12), protocol);
}

/* Give what is behind the IP header; the fragment field is the caller's. */
static const uint8_t *check_ipv4(uint32_t *bytes)
{
	static const uint8_t destination[6] = { 0x01, 0x00, 0x5E, 0x01, 0x01, 0x02 };
	const uint8_t *ip = frame.bytes + ETH_HLEN;
	uint8_t right[20];

	check_link(destination, ETH_P_IP);
	assert_true(frame.count >= ETH_HLEN + 20);
	memcpy(right, ip, 20);
	packet__finish_header(right);
	assert_memory_equal(ip, right, 20);
	assert_int_equal(ip[0], 0x45);
	assert_int_equal(ip[1], datagram.dscp << 2);
	assert_int_equal(packet__get16(ip + 2), frame.count - ETH_HLEN);
	assert_int_equal(ip[8], datagram.ttl);
	assert_int_equal(ip[9], IPPROTO_UDP);
	assert_memory_equal(ip + 12, datagram.source + 12, 4);
	assert_memory_equal(ip + 16, output.address + 12, 4);
	*bytes = (uint32_t)frame.count - ETH_HLEN - 20;
	return ip + 20;
}

static const uint8_t *check_ipv6(uint32_t *bytes)
{
	static const uint8_t destination[6] = { 0x33, 0x33, 0x80, 0x01, 0x02, 0x03 };
	const uint8_t *ip = frame.bytes + ETH_HLEN;

	check_link(destination, ETH_P_IPV6);
	assert_true(frame.count >= ETH_HLEN + 40);
	assert_int_equal(packet__get16(ip), 0x6000 | datagram.dscp << 6);
	assert_int_equal(packet__get16(ip + 2), 0);
	assert_int_equal(packet__get16(ip + 4), frame.count - ETH_HLEN - 40);
	assert_int_equal(ip[6], IPPROTO_UDP);
	assert_int_equal(ip[7], datagram.ttl);
	assert_memory_equal(ip + 8, datagram.source, 16);
	assert_memory_equal(ip + 24, output.address, 16);
	*bytes = (uint32_t)frame.count - ETH_HLEN - 40;
	return ip + 40;
}

static void check_udp(const uint8_t *udp, uint32_t bytes, const uint8_t *want, uint32_t want_bytes)
{
	assert_int_equal(bytes, UDP_BYTES + want_bytes);
	assert_int_equal(packet__get16(udp), datagram.source_port);
	assert_int_equal(packet__get16(udp + 2), output.port);
	assert_int_equal(packet__get16(udp + 4), bytes);
	if (want_bytes)
		assert_memory_equal(udp + UDP_BYTES, want, want_bytes);
}

/* With the checksum that the device or whoever was last has put in. */
static void check_checksum(const uint8_t *ip, const uint8_t *udp, uint32_t bytes)
{
	bool ipv6 = ip[0] >> 4 == 6;

	assert_int_equal(packet__get16(udp + 6),
			 packet__checksum(ip + (ipv6 ? 8 : 12), ipv6 ? 32 : 8, udp, bytes));
}

static void receive(void)
{
	network__capture(capture, link_source, 1000, &frame);
	assert_int_not_equal(frame.count, -1);
}

/* The next frame is a whole datagram with this payload; give its identification. */
static uint16_t check_datagram(const uint8_t *want, uint32_t want_bytes)
{
	const uint8_t *ip = frame.bytes + ETH_HLEN, *udp;
	uint32_t bytes;

	receive();
	if (ip[0] >> 4 == 6) {
		udp = check_ipv6(&bytes);
	} else {
		udp = check_ipv4(&bytes);
		assert_int_equal(packet__get16(ip + 6), 0);
	}
	assert_true(frame.count <= ETH_HLEN + MTU);
	check_udp(udp, bytes, want, want_bytes);
	check_checksum(ip, udp, bytes);
	return packet__get16(ip + 4);
}

/* ---- single datagrams ---- */

static void every_length_has_right_headers(void **state)
{
	uint32_t sent = 0, bytes = 0;

	(void)state;
	want_cable();
	for (int version = 4; version <= 6; version += 2) {
		uint32_t most = MTU - UDP_BYTES - (version == 4 ? 20 : 40);

		use(version);
		for (uint32_t i = 0; i < 140; i++) {
			uint32_t length = i < 70 ? i : most - (139 - i);

			send_one(payload, length);
			check_datagram(payload, length);
			sent++;
			bytes += length;
		}
	}
	check_sent(sent, bytes);
}

/* Zero would say that there is none. */
static void a_checksum_of_zero_is_sent_as_ffff(void **state)
{
	uint8_t two[2] = { 0 };

	(void)state;
	want_cable();
	for (int version = 4; version <= 6; version += 2) {
		uint32_t seen = 0;

		use(version);
		send_one(two, 2);
		check_datagram(two, 2);
		/* Whatever the sum over zeroes lacks. */
		packet__put16(two, packet__get16(frame.bytes + frame.count - 4));
		send_one(two, 2);
		check_datagram(two, 2);
		seen = packet__get16(frame.bytes + frame.count - 4);
		assert_int_equal(seen, 0xFFFF);
		memset(two, 0, 2);
	}
}

static void ttl_dscp_and_destination_are_the_outputs(void **state)
{
	static const uint8_t other[16] = { [10] = 0xFF, 0xFF, 238, 129, 0, 0 };

	(void)state;
	want_cable();
	output.ttl_policy = MCR_TTL_FIXED;
	output.dscp_policy = MCR_DSCP_FIXED;
	output.ttl = 99;
	output.dscp = 63;
	output.prefix_bits = 112;
	memcpy(output.address, other, 16);
	output.port = 0;
	output.port_offset = 10;
	send_one(payload, 100);
	datagram.ttl = 99;
	datagram.dscp = 63;
	output.port = 5011;
	memcpy(output.address + 14, group_v4 + 14, 2);
	check_datagram(payload, 100);
}

/* By turns, and yet each source's leave together: as many as there are lanes. */
static void datagrams_of_different_sources_keep_them(void **state)
{
	(void)state;
	want_cable();
	for (uint32_t i = 0; i < 12; i++) {
		datagram.source[15] = (uint8_t)(i % 3);
		datagram.source_port = (uint16_t)(40000 + i % 3 * 8);
		add(payload + i, 100);
	}
	assert_int_equal(transmit.dirty_count, 3);
	mcr_transmit__flush(&transmit);
	for (uint32_t i = 0; i < 12; i++) {
		uint32_t number = i / 4 + i % 4 * 3;

		datagram.source[15] = (uint8_t)(number % 3);
		datagram.source_port = (uint16_t)(40000 + number % 3 * 8);
		check_datagram(payload + number, 100);
	}
	check_sent(12, 1200);
}

/* ---- fragments ---- */

struct whole {
	uint8_t bytes[65536];
	uint32_t count;
	uint32_t fragments;
	uint16_t id;
};

/* Give whether more are to come. */
static bool put_fragment(struct whole *whole)
{
	const uint8_t *ip = frame.bytes + ETH_HLEN, *data;
	uint16_t field = packet__get16(ip + 6);
	uint32_t bytes;

	data = check_ipv4(&bytes);
	assert_true(frame.count <= ETH_HLEN + (ssize_t)output.mtu);
	assert_int_equal((field & 0x1FFF) * 8, whole->count);
	assert_int_equal(field & 0xC000, 0);
	if (field & 0x2000)
		assert_int_equal(bytes % 8, 0);
	if (!whole->fragments++)
		whole->id = packet__get16(ip + 4);
	assert_int_equal(packet__get16(ip + 4), whole->id);
	memcpy(whole->bytes + whole->count, data, bytes);
	whole->count += bytes;
	return field & 0x2000;
}

static void receive_fragments(struct whole *whole)
{
	whole->count = whole->fragments = 0;
	do
		receive();
	while (put_fragment(whole));
}

static void fragments_make_the_datagram_again(void **state)
{
	static const struct {
		uint32_t mtu, bytes, fragments;
	} cases[] = {
		{ 1500, 1473, 2 }, { 1500, 1480, 2 },	{ 1500, 2951, 2 }, { 1500, 2952, 2 },
		{ 1500, 2953, 3 }, { 1500, 9000, 7 },	{ 1499, 1472, 2 }, { 1500, 2960, 3 },
		{ 576, 1000, 2 },  { 1500, 65507, 45 }, { 36, 65, 5 },	   { 37, 10, 2 },
		{ 1281, 4000, 4 }, { 577, 5000, 10 },
	};
	static struct whole whole;
	uint16_t last_id = 0;

	(void)state;
	want_cable();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		output.mtu = cases[i].mtu;
		send_one(payload + i, cases[i].bytes);
		receive_fragments(&whole);
		assert_int_equal(whole.fragments, cases[i].fragments);
		check_udp(whole.bytes, whole.count, payload + i, cases[i].bytes);
		check_checksum(frame.bytes + ETH_HLEN, whole.bytes, whole.count);
		assert_true(!i || whole.id != last_id);
		last_id = whole.id;
		assert_int_equal(counters->sent, i + 1);
	}
	check_nothing_came();
}

static void long_and_short_ones_leave_in_order(void **state)
{
	static struct whole whole;

	(void)state;
	want_cable();
	for (uint32_t i = 0; i < 9; i++)
		add(payload + i, i % 3 == 2 ? 10 : 2000);
	mcr_transmit__flush(&transmit);
	for (uint32_t i = 0; i < 9; i++) {
		receive_fragments(&whole);
		check_udp(whole.bytes, whole.count, payload + i, i % 3 == 2 ? 10 : 2000);
	}
	check_sent(9, 6 * 2000 + 3 * 10);
}

static void ipv6_is_not_fragmented_for_its_source(void **state)
{
	(void)state;
	want_cable();
	use(6);
	add(payload, 1452);
	add(payload, 1453);
	add(payload, 9000);
	add(payload, 100);
	mcr_transmit__flush(&transmit);
	check_datagram(payload, 1452);
	check_datagram(payload, 100);
	check_nothing_came();
	assert_int_equal(counters->sent, 2);
	assert_int_equal(counters->not_sent[MCR_NOT_SENT_TOO_LONG], 2);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 0);
}

/* ---- super-packets ---- */

/* The kernel cuts them for a device that cannot. */
static void super_packets_arrive_as_their_datagrams(void **state)
{
	uint16_t id, last_id = 0;

	(void)state;
	want_cable();
	for (int version = 4; version <= 6; version += 2) {
		use(version);
		for (uint32_t round = 0; round < 3; round++) {
			for (uint32_t i = 0; i < 40; i++)
				add(payload + i, i < 39 ? 999 + round : 1 + round);
			assert_int_equal(transmit.lanes[transmit.dirty[0]].gathered, 40);
			mcr_transmit__flush(&transmit);
			for (uint32_t i = 0; i < 40; i++) {
				id = check_datagram(payload + i, i < 39 ? 999 + round : 1 + round);
				assert_true(version == 6 || (!round && !i) || id != last_id);
				last_id = id;
			}
		}
	}
	check_sent(240, 6 * 39 * 1000 + 12);
}

/* As a device that can is told, the checksum unfinished. */
static void super_packets_say_how_to_cut_them(void **state)
{
	const uint8_t *ip = frame.bytes + ETH_HLEN, *udp;
	uint32_t bytes;

	(void)state;
	want_cable();
	network__set_left(true, true);
	for (int version = 4; version <= 6; version += 2) {
		uint32_t headers = version == 4 ? 20 : 40;

		use(version);
		for (uint32_t i = 0; i < 9; i++)
			add(payload + 1001 * i, i < 8 ? 1001 : 5);
		mcr_transmit__flush(&transmit);
		receive();
		udp = version == 4 ? check_ipv4(&bytes) : check_ipv6(&bytes);
		check_udp(udp, bytes, payload, 8013);
		assert_int_equal(frame.offloads.gso_type, 5); /* VIRTIO_NET_HDR_GSO_UDP_L4 */
		assert_int_equal(frame.offloads.gso_size, 1001);
		assert_int_equal(frame.offloads.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
		assert_int_equal(frame.offloads.csum_start, ETH_HLEN + headers);
		assert_int_equal(frame.offloads.csum_offset, 6);
		assert_true(frame.offloads.hdr_len >= ETH_HLEN + headers + UDP_BYTES);
		assert_int_equal(packet__get16(udp + 6),
				 packet__pseudo_sum(ip + (version == 4 ? 12 : 8),
						    version == 4 ? 8 : 32, bytes));
	}
	check_sent(18, 2 * 8013);
}

static void the_longest_super_packet_leaves_whole(void **state)
{
	(void)state;
	want_cable();
	network__set_left(true, true);
	for (uint32_t i = 0; i < 64; i++)
		add(payload, 1023);
	assert_int_equal(transmit.lanes[transmit.dirty[0]].bytes, 64 * 1023);
	mcr_transmit__flush(&transmit);
	receive();
	assert_int_equal(frame.count, ETH_HLEN + 20 + UDP_BYTES + 64 * 1023);
	check_sent(64, 64 * 1023);
}

static void segments_above_the_mtu_leave_as_fragments(void **state)
{
	static struct whole whole;

	(void)state;
	want_cable();
	for (uint32_t i = 0; i < 3; i++)
		add(payload + i, 1473);
	mcr_transmit__flush(&transmit);
	for (uint32_t i = 0; i < 3; i++) {
		receive_fragments(&whole);
		assert_int_equal(whole.fragments, 2);
		check_udp(whole.bytes, whole.count, payload + i, 1473);
	}
	check_sent(3, 3 * 1473);
}

/* ---- errors ---- */

static void an_interface_that_is_down_has_its_reason(void **state)
{
	(void)state;
	want_cable();
	network__set_left(false, false);
	for (uint32_t i = 0; i < 3; i++)
		add(payload, 100);
	mcr_transmit__flush(&transmit);
	assert_int_equal(counters->not_sent[MCR_NOT_SENT_DOWN], 3);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 10000000);
	network__set_left(true, false);
	transmit.now_ns += 10000000;
	send_one(payload, 100);
	check_datagram(payload, 100);
}

static void an_interface_that_is_gone_has_its_reason(void **state)
{
	(void)state;
	want_cable();
	output.ifindex = 9999;
	send_one(payload, 100);
	assert_int_equal(counters->not_sent[MCR_NOT_SENT_DOWN], 1);
}

#define ETHERNET_TEST(test) cmocka_unit_test_setup_teardown(test, make_output, free_output)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ETHERNET_TEST(every_length_has_right_headers),
		ETHERNET_TEST(a_checksum_of_zero_is_sent_as_ffff),
		ETHERNET_TEST(ttl_dscp_and_destination_are_the_outputs),
		ETHERNET_TEST(datagrams_of_different_sources_keep_them),
		ETHERNET_TEST(fragments_make_the_datagram_again),
		ETHERNET_TEST(long_and_short_ones_leave_in_order),
		ETHERNET_TEST(ipv6_is_not_fragmented_for_its_source),
		ETHERNET_TEST(super_packets_arrive_as_their_datagrams),
		ETHERNET_TEST(super_packets_say_how_to_cut_them),
		ETHERNET_TEST(the_longest_super_packet_leaves_whole),
		ETHERNET_TEST(segments_above_the_mtu_leave_as_fragments),
		ETHERNET_TEST(an_interface_that_is_down_has_its_reason),
		ETHERNET_TEST(an_interface_that_is_gone_has_its_reason),
	};

	has_cable = network__enter() && network__plug_cable();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

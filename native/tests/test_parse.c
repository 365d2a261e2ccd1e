#include "must.h"
#include "packet.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "testing.h"

#define REASON(name) (-(MCR_IGNORED_##name + 1))

/* Each was received by a Linux UDP socket through a tun device, and, but for the one without a
 * checksum, no longer once its last bit was flipped. */
static const struct known {
	const char *name;
	uint16_t protocol;
	const char *hex;
	const char *payload;
} known[] = {
	{ "IPv4", ETH_P_IP,
	  "4500"
	  "0026"
	  "1c46"
	  "4000"
	  "1011"
	  "3a6f"
	  "0a000009"
	  "0a090001"
	  "9c40"
	  "1389"
	  "0012"
	  "230c"
	  "6d756c74696361737421",
	  "multicast!" },
	{ "IPv4, odd length", ETH_P_IP,
	  "4500"
	  "0025"
	  "1c46"
	  "4000"
	  "1011"
	  "3a70"
	  "0a000009"
	  "0a090001"
	  "9c40"
	  "1389"
	  "0011"
	  "232f"
	  "6d756c746963617374",
	  "multicast" },
	{ "IPv4, empty", ETH_P_IP,
	  "4500"
	  "001c"
	  "1c46"
	  "4000"
	  "1011"
	  "3a79"
	  "0a000009"
	  "0a090001"
	  "9c40"
	  "1389"
	  "0008"
	  "3c02",
	  "" },
	{ "IPv4 with options", ETH_P_IP,
	  "4600"
	  "002c"
	  "1c46"
	  "4000"
	  "1011"
	  "a564"
	  "0a000009"
	  "0a090001"
	  "94040000"
	  "9c40"
	  "1389"
	  "0014"
	  "ef58"
	  "726f7574657220616c657274",
	  "router alert" },
	{ "IPv4, checksum of zero is sent as ffff", ETH_P_IP,
	  "4500"
	  "001e"
	  "1c46"
	  "4000"
	  "1011"
	  "3a77"
	  "0a000009"
	  "0a090001"
	  "9c40"
	  "1389"
	  "000a"
	  "ffff"
	  "3bfe",
	  "\x3b\xfe" },
	{ "IPv4, carries", ETH_P_IP,
	  "4500"
	  "0035"
	  "1c46"
	  "4000"
	  "1011"
	  "3a60"
	  "0a000009"
	  "0a090001"
	  "9c40"
	  "1389"
	  "0021"
	  "3ccf"
	  "ffffffffffffffffffffffffffffffffffffffffffffffffff",
	  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
	  "\xff\xff\xff" },
	{ "IPv6", ETH_P_IPV6,
	  "60000000"
	  "0012"
	  "11"
	  "10"
	  "fd000000000000000000000000000009"
	  "fd090000000000000000000000000001"
	  "9c40"
	  "1389"
	  "0012"
	  "3d0a"
	  "6d756c74696361737421",
	  "multicast!" },
	{ "IPv6, odd length", ETH_P_IPV6,
	  "60000000"
	  "0011"
	  "11"
	  "10"
	  "fd000000000000000000000000000009"
	  "fd090000000000000000000000000001"
	  "9c40"
	  "1389"
	  "0011"
	  "3d2d"
	  "6d756c746963617374",
	  "multicast" },
};

static uint32_t from_hex(uint8_t *at, const char *hex)
{
	uint32_t bytes = (uint32_t)strlen(hex) / 2;

	for (uint32_t i = 0; i < bytes; i++) {
		unsigned int value;

		must(sscanf(hex + 2 * i, "%2x", &value) == 1);
		at[i] = (uint8_t)value;
	}
	return bytes;
}

/* Parse a copy that is exactly as long as the packet, so that the sanitizer sees what reads on. */
static int parse_as(uint16_t protocol, const uint8_t *bytes, uint32_t count, bool checksum_known,
		    struct mcr_datagram *datagram)
{
	static uint8_t *copy;
	struct mcr_packet packet = { .bytes = count,
				     .protocol = protocol,
				     .checksum_known = checksum_known };

	free(copy);
	copy = malloc(count ? count : 1);
	must(copy != NULL);
	memcpy(copy, bytes, count);
	packet.data = copy;
	return mcr_parse__packet(&packet, datagram);
}

static int parse(uint16_t protocol, const uint8_t *bytes, uint32_t count)
{
	struct mcr_datagram datagram;

	return parse_as(protocol, bytes, count, false, &datagram);
}

/* ---- whole packets ---- */

static void known_packets_give_their_payload(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		struct mcr_datagram datagram;
		uint8_t bytes[128];
		uint32_t count = from_hex(bytes, known[i].hex);

		assert_int_equal(parse_as(known[i].protocol, bytes, count, false, &datagram), 0);
		assert_int_equal(datagram.payload_bytes, strlen(known[i].payload));
		assert_memory_equal(datagram.payload, known[i].payload, datagram.payload_bytes);
		assert_int_equal(datagram.port, 5001);
		assert_int_equal(datagram.source_port, 40000);
		assert_int_equal(datagram.ttl, 16);
		assert_int_equal(datagram.dscp, 0);
		assert_int_equal(datagram.source[15], 9);
		assert_int_equal(datagram.group[15], 1);
		assert_int_equal(datagram.group[0], known[i].protocol == ETH_P_IP ? 0 : 0xFD);
	}
}

static void dscp_is_read_without_the_bits_of_ecn(void **state)
{
	struct mcr_datagram datagram;
	uint8_t bytes[128];
	uint32_t count;

	(void)state;
	for (uint32_t field = 0; field < 256; field++) {
		count = from_hex(bytes, known[0].hex);
		bytes[1] = (uint8_t)field;
		packet__finish_header(bytes);
		assert_int_equal(parse_as(ETH_P_IP, bytes, count, false, &datagram), 0);
		assert_int_equal(datagram.dscp, field / 4);
		count = from_hex(bytes, known[6].hex);
		packet__put16(bytes, 0x600F | field << 4);
		assert_int_equal(parse_as(ETH_P_IPV6, bytes, count, false, &datagram), 0);
		assert_int_equal(datagram.dscp, field / 4);
	}
}

static void ipv4_addresses_are_mapped(void **state)
{
	static const uint8_t source[16] = { [10] = 0xFF, 0xFF, 10, 0, 0, 9 };
	static const uint8_t group[16] = { [10] = 0xFF, 0xFF, 10, 9, 0, 1 };
	struct mcr_datagram datagram;
	uint8_t bytes[128];
	uint32_t count = from_hex(bytes, known[0].hex);

	(void)state;
	assert_int_equal(parse_as(ETH_P_IP, bytes, count, false, &datagram), 0);
	assert_memory_equal(datagram.source, source, 16);
	assert_memory_equal(datagram.group, group, 16);
}

/* Ethernet pads short frames to 60 bytes. */
static void padding_is_not_payload(void **state)
{
	struct mcr_datagram datagram;
	uint8_t bytes[256];

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		uint32_t count = from_hex(bytes, known[i].hex);

		memset(bytes + count, 0xEE, 64);
		assert_int_equal(parse_as(known[i].protocol, bytes, count + 64, false, &datagram),
				 0);
		assert_int_equal(datagram.payload_bytes, strlen(known[i].payload));
	}
}

static void every_beginning_is_refused(void **state)
{
	uint8_t bytes[128];

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		uint32_t headers = known[i].protocol == ETH_P_IP ? 20 : 40;

		for (uint32_t count = from_hex(bytes, known[i].hex); count--;)
			assert_int_equal(parse(known[i].protocol, bytes, count),
					 count < headers ? REASON(MALFORMED) : REASON(TRUNCATED));
	}
}

/* ---- checksums ---- */

static void every_flipped_bit_under_the_checksum_is_seen(void **state)
{
	uint8_t bytes[128];

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		uint32_t count = from_hex(bytes, known[i].hex);
		/* Addresses, UDP header and payload; not the options between them. */
		uint32_t udp = count - 8 - (uint32_t)strlen(known[i].payload);
		uint32_t first = known[i].protocol == ETH_P_IP ? 12 : 8;

		for (uint32_t at = first; at < count; at++) {
			if (known[i].protocol == ETH_P_IP && at >= 20 && at < udp)
				continue;
			for (uint32_t bit = 0; bit < 8; bit++) {
				bytes[at] ^= (uint8_t)(1 << bit);
				assert_int_not_equal(parse(known[i].protocol, bytes, count), 0);
				bytes[at] ^= (uint8_t)(1 << bit);
			}
		}
	}
}

/* Whoever knows the checksum of UDP says nothing about that of the header. */
static void every_flipped_bit_of_an_ipv4_header_is_seen(void **state)
{
	struct mcr_datagram datagram;
	uint8_t bytes[128];

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		uint32_t count = from_hex(bytes, known[i].hex), header = (bytes[0] & 0x0F) * 4u;

		assert_int_equal(known[i].protocol, ETH_P_IP);
		for (uint32_t bit = 0; bit < 8 * header; bit++) {
			int reason;

			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			for (uint32_t checksum_known = 0; checksum_known < 2; checksum_known++) {
				reason =
					parse_as(ETH_P_IP, bytes, count, checksum_known, &datagram);
				/* Version, header length and total length may be malformed too. */
				if (bit >= 32)
					assert_int_equal(reason, REASON(CHECKSUM));
				else
					assert_int_not_equal(reason, 0);
			}
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
}

static void a_wrong_ipv4_header_is_not_asked_what_it_carries(void **state)
{
	uint8_t bytes[128];
	uint32_t count = from_hex(bytes, known[0].hex);

	(void)state;
	bytes[9] = IPPROTO_TCP;
	assert_int_equal(parse(ETH_P_IP, bytes, count), REASON(CHECKSUM));
	packet__finish_header(bytes);
	assert_int_equal(parse(ETH_P_IP, bytes, count), REASON(NOT_UDP));
	packet__put16(bytes + 6, 0x2000);
	assert_int_equal(parse(ETH_P_IP, bytes, count), REASON(CHECKSUM));
}

static void a_known_checksum_is_not_computed(void **state)
{
	struct mcr_datagram datagram;
	uint8_t bytes[128];
	uint32_t count = from_hex(bytes, known[0].hex);

	(void)state;
	bytes[count - 1] ^= 1;
	assert_int_equal(parse_as(ETH_P_IP, bytes, count, false, &datagram), REASON(CHECKSUM));
	assert_int_equal(parse_as(ETH_P_IP, bytes, count, true, &datagram), 0);
}

static void no_checksum_is_allowed_over_ipv4_only(void **state)
{
	uint8_t bytes[128];
	uint32_t count;

	(void)state;
	count = from_hex(bytes, known[0].hex);
	packet__put16(bytes + 26, 0);
	assert_int_equal(parse(ETH_P_IP, bytes, count), 0);
	count = from_hex(bytes, known[6].hex);
	packet__put16(bytes + 46, 0);
	assert_int_equal(parse(ETH_P_IPV6, bytes, count), REASON(CHECKSUM));
}

static void lengths_up_to_the_longest_are_summed_right(void **state)
{
	static uint8_t payload[65507], bytes[PACKET_MAX_BYTES];
	struct test_packet packet = { .port = 5001, .ttl = 1, .payload = payload };

	(void)state;
	memset(payload, 0xFF, sizeof(payload));
	for (uint32_t i = 0; i < 130; i++) {
		packet.payload_bytes = i < 65 ? i : (uint32_t)sizeof(payload) - (i - 65);
		packet.ipv6 = false;
		assert_int_equal(parse(ETH_P_IP, bytes, packet__write(bytes, &packet)), 0);
		packet.ipv6 = true;
		assert_int_equal(parse(ETH_P_IPV6, bytes, packet__write(bytes, &packet)), 0);
	}
}

/* ---- what is refused, and why ---- */

struct change {
	const char *name;
	uint32_t at;
	uint16_t value; /* put over two bytes */
	int reason;
};

static void check_changes(uint16_t protocol, const char *hex, const struct change *changes)
{
	uint8_t bytes[128];

	for (; changes->name; changes++) {
		uint32_t count = from_hex(bytes, hex);
		int reason;

		packet__put16(bytes + changes->at, changes->value);
		if (protocol == ETH_P_IP)
			packet__finish_header(bytes);
		reason = parse(protocol, bytes, count);
		if (reason != changes->reason)
			print_error("%s\n", changes->name);
		assert_int_equal(reason, changes->reason);
	}
}

static void contradictions_in_ipv4_have_their_reason(void **state)
{
	static const struct change changes[] = {
		{ "version 6", 0, 0x6500, REASON(MALFORMED) },
		{ "version 0", 0, 0x0500, REASON(MALFORMED) },
		{ "header of 16 bytes", 0, 0x4400, REASON(MALFORMED) },
		{ "header longer than the packet", 0, 0x4F00, REASON(MALFORMED) },
		{ "header up to the last 4 bytes", 0, 0x4800, REASON(MALFORMED) },
		{ "total shorter than the header", 2, 19, REASON(MALFORMED) },
		{ "total of zero", 2, 0, REASON(MALFORMED) },
		{ "no room for UDP", 2, 27, REASON(MALFORMED) },
		{ "total longer than the packet", 2, 39, REASON(TRUNCATED) },
		{ "total of 65,535", 2, 0xFFFF, REASON(TRUNCATED) },
		{ "TCP", 8, 0x1006, REASON(NOT_UDP) },
		{ "more fragments", 6, 0x2000, REASON(FRAGMENT) },
		{ "later fragment", 6, 0x0001, REASON(FRAGMENT) },
		{ "last fragment far away", 6, 0x1FFF, REASON(FRAGMENT) },
		{ "don't fragment", 6, 0x4000, 0 },
		{ "reserved flag", 6, 0x8000, 0 },
		{ "UDP length below its header", 24, 7, REASON(MALFORMED) },
		{ "UDP length of zero", 24, 0, REASON(MALFORMED) },
		{ "UDP length beyond IP", 24, 19, REASON(MALFORMED) },
		{ "UDP length of 65,535", 24, 0xFFFF, REASON(MALFORMED) },
		{ "UDP length shorter than IP says", 24, 17, REASON(CHECKSUM) },
		{ NULL, 0, 0, 0 },
	};

	(void)state;
	check_changes(ETH_P_IP, known[0].hex, changes);
}

static void contradictions_in_ipv6_have_their_reason(void **state)
{
	static const struct change changes[] = {
		{ "version 4", 0, 0x4000, REASON(MALFORMED) },
		{ "no room for UDP", 4, 7, REASON(MALFORMED) },
		{ "length of zero, as in jumbograms", 4, 0, REASON(MALFORMED) },
		{ "length beyond the packet", 4, 19, REASON(TRUNCATED) },
		{ "length of 65,535", 4, 0xFFFF, REASON(TRUNCATED) },
		{ "fragment", 6, IPPROTO_FRAGMENT << 8 | 16, REASON(FRAGMENT) },
		{ "hop-by-hop options", 6, IPPROTO_HOPOPTS << 8 | 16, REASON(MALFORMED) },
		{ "ICMP", 6, IPPROTO_ICMPV6 << 8 | 16, REASON(NOT_UDP) },
		{ "traffic class and flow label", 0, 0x6ABC, 0 },
		{ "UDP length below its header", 44, 7, REASON(MALFORMED) },
		{ "UDP length beyond IP", 44, 19, REASON(MALFORMED) },
		{ NULL, 0, 0, 0 },
	};

	(void)state;
	check_changes(ETH_P_IPV6, known[6].hex, changes);
}

/* Put so many units of eight bytes between the IPv6 and the UDP header; give the packet's length.
 */
static uint32_t insert(uint8_t *bytes, uint8_t kind, const uint8_t *header, uint32_t units)
{
	uint32_t count = from_hex(bytes, known[6].hex);

	memmove(bytes + 40 + 8 * units, bytes + 40, count - 40);
	memcpy(bytes + 40, header, 8 * units);
	bytes[6] = kind;
	packet__put16(bytes + 4, count - 40 + 8 * units);
	return count + 8 * units;
}

static void extension_headers_are_skipped_or_have_their_reason(void **state)
{
	static const struct {
		uint8_t kind;
		uint8_t header[16];
		uint32_t units;
		int expected;
	} cases[] = {
		{ IPPROTO_HOPOPTS, { 17, 0, 5, 2, 0, 0, 1, 0 }, 1, 0 },
		{ IPPROTO_DSTOPTS, { 17, 1, 1, 12 }, 2, 0 },
		{ IPPROTO_DSTOPTS, { 17, 1, 0x3F, 11, [15] = 0 }, 2, 0 },
		{ IPPROTO_DSTOPTS, { 17, 1, 1, 13 }, 2, REASON(MALFORMED) },
		{ IPPROTO_DSTOPTS, { 17, 1, 1, 11, [15] = 1 }, 2, REASON(MALFORMED) },
		{ IPPROTO_DSTOPTS, { 17, 0, 0x40, 4 }, 1, REASON(EXTENSION) },
		{ IPPROTO_HOPOPTS, { 17, 0, 0xC2, 4 }, 1, REASON(EXTENSION) },
		{ IPPROTO_ROUTING, { 17, 0, 4, 0 }, 1, 0 },
		{ IPPROTO_ROUTING, { 17, 0, 4, 1 }, 1, REASON(EXTENSION) },
		{ IPPROTO_DSTOPTS, { 17, 9 }, 1, REASON(MALFORMED) },
		{ IPPROTO_DSTOPTS,
		  { IPPROTO_HOPOPTS, 0, 1, 4, [8] = 17, 0, 1, 4 },
		  2,
		  REASON(MALFORMED) },
		{ IPPROTO_HOPOPTS, { IPPROTO_DSTOPTS, 0, 1, 4, [8] = 17, 0, 1, 4 }, 2, 0 },
		{ IPPROTO_DSTOPTS, { IPPROTO_FRAGMENT, 0, 1, 4 }, 1, REASON(FRAGMENT) },
		{ IPPROTO_DSTOPTS, { IPPROTO_TCP, 0, 1, 4 }, 1, REASON(NOT_UDP) },
	};
	uint8_t bytes[128];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		uint32_t count = insert(bytes, cases[i].kind, cases[i].header, cases[i].units);

		assert_int_equal(parse(ETH_P_IPV6, bytes, count), cases[i].expected);
		assert_int_equal(parse(ETH_P_IPV6, bytes, count - 1), REASON(TRUNCATED));
		for (uint32_t whole = 40; whole < 48 + 8 * cases[i].units; whole++) {
			packet__put16(bytes + 4, whole - 40);
			assert_true(parse(ETH_P_IPV6, bytes, whole) < 0);
		}
	}
}

/* Each ends where the packet says, so that nothing behind it may be read. */
static void packets_too_short_for_udp_are_malformed(void **state)
{
	uint8_t bytes[128];

	(void)state;
	from_hex(bytes, known[0].hex);
	for (uint32_t count = 20; count < 28; count++) {
		packet__put16(bytes + 2, count);
		packet__finish_header(bytes);
		assert_int_equal(parse(ETH_P_IP, bytes, count), REASON(MALFORMED));
	}
	from_hex(bytes, known[6].hex);
	for (uint32_t count = 40; count < 48; count++) {
		packet__put16(bytes + 4, count - 40);
		assert_int_equal(parse(ETH_P_IPV6, bytes, count), REASON(MALFORMED));
	}
}

static void other_protocols_are_not_udp(void **state)
{
	uint8_t bytes[128];
	uint32_t count = from_hex(bytes, known[0].hex);

	(void)state;
	assert_int_equal(parse(ETH_P_ARP, bytes, count), REASON(NOT_UDP));
	assert_int_equal(parse(0, bytes, count), REASON(NOT_UDP));
	assert_int_equal(parse(ETH_P_8021Q, bytes, count), REASON(VLAN));
	assert_int_equal(parse(ETH_P_8021AD, bytes, count), REASON(VLAN));
	assert_int_equal(parse(ETH_P_IPV6, bytes, count), REASON(MALFORMED));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_packets_give_their_payload),
		cmocka_unit_test(dscp_is_read_without_the_bits_of_ecn),
		cmocka_unit_test(ipv4_addresses_are_mapped),
		cmocka_unit_test(padding_is_not_payload),
		cmocka_unit_test(every_beginning_is_refused),
		cmocka_unit_test(every_flipped_bit_under_the_checksum_is_seen),
		cmocka_unit_test(every_flipped_bit_of_an_ipv4_header_is_seen),
		cmocka_unit_test(a_wrong_ipv4_header_is_not_asked_what_it_carries),
		cmocka_unit_test(a_known_checksum_is_not_computed),
		cmocka_unit_test(no_checksum_is_allowed_over_ipv4_only),
		cmocka_unit_test(lengths_up_to_the_longest_are_summed_right),
		cmocka_unit_test(contradictions_in_ipv4_have_their_reason),
		cmocka_unit_test(contradictions_in_ipv6_have_their_reason),
		cmocka_unit_test(extension_headers_are_skipped_or_have_their_reason),
		cmocka_unit_test(packets_too_short_for_udp_are_malformed),
		cmocka_unit_test(other_protocols_are_not_udp),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

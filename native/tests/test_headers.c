/*
 * Whole packets byte for byte, as they are handed to the kernel.
 *
 * Linked with --wrap=sendmsg and --wrap=sendmmsg: what leaves is kept instead of sent.
 */
#include "../src/transmit.h"
#include "must.h"
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "testing.h"

#define SLOT 7
#define IFINDEX 42
#define NS_PER_S 1000000000ull
#define MOST_MESSAGES 8
#define MOST_BYTES 2048

static struct mcr_transmit transmit;
static struct mcr_shared *shared;
static struct mcr_output output;
static struct mcr_datagram datagram;
static int udp_fd;

/* ---- the kernel ---- */

static struct {
	uint8_t bytes[MOST_BYTES];
	uint32_t count;
	uint16_t protocol;
	int fd;
} sent[MOST_MESSAGES];
static uint32_t messages_sent, calls;
static int packet_error; /* of every call on a packet socket */

static void keep(int fd, const struct msghdr *message)
{
	const struct sockaddr_ll *link = message->msg_name;

	must(messages_sent < MOST_MESSAGES);
	sent[messages_sent].fd = fd;
	sent[messages_sent].protocol = 0;
	if (fd != udp_fd) {
		must(message->msg_namelen == sizeof(*link) && link->sll_family == AF_PACKET);
		assert_int_equal(link->sll_ifindex, IFINDEX);
		sent[messages_sent].protocol = ntohs(link->sll_protocol);
	}
	sent[messages_sent].count = 0;
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		const struct iovec *part = &message->msg_iov[i];

		must(sent[messages_sent].count + part->iov_len <= MOST_BYTES);
		memcpy(sent[messages_sent].bytes + sent[messages_sent].count, part->iov_base,
		       part->iov_len);
		sent[messages_sent].count += (uint32_t)part->iov_len;
	}
	messages_sent++;
}

static bool is_refused(int fd)
{
	errno = packet_error;
	return packet_error && fd != udp_fd;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	assert_int_equal(flags, MSG_DONTWAIT);
	calls++;
	if (is_refused(fd))
		return -1;
	keep(fd, message);
	return sent[messages_sent - 1].count;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	assert_int_equal(flags, MSG_DONTWAIT);
	calls++;
	if (is_refused(fd))
		return -1;
	for (unsigned int i = 0; i < count; i++)
		keep(fd, &messages[i].msg_hdr);
	return (int)count;
}

/* ---- an output ---- */

/* From 0 on, and not from somewhere. */
static void number_from_0(void)
{
	transmit.senders[SLOT].ip_id = 0;
	transmit.senders[SLOT].ip_id_step = 3;
}

static void use_v4(void)
{
	packet__map_v4(datagram.source, 0x0A000009);
	packet__map_v4(datagram.group, 0xEF810102);
	memcpy(output.address, datagram.group, 16);
	output.ipv6 = 0;
	number_from_0();
}

static void use_v6(void)
{
	static const uint8_t source[16] = { 0xFD, [15] = 9 };
	static const uint8_t group[16] = { 0xFF, 0x35, [12] = 0x80, 1, 2, 3 };

	memcpy(datagram.source, source, 16);
	memcpy(datagram.group, group, 16);
	memcpy(output.address, group, 16);
	output.ipv6 = 1;
}

static int make_output(void **state)
{
	static const uint8_t link_source[6] = { 2, 0, 0, 0, 0, 0x99 };

	(void)state;
	memset(&transmit, 0, sizeof(transmit));
	shared = calloc(1, sizeof(*shared));
	must(shared != NULL && !mcr_transmit__init(&transmit, shared));
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		transmit.packet_fds[i] = open("/dev/null", O_RDONLY);
	messages_sent = calls = 0;
	packet_error = 0;
	transmit.now_ns = NS_PER_S;
	udp_fd = -1;
	datagram =
		(struct mcr_datagram){ .source_port = 40123, .port = 5001, .ttl = 17, .dscp = 46 };
	output = (struct mcr_output){ .engine = MCR_ENGINE_KEEPING,
				      .ttl_policy = MCR_TTL_AUTO,
				      .prefix_bits = 128,
				      .port = 6001,
				      .ifindex = IFINDEX,
				      .mtu = 1500,
				      .link_bytes = ETH_HLEN,
				      .slot = SLOT };
	memcpy(output.link_source, link_source, 6);
	use_v4();
	return 0;
}

static int free_output(void **state)
{
	(void)state;
	mcr_transmit__free(&transmit);
	free(shared);
	return 0;
}

static void add(const char *payload)
{
	datagram.payload = (const uint8_t *)payload;
	datagram.payload_bytes = (uint32_t)strlen(payload);
	mcr_transmit__add(&transmit, &output, &datagram, 0);
}

/* Spaces are for the reader. */
static uint32_t from_hex(uint8_t *bytes, const char *hex)
{
	uint32_t count = 0;
	unsigned int byte;

	for (; *hex; hex += 2) {
		while (*hex == ' ')
			hex++;
		must(sscanf(hex, "%2x", &byte) == 1);
		bytes[count++] = (uint8_t)byte;
	}
	return count;
}

static void check_sent(uint32_t message, uint16_t protocol, const char *hex)
{
	uint8_t want[MOST_BYTES];
	uint32_t count = from_hex(want, hex);

	assert_true(message < messages_sent);
	assert_int_equal(sent[message].protocol, protocol);
	assert_int_equal(sent[message].count, count);
	assert_memory_equal(sent[message].bytes, want, count);
}

/* In the byte order of the host, which tests of other hosts would have to change.  Flags, GSO type,
 * length of the headers, segment, where the checksum begins and stands. */
#define OFFLOADS_V4 "01 00 2A00 0000 2200 0600 "
#define OFFLOADS_V6 "01 00 3E00 0000 3600 0600 "
#define LINK_V4 "01005E010102 020000000099 0800 "
#define LINK_V6 "333380010203 020000000099 86DD "

/* ---- what leaves ---- */

static void a_datagram_over_ipv4(void **state)
{
	(void)state;
	add("hello");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 1);
	check_sent(0, ETH_P_IP,
		   OFFLOADS_V4 LINK_V4 "45B8 0021 0000 0000 1011 AF88 0A000009 EF810102 "
				       "9CBB 1771 000D FAAA 68656C6C6F");
}

static void a_datagram_over_ipv6(void **state)
{
	(void)state;
	use_v6();
	add("hello");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 1);
	check_sent(0, ETH_P_IPV6,
		   OFFLOADS_V6 LINK_V6 "6B80 0000 000D 1110 "
				       "FD000000000000000000000000000009 "
				       "FF350000000000000000000080010203 "
				       "9CBB 1771 000D 7E62 68656C6C6F");
}

/* The headers stand where the link's would begin. */
static void a_link_without_header(void **state)
{
	(void)state;
	output.link_bytes = 0;
	add("hello");
	mcr_transmit__flush(&transmit);
	use_v6();
	add("hello");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 2);
	check_sent(0, ETH_P_IP,
		   "01 00 1C00 0000 1400 0600 "
		   "45B8 0021 0000 0000 1011 AF88 0A000009 EF810102 "
		   "9CBB 1771 000D FAAA 68656C6C6F");
	check_sent(1, ETH_P_IPV6,
		   "01 00 3000 0000 2800 0600 "
		   "6B80 0000 000D 1110 "
		   "FD000000000000000000000000000009 FF350000000000000000000080010203 "
		   "9CBB 1771 000D 7E62 68656C6C6F");
}

/* The lengths are those of the whole, the segment's stands in front. */
static void a_super_packet(void **state)
{
	(void)state;
	add("first");
	add("other");
	add("end");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 1);
	check_sent(0, ETH_P_IP,
		   "01 05 2A00 0500 2200 0600 " LINK_V4
		   "45B8 0029 0000 0000 1011 AF80 0A000009 EF810102 "
		   "9CBB 1771 0015 FAB2 6669727374 6F74686572 656E64");
}

static uint16_t identification(uint32_t message)
{
	return packet__get16(sent[message].bytes + 10 + ETH_HLEN + 4);
}

/* Each IPv4 packet has a number of its own, also those that a super-packet becomes. */
static void numbers_of_packets_go_on(void **state)
{
	(void)state;
	add("one");
	mcr_transmit__flush(&transmit);
	for (uint32_t i = 0; i < 3; i++)
		add("same");
	mcr_transmit__flush(&transmit);
	add("two");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 3);
	assert_int_equal(identification(0), 0);
	assert_int_equal(identification(1), 3);
	assert_int_equal(identification(2), 6);
}

/* Two workers may fragment for one source and destination at the same time: RFC 6864 section 4.3.
 */
static void workers_use_different_identifications(void **state)
{
	static uint8_t users[65536];

	(void)state;
	memset(users, 0, sizeof(users));
	for (uint32_t worker = 0; worker < 3; worker++) {
		mcr_transmit__set_number(&transmit, worker, 3);
		transmit.senders[SLOT].ip_id_step = 0;
		for (uint32_t i = 0; i < 65536 / 4; i++) {
			messages_sent = 0;
			add("");
			mcr_transmit__flush(&transmit);
			users[identification(0)]++;
		}
	}
	for (uint32_t id = 0; id < 65536; id++)
		assert_int_equal(users[id], id % 4 < 3);
}

/* With a checksum of its own, because nobody puts the pieces together before the receiver. */
static void fragments(void **state)
{
	(void)state;
	output.mtu = 45; /* 25 bytes of room, of which 24 are used */
	add("0123456789abcdefghij");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 2);
	check_sent(0, ETH_P_IP,
		   "00 00 0000 0000 0000 0000 " LINK_V4
		   "45B8 002C 0000 2000 1011 8F7D 0A000009 EF810102 "
		   "9CBB 1771 001C 50F3 30313233343536373839616263646566");
	check_sent(1, ETH_P_IP,
		   "00 00 0000 0000 0000 0000 " LINK_V4
		   "45B8 0018 0000 0003 1011 AF8E 0A000009 EF810102 6768696A");
}

static void fragments_on_a_link_without_header(void **state)
{
	(void)state;
	output.mtu = 45;
	output.link_bytes = 0;
	add("0123456789abcdefghij");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 2);
	check_sent(1, ETH_P_IP,
		   "00 00 0000 0000 0000 0000 "
		   "45B8 0018 0000 0003 1011 AF8E 0A000009 EF810102 6768696A");
}

/* ---- from an address of this host ---- */

static void use_own_source(uint32_t slot)
{
	uint8_t source[16];

	packet__map_v4(source, 0x0A000005);
	udp_fd = open("/dev/null", O_RDONLY);
	output.engine = MCR_ENGINE_ETHERNET;
	mcr_transmit__attach(&transmit, slot, udp_fd, source, 7777);
}

static void own_packets_have_the_address_and_port_of_the_socket(void **state)
{
	(void)state;
	use_own_source(SLOT);
	add("hello");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 1);
	check_sent(0, ETH_P_IP,
		   OFFLOADS_V4 LINK_V4 "45B8 0021 0000 0000 1011 AF8C 0A000005 EF810102 "
				       "1E61 1771 000D FAA6 68656C6C6F");
}

static void without_a_socket_nothing_leaves(void **state)
{
	(void)state;
	output.engine = MCR_ENGINE_ETHERNET;
	add("hello");
	mcr_transmit__flush(&transmit);
	assert_int_equal(calls, 0);
	assert_int_equal(shared->outputs[SLOT].not_sent[MCR_NOT_SENT_NO_SOCKET], 1);
}

static void without_its_interface_nothing_leaves(void **state)
{
	(void)state;
	output.ifindex = 0;
	output.mtu = 0;
	add("hello");
	mcr_transmit__flush(&transmit);
	assert_int_equal(calls, 0);
	assert_int_equal(shared->outputs[SLOT].not_sent[MCR_NOT_SENT_NO_SOCKET], 1);
}

/* The socket of an output that was here before is not one to send from another source by. */
static void packets_that_keep_their_source_use_no_socket(void **state)
{
	(void)state;
	use_own_source(SLOT);
	output.engine = MCR_ENGINE_KEEPING;
	output.ipv6 = 1;
	output.mtu = 1280;
	datagram.payload = calloc(1, 2000);
	datagram.payload_bytes = 2000;
	mcr_transmit__add(&transmit, &output, &datagram, 0);
	mcr_transmit__flush(&transmit);
	assert_int_equal(calls, 0);
	assert_int_equal(shared->outputs[SLOT].not_sent[MCR_NOT_SENT_TOO_LONG], 1);
	free((void *)datagram.payload);
}

static void send_one(const char *payload)
{
	add(payload);
	mcr_transmit__flush(&transmit);
}

static void check_socket(uint32_t message, const char *payload, int fd)
{
	size_t bytes = strlen(payload);

	assert_true(message < messages_sent);
	assert_int_equal(sent[message].fd, fd);
	assert_true(sent[message].count >= bytes);
	assert_memory_equal(sent[message].bytes + sent[message].count - bytes, payload, bytes);
}

/* With several queues short ones would overtake long ones if they left another way. */
static void the_ip_stack_fragments_what_is_too_long_and_sends_what_follows(void **state)
{
	(void)state;
	use_own_source(SLOT);
	output.mtu = 28 + 5;
	send_one("first");
	send_one("longer");
	send_one("short");
	transmit.now_ns += NS_PER_S - 1;
	send_one("still");
	transmit.now_ns += 1;
	send_one("again");
	assert_int_equal(messages_sent, 5);
	check_socket(0, "first", transmit.packet_fds[3]);
	check_socket(1, "longer", udp_fd);
	check_socket(2, "short", udp_fd);
	check_socket(3, "still", udp_fd);
	check_socket(4, "again", transmit.packet_fds[3]);
	assert_int_equal(shared->outputs[SLOT].sent, 5);
}

/* The new length is known only with the next share. */
static void a_link_that_became_shorter_turns_an_output_to_the_ip_stack(void **state)
{
	(void)state;
	use_own_source(SLOT);
	packet_error = EMSGSIZE;
	send_one("one");
	add("two");
	add("much longer");
	mcr_transmit__flush(&transmit);
	assert_int_equal(messages_sent, 3);
	check_socket(0, "one", udp_fd);
	check_socket(1, "two", udp_fd);
	check_socket(2, "much longer", udp_fd);
	assert_int_equal(calls, 4);
	assert_int_equal(shared->outputs[SLOT].sent, 3);
}

/* Before Linux 6.2. */
static void where_super_packets_are_refused_everything_leaves_by_the_ip_stack(void **state)
{
	(void)state;
	use_own_source(SLOT);
	packet_error = EINVAL;
	add("same");
	add("same");
	mcr_transmit__flush(&transmit);
	packet_error = 0;
	send_one("one");
	assert_int_equal(messages_sent, 2);
	check_socket(0, "samesame", udp_fd);
	check_socket(1, "one", udp_fd);
	output.engine = MCR_ENGINE_KEEPING;
	send_one("kept");
	check_socket(2, "kept", transmit.packet_fds[3]);
}

/* ---- several outputs ---- */

static void single_payloads_of_several_outputs_leave_in_one_call(void **state)
{
	struct mcr_output outputs[3];

	(void)state;
	use_own_source(SLOT);
	for (uint32_t i = 0; i < 3; i++) {
		outputs[i] = output;
		outputs[i].slot = SLOT + i;
		outputs[i].port = (uint16_t)(6001 + i);
		outputs[i].engine = i ? MCR_ENGINE_KEEPING : MCR_ENGINE_ETHERNET;
		datagram.payload = (const uint8_t *)"hello";
		datagram.payload_bytes = 5;
		mcr_transmit__add(&transmit, &outputs[i], &datagram, 0);
	}
	mcr_transmit__flush(&transmit);
	assert_int_equal(calls, 1);
	assert_int_equal(messages_sent, 3);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(packet__get16(sent[i].bytes + 10 + ETH_HLEN + 22), 6001 + i);
		assert_int_equal(shared->outputs[SLOT + i].sent, 1);
		assert_int_equal(shared->outputs[SLOT + i].bytes, 5);
	}
}

/* Flows of one output are not tried one after the other. */
static void an_output_that_fails_is_left_alone_with_all_its_flows(void **state)
{
	const uint64_t *not_sent = shared->outputs[SLOT].not_sent;

	(void)state;
	packet_error = ENETDOWN;
	for (uint32_t i = 0; i < 5; i++) {
		datagram.source_port = (uint16_t)(40000 + i);
		add("hello");
	}
	mcr_transmit__flush(&transmit);
	assert_int_equal(calls, 1);
	assert_int_equal(not_sent[MCR_NOT_SENT_DOWN], 1);
	assert_int_equal(not_sent[MCR_NOT_SENT_BACKING_OFF], 4);
	assert_int_equal(transmit.senders[SLOT].backoff_ns, 10000000);
}

/* TC_PRIO_* as net/ipv4/route.c has them: class selector 1 is bulk, expedited forwarding is
 * interactive and bulk, assured forwarding 31 interactive. */
static void each_priority_leaves_by_its_socket(void **state)
{
	static const uint8_t dscps[] = { 0, 10, 12, 46, 48 };
	static const uint32_t sockets[] = { 0, 1, 2, 3, 0 };

	(void)state;
	output.dscp_policy = MCR_DSCP_FIXED;
	for (uint32_t i = 0; i < 5; i++) {
		output.dscp = dscps[i];
		use_v4();
		add("one");
		mcr_transmit__flush(&transmit);
		assert_int_equal(sent[i].fd, transmit.packet_fds[sockets[i]]);
	}
	use_v6();
	output.dscp = 46;
	add("one");
	mcr_transmit__flush(&transmit);
	assert_int_equal(sent[5].fd, transmit.packet_fds[0]);
}

static void lanes_of_different_priority_leave_in_calls_of_their_own(void **state)
{
	struct mcr_output outputs[4];

	(void)state;
	output.dscp_policy = MCR_DSCP_FIXED;
	for (uint32_t i = 0; i < 4; i++) {
		outputs[i] = output;
		outputs[i].slot = SLOT + i;
		outputs[i].dscp = i % 2 ? 46 : 0;
		datagram.payload = (const uint8_t *)"";
		mcr_transmit__add(&transmit, &outputs[i], &datagram, 0);
	}
	mcr_transmit__flush(&transmit);
	assert_int_equal(calls, 2);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(sent[i].fd, transmit.packet_fds[i / 2 ? 3 : 0]);
}

/* ---- ranges of the fields ---- */

static void ttl_and_dscp_fill_their_fields(void **state)
{
	static const struct {
		uint8_t ttl, dscp;
	} cases[] = { { 1, 0 }, { 255, 63 }, { 128, 1 }, { 64, 32 } };

	(void)state;
	output.ttl_policy = MCR_TTL_FIXED;
	output.dscp_policy = MCR_DSCP_FIXED;
	for (uint32_t i = 0; i < 4; i++) {
		const uint8_t *ip = sent[2 * i].bytes + 10 + ETH_HLEN;

		output.ttl = cases[i].ttl;
		output.dscp = cases[i].dscp;
		use_v4();
		add("");
		mcr_transmit__flush(&transmit);
		assert_int_equal(ip[8], cases[i].ttl);
		assert_int_equal(ip[1], cases[i].dscp * 4);
		use_v6();
		add("");
		mcr_transmit__flush(&transmit);
		ip = sent[2 * i + 1].bytes + 10 + ETH_HLEN;
		assert_int_equal(ip[7], cases[i].ttl);
		assert_int_equal(packet__get16(ip), 0x6000 + cases[i].dscp * 64);
	}
}

/* RFC 1112 section 6.4: 23 bits; RFC 2464 section 7: 32. */
static void groups_give_their_link_address(void **state)
{
	static const struct {
		uint32_t group;
		uint8_t link[6];
	} cases[] = { { 0xE0000000, { 1, 0, 0x5E, 0, 0, 0 } },
		      { 0xEFFFFFFF, { 1, 0, 0x5E, 0x7F, 0xFF, 0xFF } },
		      { 0xE8800001, { 1, 0, 0x5E, 0, 0, 1 } } };

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		packet__map_v4(output.address, cases[i].group);
		add("");
		mcr_transmit__flush(&transmit);
		assert_memory_equal(sent[i].bytes + 10, cases[i].link, 6);
	}
}

#define HEADERS_TEST(test) cmocka_unit_test_setup_teardown(test, make_output, free_output)

int main(void)
{
	const struct CMUnitTest tests[] = {
		HEADERS_TEST(a_datagram_over_ipv4),
		HEADERS_TEST(a_datagram_over_ipv6),
		HEADERS_TEST(a_link_without_header),
		HEADERS_TEST(a_super_packet),
		HEADERS_TEST(numbers_of_packets_go_on),
		HEADERS_TEST(workers_use_different_identifications),
		HEADERS_TEST(fragments),
		HEADERS_TEST(fragments_on_a_link_without_header),
		HEADERS_TEST(own_packets_have_the_address_and_port_of_the_socket),
		HEADERS_TEST(without_a_socket_nothing_leaves),
		HEADERS_TEST(packets_that_keep_their_source_use_no_socket),
		HEADERS_TEST(the_ip_stack_fragments_what_is_too_long_and_sends_what_follows),
		HEADERS_TEST(a_link_that_became_shorter_turns_an_output_to_the_ip_stack),
		HEADERS_TEST(where_super_packets_are_refused_everything_leaves_by_the_ip_stack),
		HEADERS_TEST(without_its_interface_nothing_leaves),
		HEADERS_TEST(an_output_that_fails_is_left_alone_with_all_its_flows),
		HEADERS_TEST(single_payloads_of_several_outputs_leave_in_one_call),
		HEADERS_TEST(each_priority_leaves_by_its_socket),
		HEADERS_TEST(lanes_of_different_priority_leave_in_calls_of_their_own),
		HEADERS_TEST(ttl_and_dscp_fill_their_fields),
		HEADERS_TEST(groups_give_their_link_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The receive path batch by batch: rings are filled as the kernel fills them, packets and offloads
 * are hostile, send calls fail as the input says, and after each batch every counter and every
 * payload that left must be what the rules demand.
 *
 * Input: steps from its beginning on (enum step, then what the step wants), outcomes of send calls
 * from its end backwards; where it ends, calls succeed.
 */
#include "../src/relay.c"

#include "expected.h"
#include "fake_sends.h"
#include "must.h"
#include "packet.h"
#include "shares.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>

#define RINGS 3
#define RING_FRAMES 8
#define RING_FRAME_BYTES 1024
#define OUTPUTS 21
#define OUTPUT_WITHOUT_SOCKET 10
#define MOST_SEGMENTS 512
/* Those that were dirty stay listed. */
#define LANES_OF_A_BATCH 64
#define LINK_BYTES 14
#define LONGEST_HEADERS 68
#define FINISH_HEADER 128

enum step {
	STEP_BATCH,
	STEP_BUILT_FRAME,
	STEP_RAW_FRAME,
	STEP_INSTALL,
	STEP_RESTART,
	STEP_OUTPUT,
	STEP_LINK_DOWN,
	STEP_TIME,
	STEP_LOOP,
	STEP_TRACE,
	STEPS,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct waiting {
	struct fake_frame frame;
	uint32_t kept;
	uint8_t *bytes;
};

struct interface {
	uint32_t slot;
	struct fake_ring ring;
	struct waiting waiting[RING_FRAMES];
	uint32_t count;
};

static struct interface interfaces[RINGS] = { { .slot = 0 }, { .slot = 5 }, { .slot = 63 } };
static struct test_share shares[2];
static struct expected expected;
static struct mcr_relay *relay;
static uint64_t clock_ns;
static uint64_t pattern;
static int null_fd;
static const uint8_t *input, *input_end;

/* ---- input ---- */

static uint8_t take8(void)
{
	return input < input_end ? *input++ : 0;
}

static uint16_t take16(void)
{
	uint8_t high = take8();

	return (uint16_t)(high << 8 | take8());
}

/* Of a call to send something. */
static uint8_t take_outcome(void)
{
	return input < input_end ? *--input_end : 0;
}

/* The relay's clock. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	now->tv_sec = (time_t)(clock_ns / NS_PER_S);
	now->tv_nsec = (long)(clock_ns % NS_PER_S);
	return 0;
}

/* ---- batches ---- */

static bool is_in_use(const struct interface *interface)
{
	return relay->rings[interface->slot].fd >= 0 &&
	       relay->table->header.interfaces >> interface->slot & 1;
}

static void forget(struct interface *interface)
{
	for (uint32_t i = 0; i < interface->count; i++)
		free(interface->waiting[i].bytes);
	interface->count = 0;
}

static void expect_batch(void)
{
	expected__start_batch(&expected, clock_ns);
	for (uint32_t i = 0; i < RINGS; i++) {
		struct interface *interface = &interfaces[i];

		for (uint32_t n = 0; is_in_use(interface) && n < interface->count; n++)
			expected__add(&expected, relay->table, interface->slot,
				      &interface->waiting[n].frame, interface->waiting[n].kept);
	}
}

static void check_batch(const bool was_read[RINGS])
{
	expected__check(&expected, relay->shared);
	must(!relay->arena.used && !relay->stamps.count && !relay->transmit.dirty_count);
	must(!relay->transmit.tracer.pending_count);
	for (uint32_t i = 0; i < LANES_OF_A_BATCH; i++) {
		const struct mcr_lane *lane = &relay->transmit.lanes[relay->transmit.dirty[i]];

		must(!lane->gathered && !lane->dirty);
	}
	must(relay->loop_found == expected.loop_found);
	must(!memcmp(&relay->loop, &expected.loop, sizeof(expected.loop)));
	for (uint32_t i = 0; i < RINGS; i++) {
		if (was_read[i])
			forget(&interfaces[i]);
		must(fake_ring__waiting(&interfaces[i].ring) == interfaces[i].count);
		must(!was_read[i] || !interfaces[i].ring.queued);
	}
}

/* With a share to install, the batch is the one that runs under the old table. */
static void run_batch(const struct test_share *share)
{
	bool was_read[RINGS];
	uint64_t bytes;

	for (uint32_t i = 0; i < RINGS; i++)
		was_read[i] = is_in_use(&interfaces[i]);
	expect_batch();
	if (share) {
		int fd = share__file(share, &bytes);

		must(!mcr_relay__install(relay, fd, bytes));
		expected__install(&expected, relay->spare, relay->table);
	} else {
		relay_batch(relay, clock_ns);
	}
	check_batch(was_read);
}

/* ---- frames ---- */

/* The link header's place holds garbage: nobody looks at it. */
static void receive(struct interface *interface, struct waiting *waiting)
{
	uint32_t room;

	waiting->frame.bytes = waiting->bytes;
	room = RING_FRAME_BYTES - (TPACKET_ALIGN(TPACKET2_HDRLEN + 16) + 10 - LINK_BYTES);
	waiting->frame.link_bytes = LINK_BYTES;
	waiting->kept = waiting->frame.count;
	if (waiting->kept > room && waiting->frame.no_room)
		waiting->kept = room;
	if (fake_ring__receive(&interface->ring, &waiting->frame))
		interface->waiting[interface->count++] = *waiting;
	else
		free(waiting->bytes);
}

static struct interface *take_interface(void)
{
	return &interfaces[take8() % RINGS];
}

/* Give the flags, of which the last says more about the frame. */
static uint8_t take_metadata(struct fake_frame *frame)
{
	uint8_t flags = take8();

	frame->pkttype = flags & 1 ? PACKET_OUTGOING : PACKET_MULTICAST;
	frame->has_vlan = flags & 2;
	frame->no_room = flags & 4;
	frame->offloads.flags = flags >> 3 & 3;
	if (frame->has_vlan)
		frame->vlan_tci = take16();
	if (flags & 32)
		frame->offloads.gso_type = 5;
	else if (flags & 64)
		frame->offloads.gso_type = take8();
	if (frame->offloads.gso_type)
		frame->offloads.gso_size = take16();
	return flags;
}

/* Mostly short, which is quicker, and not more segments than the arrays hold. */
static uint32_t payload_within_reason(uint32_t bytes, const struct virtio_net_hdr *offloads)
{
	uint32_t most = 65507;

	if (bytes < 0xC000)
		bytes %= 0x3000;
	if (offloads->gso_size && offloads->gso_size * MOST_SEGMENTS < most)
		most = offloads->gso_size * MOST_SEGMENTS;
	return bytes < most ? bytes : most;
}

static const struct mcr_rule *take_rule(void)
{
	return &shares[0].rules[take8() % shares[0].header.rules];
}

static void write_pattern(uint8_t *at, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i += (uint32_t)sizeof(pattern)) {
		pattern = pattern * 6364136223846793005u + 1442695040888963407u;
		memcpy(at + i, &pattern, sizeof(pattern));
	}
}

/* To one of its groups and ports. */
static void take_destination(struct test_packet *packet, const struct mcr_rule *rule)
{
	memcpy(packet->group, rule->group, 16);
	packet->ipv6 = rule->group[0] == 0xFF;
	packet->port = rule->port;
	if (rule->prefix_bits < 128)
		packet->group[15] ^= take8();
	if (rule->last_port != rule->port)
		packet->port =
			(uint16_t)(rule->port + take8() % (rule->last_port - rule->port + 1));
}

static void change_bytes(uint8_t *packet, bool ipv6, bool finish_header)
{
	for (uint8_t changes = take8() % 3; changes; changes--) {
		uint8_t at = take8() % 48;

		packet[at] ^= take8();
	}
	if (finish_header && !ipv6)
		packet__finish_header(packet);
}

static void finish_frame(struct waiting *waiting, const struct test_packet *packet,
			 uint32_t padding)
{
	waiting->bytes = malloc(LINK_BYTES + LONGEST_HEADERS + packet->payload_bytes + padding);
	must(waiting->bytes != NULL);
	memset(waiting->bytes, 0xAA, LINK_BYTES);
	waiting->frame.count = LINK_BYTES + packet__write(waiting->bytes + LINK_BYTES, packet);
	memset(waiting->bytes + waiting->frame.count, 0x55, padding);
	waiting->frame.count += padding;
	waiting->frame.protocol = packet->ipv6 ? ETH_P_IPV6 : ETH_P_IP;
	/* The longer, the older. */
	waiting->frame.received_ns =
		clock_ns - (uint64_t)packet->payload_bytes * packet->payload_bytes;
}

/* A packet that a rule may be meant for, with up to two bytes changed. */
static void receive_built_frame(void)
{
	static uint8_t payload[65536];
	struct interface *interface = take_interface();
	const struct mcr_rule *rule = take_rule();
	struct waiting waiting = { 0 };
	struct test_packet packet = { .ttl = take8(), .payload = payload };
	uint32_t padding;
	uint8_t flags = take_metadata(&waiting.frame);

	packet__map_v4(packet.source, 0x0A000000u | take8());
	packet.source_port = 40000 + packet.source[15] % 2;
	packet.dscp = packet.source[15] >> 5;
	take_destination(&packet, rule);
	packet.payload_bytes = payload_within_reason(take16(), &waiting.frame.offloads);
	padding = take8() % 64;
	write_pattern(payload, packet.payload_bytes);
	finish_frame(&waiting, &packet, padding);
	change_bytes(waiting.bytes + LINK_BYTES, packet.ipv6, flags & FINISH_HEADER);
	receive(interface, &waiting);
}

/* The same datagram again and again, with a time to live that has run out. */
static void receive_loop(void)
{
	const struct mcr_rule *rule = take_rule();
	struct test_packet packet = { .ttl = 1, .payload = (const uint8_t *)"loop" };
	uint8_t times = take8() % 128;

	packet.payload_bytes = take8() % 4;
	packet__map_v4(packet.source, 0x0A000001);
	take_destination(&packet, rule);
	for (uint32_t n = 0; n < RINGS; n++)
		while (interfaces[n].slot == rule->interface && times--) {
			struct waiting waiting = { .frame.pkttype = PACKET_MULTICAST };

			finish_frame(&waiting, &packet, 0);
			receive(&interfaces[n], &waiting);
			if (times % RING_FRAMES == 0)
				run_batch(NULL);
		}
}

static void receive_raw_frame(void)
{
	static const uint16_t protocols[] = { ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_ARP };
	struct interface *interface = take_interface();
	struct waiting waiting = { .frame.protocol = protocols[take8() % 4] };
	uint32_t bytes;

	take_metadata(&waiting.frame);
	bytes = take8();
	waiting.frame.count = LINK_BYTES + bytes;
	waiting.bytes = malloc(waiting.frame.count);
	must(waiting.bytes != NULL);
	memset(waiting.bytes, 0xAA, LINK_BYTES);
	for (uint32_t i = 0; i < bytes; i++)
		waiting.bytes[LINK_BYTES + i] = take8();
	receive(interface, &waiting);
}

/* ---- steps ---- */

static void attach_output(uint32_t slot)
{
	static uint16_t port;
	uint8_t source[16] = { [0] = 0xFD, [15] = (uint8_t)slot };
	int fd = dup(null_fd);

	must(fd >= 0);
	if (!(slot & 1))
		packet__map_v4(source, 0x0A090000u | slot);
	port = port % 100 + 1;
	fake_sends__attach(slot, fd);
	expected__attach(&expected, slot, source, port);
	must(!mcr_relay__attach_output(relay, slot, fd, source, port));
}

static void replace_output(uint32_t slot)
{
	if (slot != OUTPUT_WITHOUT_SOCKET)
		attach_output(slot);
}

static void attach_ring(struct interface *interface)
{
	must(!mcr_relay__attach_ring(relay, interface->slot, fake_ring__open(&interface->ring),
				     RING_FRAME_BYTES, RING_FRAMES));
}

/* What a share names must be given again, as the supervisor does it: what it did not name was
 * closed. */
static void install(const struct test_share *share)
{
	for (uint32_t n = 0; n < RINGS; n++)
		if (share->header.interfaces >> interfaces[n].slot & 1 &&
		    relay->rings[interfaces[n].slot].fd < 0)
			attach_ring(&interfaces[n]);
	for (uint32_t n = 0; n < share->header.outputs; n++) {
		uint32_t slot = share->outputs[n].slot;

		if (slot != OUTPUT_WITHOUT_SOCKET && relay->transmit.senders[slot].fd < 0)
			attach_output(slot);
	}
	run_batch(share);
}

static void take_step(void)
{
	switch (take8() % STEPS) {
	case STEP_BATCH:
		run_batch(NULL);
		break;
	case STEP_BUILT_FRAME:
		receive_built_frame();
		break;
	case STEP_RAW_FRAME:
		receive_raw_frame();
		break;
	case STEP_INSTALL:
		install(&shares[take8() & 1]);
		break;
	case STEP_RESTART:
		attach_ring(take_interface());
		break;
	case STEP_OUTPUT:
		replace_output(shares[0].outputs[take8() % OUTPUTS].slot);
		break;
	case STEP_LINK_DOWN:
		take_interface()->ring.error = ENETDOWN;
		break;
	case STEP_TIME:
		clock_ns += (uint64_t)take8() * 10000000;
		break;
	case STEP_LOOP:
		receive_loop();
		break;
	case STEP_TRACE:
		relay->shared->trace.rule = take8() % (shares[0].header.rules + 1);
		relay->shared->trace.every = take8() % 4;
		break;
	}
}

/* ---- the world ---- */

static struct mcr_rule *add_rule(uint32_t interface, const char *group, uint16_t port)
{
	uint8_t address[16];

	if (inet_pton(AF_INET6, group, address) != 1)
		abort();
	return share__add_rule(&shares[0], interface, address, port);
}

static void add_source(uint8_t last)
{
	uint8_t address[16];

	packet__map_v4(address, 0x0A000000u | last);
	share__add_source(&shares[0], address);
}

static void add_mapped(const char *address, uint8_t prefix_bits, uint32_t slot)
{
	struct mcr_output *output = share__add_output(&shares[0], MCR_TTL_AUTO, 0);

	must(inet_pton(AF_INET6, address, output->address) == 1);
	output->engine = MCR_ENGINE_MAPPED;
	output->ifindex = 7;
	output->prefix_bits = prefix_bits;
	output->port = 0;
	output->port_offset = -1000;
	output->slot = slot;
}

static struct mcr_output *add_packets(enum mcr_engine engine, const char *address,
				      uint8_t link_bytes, uint32_t mtu, uint32_t slot)
{
	static const uint8_t link_source[6] = { 2, 0, 0, 0, 0, 1 };
	struct mcr_output *output = share__add_output(&shares[0], MCR_TTL_KEEP, 0);

	must(inet_pton(AF_INET6, address, output->address) == 1);
	output->engine = (uint8_t)engine;
	output->ifindex = fake_sends__ifindex(slot);
	output->link_bytes = link_bytes;
	memcpy(output->link_source, link_source, sizeof(link_source));
	output->mtu = mtu;
	output->slot = slot;
	return output;
}

static void add_keeping(const char *address, uint8_t link_bytes, uint32_t mtu, uint32_t slot)
{
	add_packets(MCR_ENGINE_KEEPING, address, link_bytes, mtu, slot);
}

/* What sends from its own address through the packet sockets. */
static void add_ethernet(void)
{
	struct mcr_output *mapped;

	add_rule(0, "::ffff:239.1.1.3", 5004);
	add_packets(MCR_ENGINE_ETHERNET, "::ffff:239.9.9.1", 14, 1500, 20)->dscp_policy =
		MCR_DSCP_FIXED;
	add_packets(MCR_ENGINE_ETHERNET, "::ffff:239.9.9.2", 14, 600, 22);
	add_packets(MCR_ENGINE_ETHERNET, "ff3e::9:9", 14, 1280, 19)->ttl_policy = MCR_TTL_AUTO;
	mapped = add_packets(MCR_ENGINE_ETHERNET, "::ffff:239.9.0.0", 14, 1500, 24);
	mapped->prefix_bits = 112;
	mapped->port = 0;
	mapped->port_offset = 10;
}

static void add_limited(uint64_t rate, bool in_bits, uint32_t slot)
{
	struct mcr_output *output = share__add_output(&shares[0], MCR_TTL_AUTO, 0);

	output->rate = rate;
	output->rate_in_bits = in_bits;
	output->dscp_policy = MCR_DSCP_FIXED;
	output->dscp = 46;
	output->slot = slot;
}

/* Rules for several groups or ports; what they fix is as wide as test packets may hit. */
static void add_ranges(void)
{
	struct mcr_rule *rule = add_rule(0, "::ffff:239.2.0.0", 6000);

	rule->prefix_bits = 112;
	rule->last_port = 6009;
	add_mapped("::ffff:239.3.0.0", 112, 12);
	add_keeping("::ffff:239.4.0.1", 14, 600, 14);
	rule = add_rule(5, "ff3e::", 1);
	rule->prefix_bits = 32;
	rule->last_port = 65535;
	add_mapped("ff3e:1::", 60, 11);
	add_keeping("ff3e::9", 0, 1280, 13);
}

/* The first share; the second lacks its last rules, so that a ring and outputs are closed. */
static void make_shares(void)
{
	share__init(&shares[0], 1);
	add_rule(0, "::ffff:239.1.1.1", 5001);
	share__add_output(&shares[0], MCR_TTL_AUTO, 0);
	share__add_output(&shares[0], MCR_TTL_KEEP, 0);
	share__add_output(&shares[0], MCR_TTL_DECREMENT, 0);
	share__add_output(&shares[0], MCR_TTL_FIXED, 9);
	share__add_output(&shares[0], MCR_TTL_FIXED, 0);
	add_rule(0, "::ffff:239.1.1.2", 5002);
	share__add_output(&shares[0], MCR_TTL_KEEP, 0);
	add_source(1);
	add_source(2);
	add_rule(0, "::ffff:239.1.1.2", 5002);
	share__add_output(&shares[0], MCR_TTL_AUTO, 0);
	add_rule(5, "ff35::8000:1", 5001);
	share__add_output(&shares[0], MCR_TTL_AUTO, 0);
	add_ranges();
	add_rule(0, "::ffff:239.2.0.3", 6003)->excludes = 1; /* within the range */
	add_limited(1000, false, 16);
	add_limited(1000000, true, 18);
	add_source(1);
	add_ethernet();
	add_rule(5, "::ffff:239.1.1.1", 5001); /* no outputs */
	add_rule(5, "::ffff:232.1.1.1", 5003);
	share__add_output(&shares[0], MCR_TTL_DECREMENT, 0)->slot = 8;
	add_source(1);
	add_rule(63, "::ffff:239.1.1.1", 5001);
	share__add_output(&shares[0], MCR_TTL_KEEP, 0)->slot = 9;
	share__add_output(&shares[0], MCR_TTL_KEEP, 0)->slot = OUTPUT_WITHOUT_SOCKET;
	for (uint32_t n = 0; n < shares[0].header.outputs; n++)
		shares[0].outputs[n].ipv6 = shares[0].outputs[n].slot & 1;
	shares[1] = shares[0];
	shares[1].header.generation = 2;
	shares[1].header.rules -= 3;
	shares[1].header.outputs -= 3;
	shares[1].header.interfaces &= ~(1ull << 63);
}

static void make_world(void)
{
	int fd = memfd_create("counters", MFD_CLOEXEC), packets[MCR_PRIORITIES];

	must(fd >= 0 && !ftruncate(fd, sizeof(struct mcr_shared)));
	null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	must(null_fd >= 0);
	relay = mcr_relay__new(fd);
	must(relay != NULL);
	fake_sends__init(&expected, take_outcome);
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		packets[i] = dup(null_fd);
	fake_sends__attach_packets(packets);
	mcr_relay__attach_packets(relay, packets);
	make_shares();
	must(shares[0].header.outputs == OUTPUTS);
	for (uint32_t i = 0; i < RINGS; i++)
		fake_ring__init(&interfaces[i].ring, RING_FRAME_BYTES, RING_FRAMES);
}

/* A run must not know what the one before did. */
static void reset_world(void)
{
	expected__clear(&expected);
	clock_ns = 10 * NS_PER_S;
	pattern = 1;
	for (uint32_t i = 0; i < RINGS; i++) {
		mcr_ring__unmap(&relay->rings[interfaces[i].slot]);
		forget(&interfaces[i]);
		fake_ring__clear(&interfaces[i].ring);
	}
	memset(relay->shared->interfaces, 0, sizeof(relay->shared->interfaces));
	memset(relay->shared->rules, 0, EXPECTED_RULES * sizeof(relay->shared->rules[0]));
	memset(relay->shared->latencies, 0, EXPECTED_RULES * sizeof(relay->shared->latencies[0]));
	memset(relay->shared->outputs, 0, EXPECTED_OUTPUTS * sizeof(relay->shared->outputs[0]));
	memset(relay->guards, 0, EXPECTED_RULES * sizeof(relay->guards[0]));
	relay->transmit.super_packets_refused = false;
	relay->loop_found = false;
	relay->loop = (struct mcr_loop){ 0 };
	relay->shared->trace.rule = 0;
	relay->transmit.tracer.datagrams = 0;
	for (uint32_t i = 0; i < OUTPUTS; i++)
		replace_output(shares[0].outputs[i].slot);
	list_rings(relay);
	install(&shares[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!relay)
		make_world();
	input = input_end = data;
	reset_world();
	input_end = data + size;
	while (input < input_end)
		take_step();
	install(&shares[0]);
	run_batch(NULL);
	return 0;
}

/*
 * Batches of a variant, whose instructions callgrind counts (tests/bench/instructions.py).
 *
 *   count_batch VARIANT PAYLOAD_BYTES BATCHES FRAMES
 *
 * Only what counted_batch() does is to be counted: it reads FRAMES frames, relays them and gives
 * them back.
 *
 * Linked with --wrap for everything that would enter the kernel: send calls succeed at once, and
 * the clock stands still.
 */
#include "../mcr.h"

#include "../src/relay.c"

#include "fake_ring.h"
#include "must.h"
#include "packet.h"
#include "shares.h"

#include <linux/if_ether.h>

#define LINK_BYTES 14
#define RING_FRAMES 512
#define RING_FRAME_BYTES 2048
#define MOST_FLOWS 1000
#define GROUPS 0xEF010000u
#define SENDER 0x0A000001u
#define PORT 5001
#define CLOCK_NS (100 * NS_PER_S)
#define TRANSIT_NS 50000
#define BATCH_NS 1000000

struct variant {
	const char *name;
	uint32_t rules;	  /* for single groups */
	uint32_t ranges;  /* of 65,536 groups each, none of which has a rule of its own */
	uint32_t flows;	  /* frame by frame they take turns */
	uint32_t sources; /* of each rule, the last of which is the sender */
	uint64_t traced;  /* slot plus one, as in struct mcr_trace */
	uint64_t every;
	bool checksum_unknown;
};

static const struct variant variants[] = {
	{ "plain", .rules = 1, .flows = 1 },
	{ "trace-other", .rules = 1, .flows = 1, .traced = 2, .every = 1 },
	{ "trace-100th", .rules = 1, .flows = 1, .traced = 1, .every = 100 },
	{ "trace-all", .rules = 1, .flows = 1, .traced = 1, .every = 1 },
	{ "range", .ranges = 1, .flows = 1 },
	{ "ranges-50", .ranges = 50, .flows = 1 },
	{ "range-flows", .ranges = 1, .flows = 1000 },
	{ "ranges-50-flows", .ranges = 50, .flows = 1000 },
	{ "sources-1", .rules = 1, .flows = 1, .sources = 1 },
	{ "sources-16", .rules = 1, .flows = 1, .sources = 16 },
	{ "checksum", .rules = 1, .flows = 1, .checksum_unknown = true },
	{ "rules-1000", .rules = 1000, .flows = 1 },
	{ "flows-100", .rules = 100, .flows = 100 },
	{ "flows-1000", .rules = 1000, .flows = 1000 },
};

struct datagram {
	uint8_t bytes[RING_FRAME_BYTES];
	struct fake_frame frame;
};

static struct datagram datagrams[MOST_FLOWS];
static struct test_share share;
static struct fake_ring ring;

/* ---- the kernel ---- */

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	(void)fd, (void)message, (void)flags;
	return 1;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	(void)fd, (void)messages, (void)flags;
	return (int)count;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	*now = (struct timespec){ .tv_sec = CLOCK_NS / NS_PER_S };
	return 0;
}

/* ---- rules ---- */

static void add_rule(const struct variant *variant, uint32_t group, uint8_t prefix_bits)
{
	struct mcr_output *output;
	uint8_t address[16];

	packet__map_v4(address, group);
	share__add_rule(&share, 0, address, PORT)->prefix_bits = prefix_bits;
	output = share__add_output(&share, MCR_TTL_AUTO, 0);
	packet__map_v4(output->address, group);
	output->engine = MCR_ENGINE_ETHERNET;
	output->ifindex = 1;
	output->link_bytes = LINK_BYTES;
	for (uint32_t i = variant->sources; i > 0; i--) {
		packet__map_v4(address, SENDER + i - 1);
		share__add_source(&share, address);
	}
}

/* All flows are in the range that is tried last. */
static void make_share(const struct variant *variant)
{
	share__init(&share, 1);
	for (uint32_t i = 0; i < variant->rules; i++)
		add_rule(variant, GROUPS + i, 128);
	for (uint32_t i = variant->ranges; i > 0; i--)
		add_rule(variant, GROUPS + ((i - 1) << 16), 112);
}

static struct mcr_relay *make_relay(const struct variant *variant)
{
	int shared_fd = memfd_create("counters", MFD_CLOEXEC);
	struct mcr_relay *relay;
	uint8_t source[16];
	uint64_t bytes;
	int fd;

	must(shared_fd >= 0 && !ftruncate(shared_fd, sizeof(struct mcr_shared)));
	relay = mcr_relay__new(shared_fd);
	must(relay != NULL);
	make_share(variant);
	fake_ring__init(&ring, RING_FRAME_BYTES, RING_FRAMES);
	must(!mcr_relay__attach_ring(relay, 0, fake_ring__open(&ring), RING_FRAME_BYTES,
				     RING_FRAMES));
	/* Nobody looks at a descriptor for sending, and none is closed. */
	mcr_relay__attach_packets(relay,
				  (int[MCR_PRIORITIES]){ ring.fd, ring.fd, ring.fd, ring.fd });
	packet__map_v4(source, SENDER);
	for (uint32_t slot = 0; slot < share.header.outputs; slot++)
		must(!mcr_relay__attach_output(relay, slot, ring.fd, source, PORT));
	fd = share__file(&share, &bytes);
	must(!mcr_relay__install(relay, fd, bytes));
	relay->shared->trace.every = variant->every;
	relay->shared->trace.rule = variant->traced;
	return relay;
}

/* ---- datagrams ---- */

static void make_datagrams(const struct variant *variant, uint32_t payload_bytes)
{
	static uint8_t payload[RING_FRAME_BYTES];

	must(payload_bytes <= 1500);
	for (uint32_t i = 0; i < variant->flows; i++) {
		struct datagram *datagram = &datagrams[i];
		struct test_packet packet = {
			.port = PORT, .ttl = 16, .payload = payload, .payload_bytes = payload_bytes
		};

		packet__map_v4(packet.source, SENDER);
		packet__map_v4(packet.group, GROUPS + i);
		datagram->frame = (struct fake_frame){ .bytes = datagram->bytes,
						       .link_bytes = LINK_BYTES,
						       .protocol = ETH_P_IP,
						       .pkttype = PACKET_MULTICAST,
						       .received_ns = CLOCK_NS - TRANSIT_NS };
		if (!variant->checksum_unknown)
			datagram->frame.offloads.flags = VIRTIO_NET_HDR_F_DATA_VALID;
		datagram->frame.count =
			LINK_BYTES + packet__write(datagram->bytes + LINK_BYTES, &packet);
	}
}

__attribute__((noinline)) static void counted_batch(struct mcr_relay *relay, uint64_t now)
{
	relay_batch(relay, now);
}

static void receive(const struct variant *variant, uint32_t frames)
{
	static uint32_t flow;

	for (uint32_t i = 0; i < frames; i++) {
		must(fake_ring__receive(&ring, &datagrams[flow].frame));
		flow = (flow + 1) % variant->flows;
	}
}

static void check(const struct mcr_relay *relay, uint64_t datagrams_sent)
{
	uint64_t sent = 0, measured = 0, traced = relay->shared->trace.written;

	for (uint32_t slot = 0; slot < share.header.outputs; slot++)
		sent += relay->shared->outputs[slot].sent;
	for (uint32_t slot = 0; slot < share.header.rules; slot++)
		measured += mcr_counters__sum(relay->shared->latencies[slot].buckets,
					      MCR_RULE_LATENCY_BUCKETS);
	must(sent == datagrams_sent && measured == datagrams_sent);
	if (relay->shared->trace.rule == 1)
		must(traced == (datagrams_sent + relay->shared->trace.every - 1) /
				       relay->shared->trace.every);
	else
		must(!traced);
}

static const struct variant *variant_of(const char *name)
{
	for (size_t i = 0; i < sizeof(variants) / sizeof(*variants); i++)
		if (!strcmp(variants[i].name, name))
			return &variants[i];
	fprintf(stderr, "count_batch: got variant '%s', which there is not\n", name);
	exit(2);
}

int main(int count, char **arguments)
{
	const struct variant *variant;
	struct mcr_relay *relay;
	uint32_t batches, frames, warm;
	uint64_t now = CLOCK_NS;

	must(count == 5);
	variant = variant_of(arguments[1]);
	batches = (uint32_t)atoi(arguments[3]);
	frames = (uint32_t)atoi(arguments[4]);
	must(frames && frames <= RING_FRAMES);
	warm = variant->flows / frames + 1;
	relay = make_relay(variant);
	make_datagrams(variant, (uint32_t)atoi(arguments[2]));
	/* Each flow once to get warm: what is done at first only is not what a packet costs. */
	for (uint32_t i = 0; i < warm; i++) {
		receive(variant, frames);
		relay_batch(relay, now);
	}
	for (uint32_t i = 0; i < batches; i++) {
		receive(variant, frames);
		counted_batch(relay, now += BATCH_NS);
	}
	check(relay, (uint64_t)frames * (batches + warm));
	return 0;
}

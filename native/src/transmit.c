#include "transmit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RATE_BURST_NS 10000000ull
#define NS_PER_S 1000000000ull
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define UDP_BYTES 8

int mcr_transmit__init(struct mcr_transmit *transmit, struct mcr_shared *shared)
{
	transmit->tracer.shared = &shared->trace;
	memset(transmit->packet_fds, -1, sizeof(transmit->packet_fds));
	mcr_transmit__set_number(transmit, 0, 1);
	transmit->senders = calloc(MCR_MAX_OUTPUTS, sizeof(struct mcr_sender));
	/* A lane takes memory only once it is used. */
	transmit->lanes = calloc(MCR_LANES, sizeof(struct mcr_lane));
	transmit->dirty = calloc(MCR_LANES, sizeof(uint32_t));
	for (uint32_t slot = 0; transmit->senders && slot < MCR_MAX_OUTPUTS; slot++) {
		transmit->senders[slot].fd = -1;
		transmit->senders[slot].segment_bytes_limit = MCR_GATHER_BYTES;
		transmit->senders[slot].counters = &shared->outputs[slot];
	}
	return transmit->senders && transmit->lanes && transmit->dirty ? 0 : -ENOMEM;
}

void mcr_transmit__free(struct mcr_transmit *transmit)
{
	for (uint32_t slot = 0; transmit->senders && slot < MCR_MAX_OUTPUTS; slot++)
		mcr_transmit__detach(transmit, slot);
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		if (transmit->packet_fds[i] >= 0)
			close(transmit->packet_fds[i]);
	free(transmit->senders);
	free(transmit->lanes);
	free(transmit->dirty);
}

void mcr_transmit__set_number(struct mcr_transmit *transmit, uint32_t worker, uint32_t workers)
{
	transmit->ip_id_remainder = (uint16_t)worker;
	transmit->ip_id_step = 1;
	while (transmit->ip_id_step < workers)
		transmit->ip_id_step *= 2;
}

void mcr_transmit__attach(struct mcr_transmit *transmit, uint32_t slot, int fd,
			  const uint8_t source[16], uint16_t source_port)
{
	struct mcr_sender *sender = &transmit->senders[slot];

	if (sender->fd >= 0)
		close(sender->fd);
	sender->fd = fd;
	memcpy(sender->source, source, 16);
	sender->source_port = source_port;
	sender->segment_bytes_limit = MCR_GATHER_BYTES;
	sender->longer_at_ns = 0;
	sender->by_stack_until_ns = 0;
	sender->retry_at_ns = 0;
	sender->backoff_ns = 0;
	sender->allowed_at_ns = 0;
}

void mcr_transmit__detach(struct mcr_transmit *transmit, uint32_t slot)
{
	static const uint8_t nowhere[16];

	mcr_transmit__attach(transmit, slot, -1, nowhere, 0);
	transmit->senders[slot].output = NULL;
}

/*
 * The generic cell rate algorithm (ITU-T I.371 annex A): "allowed_at" runs ahead of the clock by
 * what was sent, and may run ahead by the burst.
 */
static bool within_rate(struct mcr_transmit *transmit, struct mcr_sender *sender, uint32_t bytes)
{
	const struct mcr_output *output = sender->output;
	uint32_t packet_bytes = bytes + UDP_BYTES + (output->ipv6 ? IPV6_BYTES : IPV4_BYTES);
	uint64_t cost_ns =
		(output->rate_in_bits ? 8ull * packet_bytes : 1) * NS_PER_S / output->rate;
	uint64_t now_ns = transmit->now_ns;

	if (sender->allowed_at_ns > now_ns + RATE_BURST_NS)
		return false;
	if (sender->allowed_at_ns < now_ns)
		sender->allowed_at_ns = now_ns;
	sender->allowed_at_ns += cost_ns;
	return true;
}

/* UDP_SEGMENT wants all payloads equally long but the last, and none empty. */
static bool fits(const struct mcr_lane *lane, uint32_t bytes)
{
	const struct iovec *last = &lane->payloads[lane->gathered - 1];

	return lane->gathered < MCR_GATHER_PAYLOADS && bytes && bytes <= lane->segment_bytes &&
	       last->iov_len == lane->segment_bytes && lane->bytes + bytes <= MCR_GATHER_BYTES;
}

static void gather(struct mcr_transmit *transmit, struct mcr_lane *lane, const uint8_t *payload,
		   uint32_t bytes)
{
	if (lane->gathered && !fits(lane, bytes))
		mcr_depart__lane(transmit, lane);
	if (!lane->gathered)
		lane->segment_bytes = bytes;
	lane->payloads[lane->gathered++] =
		(struct iovec){ .iov_base = (void *)payload, .iov_len = bytes };
	lane->bytes += bytes;
}

/* ---- what leaves, and in which lane ---- */

/* Whether what leaves differs by more than its time to live and DSCP. */
static bool has_flows(const struct mcr_output *output)
{
	if (output->engine == MCR_ENGINE_ETHERNET)
		return output->prefix_bits < 128 || !output->port;
	return output->engine != MCR_ENGINE_UDP;
}

/* The time to live to send with, 0 for none. */
static uint8_t ttl_of(const struct mcr_output *output, const struct mcr_datagram *datagram)
{
	uint8_t arrived = datagram->ttl;

	switch (output->ttl_policy) {
	case MCR_TTL_KEEP:
		return arrived;
	case MCR_TTL_DECREMENT:
		return arrived ? arrived - 1 : 0;
	case MCR_TTL_FIXED:
		return output->ttl;
	default:
		return arrived > 1 ? arrived - 1 : !datagram->guarded;
	}
}

static uint8_t dscp_of(const struct mcr_output *output, const struct mcr_datagram *datagram)
{
	return output->dscp_policy == MCR_DSCP_KEEP ? datagram->dscp : output->dscp;
}

/* The first prefix_bits come from the output, the rest from the datagram. */
static void map_address(uint8_t address[16], const struct mcr_output *output,
			const uint8_t group[16])
{
	uint32_t bytes = output->prefix_bits / 8, rest = output->prefix_bits % 8;
	uint8_t mask = (uint8_t)(0xFF00 >> rest);

	memcpy(address, group, 16);
	memcpy(address, output->address, bytes);
	if (rest)
		address[bytes] =
			(uint8_t)((output->address[bytes] & mask) | (group[bytes] & ~mask));
}

/* Add source and destination, where packets or calls name them. */
static void address(struct mcr_flow *flow, const struct mcr_output *output,
		    const struct mcr_sender *sender, const struct mcr_datagram *datagram)
{
	if (output->engine == MCR_ENGINE_UDP)
		return;
	map_address(flow->address, output, datagram->group);
	flow->port = output->port ? output->port : (uint16_t)(datagram->port + output->port_offset);
	if (output->engine == MCR_ENGINE_KEEPING) {
		memcpy(flow->source, datagram->source, 16);
		flow->source_port = datagram->source_port;
	} else if (output->engine == MCR_ENGINE_ETHERNET) {
		memcpy(flow->source, sender->source, 16);
		flow->source_port = sender->source_port;
	}
}

/* What differs between flows of one output: ends of addresses, and ports. */
static uint32_t spread_of(const struct mcr_flow *flow)
{
	uint32_t hash = flow->address[14];

	hash = hash * 31 + flow->address[15];
	hash = hash * 31 + flow->source[14];
	hash = hash * 31 + flow->source[15];
	hash = hash * 31 + flow->port;
	return hash * 31 + flow->source_port;
}

static void mark_dirty(struct mcr_transmit *transmit, struct mcr_lane *lane)
{
	if (lane->dirty)
		return;
	lane->dirty = true;
	transmit->dirty[transmit->dirty_count++] = (uint32_t)(lane - transmit->lanes);
}

/* The lane of an output that always sends from and to the same: it is addressed when it is empty.
 */
static struct mcr_lane *enter_own_lane(struct mcr_transmit *transmit,
				       const struct mcr_output *output,
				       const struct mcr_datagram *datagram, uint8_t ttl)
{
	struct mcr_lane *lane = &transmit->lanes[output->slot % MCR_LANES];
	uint8_t dscp = dscp_of(output, datagram);

	if (lane->gathered &&
	    (lane->slot != output->slot || lane->flow.ttl != ttl || lane->flow.dscp != dscp))
		mcr_depart__lane(transmit, lane);
	if (!lane->gathered) {
		lane->slot = output->slot;
		lane->flow = (struct mcr_flow){ .ttl = ttl, .dscp = dscp };
		address(&lane->flow, output, &transmit->senders[output->slot], datagram);
	}
	return lane;
}

/* Two flows that meet in one lane take turns: correct, but each leaves in smaller calls. */
static struct mcr_lane *enter_lane_of_flow(struct mcr_transmit *transmit,
					   const struct mcr_output *output,
					   const struct mcr_datagram *datagram, uint8_t ttl)
{
	struct mcr_flow flow = { .ttl = ttl, .dscp = dscp_of(output, datagram) };
	struct mcr_lane *lane;

	address(&flow, output, &transmit->senders[output->slot], datagram);
	lane = &transmit->lanes[(output->slot + spread_of(&flow)) % MCR_LANES];
	if (lane->gathered &&
	    (lane->slot != output->slot || memcmp(&lane->flow, &flow, sizeof(flow))))
		mcr_depart__lane(transmit, lane);
	if (!lane->gathered) {
		lane->slot = output->slot;
		lane->flow = flow;
	}
	return lane;
}

static struct mcr_lane *enter_lane(struct mcr_transmit *transmit, const struct mcr_output *output,
				   const struct mcr_datagram *datagram, uint8_t ttl)
{
	struct mcr_lane *lane = has_flows(output) ?
					enter_lane_of_flow(transmit, output, datagram, ttl) :
					enter_own_lane(transmit, output, datagram, ttl);

	mark_dirty(transmit, lane);
	return lane;
}

static void refuse(struct mcr_transmit *transmit, const struct mcr_output *output,
		   const struct mcr_datagram *datagram, uint32_t bytes, enum mcr_not_sent reason)
{
	transmit->senders[output->slot].counters->not_sent[reason]++;
	if (transmit->tracer.on)
		mcr_tracer__note(&transmit->tracer, output->slot, datagram, bytes, reason + 1u);
}

static const void *last_of(const struct mcr_lane *lane)
{
	return lane->gathered ? lane->payloads[lane->gathered - 1].iov_base : NULL;
}

void mcr_transmit__add(struct mcr_transmit *transmit, const struct mcr_output *output,
		       const struct mcr_datagram *datagram, uint32_t segment_bytes)
{
	struct mcr_sender *sender = &transmit->senders[output->slot];
	struct mcr_lane *lane = NULL;
	const uint8_t *payload = datagram->payload;
	uint32_t left = datagram->payload_bytes;
	uint8_t ttl = ttl_of(output, datagram);

	sender->output = output;
	if (ttl)
		lane = enter_lane(transmit, output, datagram, ttl);
	do {
		uint32_t bytes = segment_bytes && left > segment_bytes ? segment_bytes : left;

		if (!lane)
			refuse(transmit, output, datagram, bytes, MCR_NOT_SENT_TTL);
		else if (output->rate && !within_rate(transmit, sender, bytes))
			refuse(transmit, output, datagram, bytes, MCR_NOT_SENT_RATE);
		else
			gather(transmit, lane, payload, bytes);
		if (lane && transmit->tracer.on && last_of(lane) == payload)
			mcr_tracer__begin(&transmit->tracer, (uint32_t)(lane - transmit->lanes),
					  lane->gathered - 1u, output->slot, datagram, bytes);
		payload += bytes;
		left -= bytes;
	} while (left);
}

void mcr_transmit__flush(struct mcr_transmit *transmit)
{
	mcr_depart__all(transmit);
	transmit->dirty_count = 0;
}

#include "transmit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_BACKOFF_NS 10000000ull
#define LAST_BACKOFF_NS 1000000000ull
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

static enum mcr_not_sent reason_of(int error)
{
	switch (error) {
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		return MCR_NOT_SENT_NO_BUFFER;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case EHOSTDOWN:
	case EADDRNOTAVAIL:
		return MCR_NOT_SENT_UNREACHABLE;
	case ENETDOWN:
	case ENODEV:
	case ENXIO:
		return MCR_NOT_SENT_DOWN;
	case EPERM:
	case EACCES:
		return MCR_NOT_SENT_DENIED;
	case EMSGSIZE:
		return MCR_NOT_SENT_TOO_LONG;
	case ECONNREFUSED:
		return MCR_NOT_SENT_REFUSED;
	default:
		return MCR_NOT_SENT_OTHER;
	}
}

/* What passes by itself, or concerns one payload only, is no reason to leave the output alone. */
static bool worth_backing_off(enum mcr_not_sent reason)
{
	return reason != MCR_NOT_SENT_NO_BUFFER && reason != MCR_NOT_SENT_TOO_LONG &&
	       reason != MCR_NOT_SENT_REFUSED;
}

static void back_off(struct mcr_sender *sender, uint64_t now_ns)
{
	sender->backoff_ns = sender->backoff_ns ? 2 * sender->backoff_ns : FIRST_BACKOFF_NS;
	if (sender->backoff_ns > LAST_BACKOFF_NS)
		sender->backoff_ns = LAST_BACKOFF_NS;
	sender->retry_at_ns = now_ns + sender->backoff_ns;
}

static uint32_t bytes_of(const struct mcr_lane *lane, uint32_t first, uint32_t count)
{
	uint32_t bytes = 0;

	for (uint32_t i = first; i < first + count; i++)
		bytes += (uint32_t)lane->payloads[i].iov_len;
	return bytes;
}

static void trace(struct mcr_transmit *transmit, const struct mcr_lane *lane, uint32_t first,
		  uint32_t count, uint32_t verdict)
{
	if (transmit->tracer.pending_count)
		mcr_tracer__end(&transmit->tracer, (uint32_t)(lane - transmit->lanes), first, count,
				verdict);
}

static void count_sent(struct mcr_transmit *transmit, const struct mcr_lane *lane, uint32_t first,
		       uint32_t count)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];

	sender->counters->sent += count;
	sender->counters->bytes += bytes_of(lane, first, count);
	sender->backoff_ns = 0;
	trace(transmit, lane, first, count, 0);
}

static void count_not_sent(struct mcr_transmit *transmit, const struct mcr_lane *lane,
			   uint32_t first, uint32_t count, enum mcr_not_sent reason)
{
	transmit->senders[lane->slot].counters->not_sent[reason] += count;
	trace(transmit, lane, first, count, reason + 1u);
}

/* The device or the path may not take segments of this length (udp_send_skb in net/ipv4/udp.c). */
static bool segments_refused(int error)
{
	return error == -EINVAL || error == -EMSGSIZE || error == -EIO || error == -EOPNOTSUPP;
}

/* Whether it may leave through the IP stack: not from another host's address. */
static bool has_udp_socket(const struct mcr_sender *sender)
{
	return sender->output->engine != MCR_ENGINE_KEEPING && sender->fd >= 0;
}

static bool has_packet_socket(const struct mcr_transmit *transmit, const struct mcr_sender *sender)
{
	return transmit->packet_fds[0] >= 0 && sender->output->ifindex;
}

/* An address of this host is that of the UDP socket, also for packets. */
static bool has_socket(const struct mcr_transmit *transmit, const struct mcr_sender *sender)
{
	if (sender->output->engine == MCR_ENGINE_KEEPING)
		return has_packet_socket(transmit, sender);
	return has_udp_socket(sender);
}

/*
 * What is too long for the link is for the IP stack to fragment, and what follows goes the same way
 * for a while: a device with several queues would let short ones pass long ones.
 */
static bool writes_packets(struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];
	const struct mcr_output *output = sender->output;

	if (output->engine < MCR_ENGINE_ETHERNET || !has_packet_socket(transmit, sender))
		return false;
	if (!has_udp_socket(sender))
		return true;
	/* No other payload of a lane is longer than its first. */
	if (mcr_ethernet__needs_fragments(output, lane->segment_bytes))
		sender->by_stack_until_ns = transmit->now_ns + NS_PER_S;
	return !transmit->super_packets_refused && transmit->now_ns >= sender->by_stack_until_ns;
}

/* The link may have become shorter than is known here. */
static bool turns_to_stack(const struct mcr_transmit *transmit, struct mcr_sender *sender,
			   int error)
{
	if (error != -EMSGSIZE || !has_udp_socket(sender))
		return false;
	sender->by_stack_until_ns = transmit->now_ns + NS_PER_S;
	return true;
}

/* Packet sockets take super-packets since Linux 6.2 (virtio_net_hdr_to_skb), UDP sockets since
 * 4.18: before, everything that can leave through the IP stack does. */
static int send_segments(struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	const struct mcr_sender *sender = &transmit->senders[lane->slot];
	int sent, refusal = 0;

	if (writes_packets(transmit, lane)) {
		refusal = mcr_ethernet__send_segments(transmit, lane);
		if (!has_udp_socket(sender) || !segments_refused(refusal))
			return refusal;
	}
	if (!has_udp_socket(sender))
		return -EOPNOTSUPP;
	sent = mcr_udp__send_segments(sender, lane);
	if (sent > 0 && refusal == -EINVAL)
		transmit->super_packets_refused = true;
	return sent;
}

static int send_singly(struct mcr_transmit *transmit, const struct mcr_lane *lane, uint32_t first)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];

	if (writes_packets(transmit, lane)) {
		int sent = mcr_ethernet__send_singly(transmit, lane, first);

		if (!turns_to_stack(transmit, sender, sent))
			return sent;
	}
	return mcr_udp__send_singly(sender, lane, first);
}

/*
 * Send payloads one by one; "error" is what the first attempt for all of them met, or 0.  Gives
 * whether anything was sent.
 *
 * That an earlier datagram was refused (ICMP port unreachable) is reported by the next call, which
 * then sends nothing: the same payload gets a second chance.
 */
static bool flush_singly(struct mcr_transmit *transmit, const struct mcr_lane *lane, int error)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];
	uint32_t done = 0;
	bool second_chance = true, any = false;

	while (done < lane->gathered) {
		int sent = error ? error : send_singly(transmit, lane, done);
		enum mcr_not_sent reason;

		error = 0;
		if (sent > 0) {
			count_sent(transmit, lane, done, (uint32_t)sent);
			done += (uint32_t)sent;
			second_chance = any = true;
			continue;
		}
		reason = reason_of(-sent);
		if (second_chance && reason == MCR_NOT_SENT_REFUSED) {
			second_chance = false;
			continue;
		}
		if (reason == MCR_NOT_SENT_TOO_LONG || reason == MCR_NOT_SENT_REFUSED) {
			count_not_sent(transmit, lane, done++, 1, reason);
			continue;
		}
		count_not_sent(transmit, lane, done, lane->gathered - done, reason);
		if (worth_backing_off(reason))
			back_off(sender, transmit->now_ns);
		break;
	}
	return any;
}

/* The path may take longer segments by now: its MTU changes without notice. */
static bool may_leave_together(const struct mcr_transmit *transmit, const struct mcr_sender *sender,
			       const struct mcr_lane *lane)
{
	return lane->gathered > 1 && (lane->segment_bytes <= sender->segment_bytes_limit ||
				      transmit->now_ns >= sender->longer_at_ns);
}

static void note_segments_sent(struct mcr_sender *sender, uint32_t segment_bytes)
{
	if (segment_bytes > sender->segment_bytes_limit)
		sender->segment_bytes_limit = segment_bytes;
}

static void note_segments_refused(struct mcr_transmit *transmit, struct mcr_sender *sender,
				  uint32_t segment_bytes)
{
	if (segment_bytes <= sender->segment_bytes_limit)
		sender->segment_bytes_limit = segment_bytes - 1;
	sender->longer_at_ns = transmit->now_ns + NS_PER_S;
}

/* What leaves one by one after it was refused together was refused for being together. */
static void flush_gathered(struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];
	int sent;

	if (!may_leave_together(transmit, sender, lane)) {
		flush_singly(transmit, lane, 0);
		return;
	}
	sent = send_segments(transmit, lane);
	if (sent > 0) {
		count_sent(transmit, lane, 0, lane->gathered);
		note_segments_sent(sender, lane->segment_bytes);
	} else if (!segments_refused(sent)) {
		flush_singly(transmit, lane, sent);
	} else if (flush_singly(transmit, lane, 0)) {
		note_segments_refused(transmit, sender, lane->segment_bytes);
	}
}

static bool backs_off(const struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	return transmit->now_ns < transmit->senders[lane->slot].retry_at_ns;
}

static void empty(struct mcr_lane *lane)
{
	lane->gathered = 0;
	lane->bytes = 0;
}

static void flush_lane(struct mcr_transmit *transmit, struct mcr_lane *lane)
{
	const struct mcr_sender *sender = &transmit->senders[lane->slot];

	if (!lane->gathered)
		return;
	if (!has_socket(transmit, sender))
		count_not_sent(transmit, lane, 0, lane->gathered, MCR_NOT_SENT_NO_SOCKET);
	else if (backs_off(transmit, lane))
		count_not_sent(transmit, lane, 0, lane->gathered, MCR_NOT_SENT_BACKING_OFF);
	else
		flush_gathered(transmit, lane);
	empty(lane);
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
		flush_lane(transmit, lane);
	if (!lane->gathered)
		lane->segment_bytes = bytes;
	lane->payloads[lane->gathered++] =
		(struct iovec){ .iov_base = (void *)payload, .iov_len = bytes };
	lane->bytes += bytes;
}

/* Whether what leaves differs by more than its time to live and DSCP. */
static bool has_flows(const struct mcr_output *output)
{
	if (output->engine == MCR_ENGINE_ETHERNET)
		return output->prefix_bits < 128 || !output->port;
	return output->engine != MCR_ENGINE_UDP;
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

/* Two flows that meet in one lane take turns: correct, but each leaves in smaller calls. */
static struct mcr_lane *enter_lane(struct mcr_transmit *transmit, uint32_t slot,
				   const struct mcr_flow *flow, bool varies)
{
	uint32_t spread = varies ? spread_of(flow) : 0;
	uint32_t index = (slot + spread) % MCR_LANES;
	struct mcr_lane *lane = &transmit->lanes[index];

	if (lane->gathered && (lane->slot != slot || memcmp(&lane->flow, flow, sizeof(*flow))))
		flush_lane(transmit, lane);
	if (!lane->gathered) {
		lane->slot = slot;
		lane->flow = *flow;
	}
	if (!lane->dirty) {
		lane->dirty = true;
		transmit->dirty[transmit->dirty_count++] = index;
	}
	return lane;
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

static struct mcr_flow flow_of(const struct mcr_output *output, const struct mcr_sender *sender,
			       const struct mcr_datagram *datagram)
{
	struct mcr_flow flow = { .ttl = ttl_of(output, datagram),
				 .dscp = output->dscp_policy == MCR_DSCP_KEEP ? datagram->dscp :
										output->dscp };

	if (output->engine == MCR_ENGINE_UDP)
		return flow;
	map_address(flow.address, output, datagram->group);
	flow.port = output->port ? output->port : (uint16_t)(datagram->port + output->port_offset);
	if (output->engine == MCR_ENGINE_KEEPING) {
		memcpy(flow.source, datagram->source, 16);
		flow.source_port = datagram->source_port;
	} else if (output->engine == MCR_ENGINE_ETHERNET) {
		memcpy(flow.source, sender->source, 16);
		flow.source_port = sender->source_port;
	}
	return flow;
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
	struct mcr_flow flow = flow_of(output, sender, datagram);
	struct mcr_lane *lane = NULL;
	const uint8_t *payload = datagram->payload;
	uint32_t left = datagram->payload_bytes;

	sender->output = output;
	if (flow.ttl)
		lane = enter_lane(transmit, output->slot, &flow, has_flows(output));
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

static bool may_leave_with_others(struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	const struct mcr_sender *sender = &transmit->senders[lane->slot];

	return lane->gathered == 1 && has_socket(transmit, sender) && !backs_off(transmit, lane) &&
	       writes_packets(transmit, lane) &&
	       !mcr_ethernet__needs_fragments(sender->output, lane->segment_bytes);
}

/* What stops a call concerns the first lane that it did not send, and others of its output. */
static void flush_together(struct mcr_transmit *transmit, struct mcr_lane *const *lanes,
			   uint32_t count)
{
	uint32_t done = 0;

	while (done < count) {
		struct mcr_lane *lane = lanes[done];
		int sent = 0;

		if (!backs_off(transmit, lane))
			sent = mcr_ethernet__send_together(transmit, lanes + done, count - done);
		if (sent > 0) {
			for (; sent > 0; sent--) {
				count_sent(transmit, lanes[done], 0, 1);
				empty(lanes[done++]);
			}
			continue;
		}
		if (!sent || turns_to_stack(transmit, &transmit->senders[lane->slot], sent))
			flush_lane(transmit, lane);
		else
			flush_singly(transmit, lane, sent);
		empty(lane);
		done++;
	}
}

/* Lanes that leave in one call, of each priority. */
struct together {
	struct mcr_lane *lanes[MCR_GATHER_PAYLOADS];
	uint32_t count;
};

static void join(struct mcr_transmit *transmit, struct together *together, struct mcr_lane *lane)
{
	together->lanes[together->count++] = lane;
	if (together->count == MCR_GATHER_PAYLOADS) {
		flush_together(transmit, together->lanes, together->count);
		together->count = 0;
	}
}

void mcr_transmit__flush(struct mcr_transmit *transmit)
{
	struct together together[MCR_PRIORITIES];

	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		together[i].count = 0;
	for (uint32_t i = 0; i < transmit->dirty_count; i++) {
		struct mcr_lane *lane = &transmit->lanes[transmit->dirty[i]];
		const struct mcr_output *output = transmit->senders[lane->slot].output;

		lane->dirty = false;
		if (may_leave_with_others(transmit, lane))
			join(transmit, &together[mcr_ethernet__priority(output, lane)], lane);
		else
			flush_lane(transmit, lane);
	}
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		flush_together(transmit, together[i].lanes, together[i].count);
	transmit->dirty_count = 0;
}

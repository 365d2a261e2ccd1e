/*
 * How a lane leaves: by which socket, in how many calls, and what becomes of what does not.
 */
#include "transmit.h"

#include <errno.h>

#define FIRST_BACKOFF_NS 10000000ull
#define LAST_BACKOFF_NS 1000000000ull
#define NS_PER_S 1000000000ull

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

void mcr_depart__lane(struct mcr_transmit *transmit, struct mcr_lane *lane)
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
			mcr_depart__lane(transmit, lane);
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

void mcr_depart__all(struct mcr_transmit *transmit)
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
			mcr_depart__lane(transmit, lane);
	}
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		flush_together(transmit, together[i].lanes, together[i].count);
}

#include "transmit.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_BACKOFF_NS 10000000ull
#define LAST_BACKOFF_NS 1000000000ull

union control {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t))];
};

int mcr_transmit__init(struct mcr_transmit *transmit, struct mcr_output_counters *counters)
{
	transmit->senders = calloc(MCR_MAX_OUTPUTS, sizeof(struct mcr_sender));
	/* A page of its own array is touched, and so takes memory, only when an output is used. */
	transmit->payloads =
		calloc((size_t)MCR_MAX_OUTPUTS * MCR_GATHER_PAYLOADS, sizeof(struct iovec));
	transmit->dirty = calloc(MCR_MAX_OUTPUTS, sizeof(uint32_t));
	if (!transmit->senders || !transmit->payloads || !transmit->dirty)
		return -ENOMEM;
	for (uint32_t slot = 0; slot < MCR_MAX_OUTPUTS; slot++) {
		transmit->senders[slot].fd = -1;
		transmit->senders[slot].counters = &counters[slot];
		transmit->senders[slot].payloads =
			&transmit->payloads[(size_t)slot * MCR_GATHER_PAYLOADS];
	}
	return 0;
}

void mcr_transmit__free(struct mcr_transmit *transmit)
{
	for (uint32_t slot = 0; transmit->senders && slot < MCR_MAX_OUTPUTS; slot++)
		mcr_transmit__attach(transmit, slot, -1, 4);
	free(transmit->senders);
	free(transmit->payloads);
	free(transmit->dirty);
}

void mcr_transmit__attach(struct mcr_transmit *transmit, uint32_t slot, int fd, int ip_version)
{
	struct mcr_sender *sender = &transmit->senders[slot];

	if (sender->fd >= 0)
		close(sender->fd);
	sender->fd = fd;
	sender->ipv6 = ip_version == 6;
	sender->segment_bytes_limit = MCR_GATHER_BYTES;
	sender->retry_at_ns = 0;
	sender->backoff_ns = 0;
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

static void count_sent(struct mcr_sender *sender, uint32_t payloads, uint32_t bytes)
{
	sender->counters->sent += payloads;
	sender->counters->bytes += bytes;
	sender->backoff_ns = 0;
}

static struct cmsghdr *put_ttl(const struct mcr_sender *sender, struct msghdr *message)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	int ttl = sender->ttl;

	header->cmsg_level = sender->ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
	header->cmsg_type = sender->ipv6 ? IPV6_HOPLIMIT : IP_TTL;
	header->cmsg_len = CMSG_LEN(sizeof(ttl));
	memcpy(CMSG_DATA(header), &ttl, sizeof(ttl));
	return header;
}

static ssize_t send_segments(const struct mcr_sender *sender)
{
	union control control = { 0 };
	struct msghdr message = { .msg_iov = sender->payloads,
				  .msg_iovlen = sender->gathered,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header = CMSG_NXTHDR(&message, put_ttl(sender, &message));
	uint16_t segment_bytes = (uint16_t)sender->segment_bytes;

	header->cmsg_level = IPPROTO_UDP;
	header->cmsg_type = UDP_SEGMENT;
	header->cmsg_len = CMSG_LEN(sizeof(segment_bytes));
	memcpy(CMSG_DATA(header), &segment_bytes, sizeof(segment_bytes));
	return sendmsg(sender->fd, &message, MSG_DONTWAIT);
}

/* Send payloads from "first" on, each as a datagram of its own; a count, or a negative errno for
 * the first. */
static int send_singly(const struct mcr_sender *sender, uint32_t first)
{
	union control control = { 0 };
	struct mmsghdr messages[MCR_GATHER_PAYLOADS];
	uint32_t count = sender->gathered - first;
	int sent;

	for (uint32_t i = 0; i < count; i++)
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &sender->payloads[first + i],
						       .msg_iovlen = 1,
						       .msg_control = control.bytes,
						       .msg_controllen = CMSG_SPACE(sizeof(int)) };
	put_ttl(sender, &messages[0].msg_hdr);
	sent = sendmmsg(sender->fd, messages, count, MSG_DONTWAIT);
	return sent < 0 ? -errno : sent;
}

static uint32_t bytes_of(const struct mcr_sender *sender, uint32_t first, uint32_t count)
{
	uint32_t bytes = 0;

	for (uint32_t i = first; i < first + count; i++)
		bytes += (uint32_t)sender->payloads[i].iov_len;
	return bytes;
}

/*
 * An error that an earlier datagram met (ICMP port unreachable) is reported by the next call, which
 * then sends nothing: the same payload gets a second chance.
 */
static void flush_singly(struct mcr_sender *sender, uint64_t now_ns)
{
	uint32_t done = 0;
	bool second_chance = true;

	while (done < sender->gathered) {
		int sent = send_singly(sender, done);
		enum mcr_not_sent reason;

		if (sent > 0) {
			count_sent(sender, (uint32_t)sent, bytes_of(sender, done, (uint32_t)sent));
			done += (uint32_t)sent;
			second_chance = true;
			continue;
		}
		reason = reason_of(-sent);
		if (second_chance && reason != MCR_NOT_SENT_NO_BUFFER &&
		    reason != MCR_NOT_SENT_TOO_LONG) {
			second_chance = false;
			continue;
		}
		if (reason == MCR_NOT_SENT_TOO_LONG || reason == MCR_NOT_SENT_REFUSED) {
			sender->counters->not_sent[reason]++;
			done++;
			continue;
		}
		sender->counters->not_sent[reason] += sender->gathered - done;
		if (worth_backing_off(reason))
			back_off(sender, now_ns);
		return;
	}
}

/* The device or the path cannot take segments of this length (linux/net/ipv4/udp.c, udp_send_skb).
 */
static bool segments_refused(int error)
{
	return error == EINVAL || error == EMSGSIZE || error == EIO || error == EOPNOTSUPP;
}

static void flush_gathered(struct mcr_sender *sender, uint64_t now_ns)
{
	if (sender->gathered > 1 && sender->segment_bytes <= sender->segment_bytes_limit) {
		if (send_segments(sender) >= 0) {
			count_sent(sender, sender->gathered, sender->bytes);
			return;
		}
		if (segments_refused(errno))
			sender->segment_bytes_limit = sender->segment_bytes - 1;
	}
	flush_singly(sender, now_ns);
}

static void flush_sender(struct mcr_sender *sender, uint64_t now_ns)
{
	if (!sender->gathered)
		return;
	if (sender->fd < 0)
		sender->counters->not_sent[MCR_NOT_SENT_NO_SOCKET] += sender->gathered;
	else if (now_ns < sender->retry_at_ns)
		sender->counters->not_sent[MCR_NOT_SENT_BACKING_OFF] += sender->gathered;
	else
		flush_gathered(sender, now_ns);
	sender->gathered = 0;
	sender->bytes = 0;
}

/* UDP_SEGMENT wants all payloads equally long but the last, and none empty. */
static bool fits(const struct mcr_sender *sender, uint8_t ttl, uint32_t bytes)
{
	const struct iovec *last = &sender->payloads[sender->gathered - 1];

	return sender->gathered < MCR_GATHER_PAYLOADS && sender->ttl == ttl && bytes &&
	       bytes <= sender->segment_bytes && last->iov_len == sender->segment_bytes &&
	       sender->bytes + bytes <= MCR_GATHER_BYTES;
}

void mcr_transmit__add(struct mcr_transmit *transmit, uint32_t slot, uint8_t ttl,
		       const uint8_t *payload, uint32_t bytes)
{
	struct mcr_sender *sender = &transmit->senders[slot];

	if (sender->gathered && !fits(sender, ttl, bytes))
		flush_sender(sender, transmit->now_ns);
	if (!sender->dirty) {
		sender->dirty = true;
		transmit->dirty[transmit->dirty_count++] = slot;
	}
	if (!sender->gathered) {
		sender->ttl = ttl;
		sender->segment_bytes = bytes;
	}
	sender->payloads[sender->gathered++] =
		(struct iovec){ .iov_base = (void *)payload, .iov_len = bytes };
	sender->bytes += bytes;
}

void mcr_transmit__flush(struct mcr_transmit *transmit)
{
	for (uint32_t i = 0; i < transmit->dirty_count; i++) {
		struct mcr_sender *sender = &transmit->senders[transmit->dirty[i]];

		flush_sender(sender, transmit->now_ns);
		sender->dirty = false;
	}
	transmit->dirty_count = 0;
}

#include "transmit.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#define DSCP_SHIFT 2

union control {
	struct cmsghdr align;
	uint8_t bytes[2 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t))];
};

union name {
	struct sockaddr any;
	struct sockaddr_in ipv4;
	struct sockaddr_in6 ipv6;
};

static struct cmsghdr *put(struct cmsghdr *header, int level, int type, const void *value,
			   size_t bytes)
{
	header->cmsg_level = level;
	header->cmsg_type = type;
	header->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(header), value, bytes);
	return header;
}

/* Time to live and DSCP, and behind them the segment's length if there is one. */
static void put_control(const struct mcr_sender *sender, const struct mcr_lane *lane,
			uint16_t segment_bytes, union control *control, struct msghdr *message)
{
	int ttl = lane->flow.ttl, tos = lane->flow.dscp << DSCP_SHIFT;
	int level = sender->output->ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
	struct cmsghdr *header;

	message->msg_control = control->bytes;
	message->msg_controllen = sizeof(control->bytes);
	header = put(CMSG_FIRSTHDR(message), level, sender->output->ipv6 ? IPV6_HOPLIMIT : IP_TTL,
		     &ttl, sizeof(ttl));
	header = put(CMSG_NXTHDR(message, header), level,
		     sender->output->ipv6 ? IPV6_TCLASS : IP_TOS, &tos, sizeof(tos));
	if (segment_bytes)
		put(CMSG_NXTHDR(message, header), IPPROTO_UDP, UDP_SEGMENT, &segment_bytes,
		    sizeof(segment_bytes));
	else
		message->msg_controllen = 2 * CMSG_SPACE(sizeof(int));
}

/* Only the socket of an output that sends nothing else is sure to be connected. */
static void put_name(const struct mcr_sender *sender, const struct mcr_lane *lane, union name *name,
		     struct msghdr *message)
{
	if (sender->output->engine == MCR_ENGINE_UDP)
		return;
	memset(name, 0, sizeof(*name));
	message->msg_name = name;
	if (sender->output->ipv6) {
		name->ipv6.sin6_family = AF_INET6;
		name->ipv6.sin6_port = htons(lane->flow.port);
		name->ipv6.sin6_scope_id = sender->output->ifindex;
		memcpy(&name->ipv6.sin6_addr, lane->flow.address, 16);
		message->msg_namelen = sizeof(name->ipv6);
	} else {
		name->ipv4.sin_family = AF_INET;
		name->ipv4.sin_port = htons(lane->flow.port);
		memcpy(&name->ipv4.sin_addr, lane->flow.address + 12, 4);
		message->msg_namelen = sizeof(name->ipv4);
	}
}

int mcr_udp__send_segments(const struct mcr_sender *sender, const struct mcr_lane *lane)
{
	union control control = { 0 };
	union name name;
	struct msghdr message = { .msg_iov = (struct iovec *)lane->payloads,
				  .msg_iovlen = lane->gathered };

	put_control(sender, lane, (uint16_t)lane->segment_bytes, &control, &message);
	put_name(sender, lane, &name, &message);
	return sendmsg(sender->fd, &message, MSG_DONTWAIT) < 0 ? -errno : lane->gathered;
}

int mcr_udp__send_singly(const struct mcr_sender *sender, const struct mcr_lane *lane,
			 uint32_t first)
{
	union control control = { 0 };
	union name name;
	struct mmsghdr messages[MCR_GATHER_PAYLOADS];
	struct msghdr message = { .msg_iovlen = 1 };
	uint32_t count = lane->gathered - first;
	int sent;

	put_control(sender, lane, 0, &control, &message);
	put_name(sender, lane, &name, &message);
	for (uint32_t i = 0; i < count; i++) {
		messages[i].msg_hdr = message;
		messages[i].msg_hdr.msg_iov = (struct iovec *)&lane->payloads[first + i];
	}
	sent = sendmmsg(sender->fd, messages, count, MSG_DONTWAIT);
	return sent < 0 ? -errno : sent;
}

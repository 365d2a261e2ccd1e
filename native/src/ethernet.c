/*
 * Whole packets through a packet socket with PACKET_VNET_HDR: the kernel finishes checksums and
 * cuts super-packets where the device cannot.
 *
 * Source: RFC 791, RFC 8200, RFC 768, RFC 1112 section 6.4, RFC 2464 section 7; linux/virtio_net.h.
 */
#include "checksum.h"
#include "transmit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define UDP_BYTES 8
#define UDP_CHECKSUM_AT 6
#define FRAGMENT_UNIT 8
#define MORE_FRAGMENTS 0x2000
#define LARGEST_HEADERS (sizeof(struct virtio_net_hdr) + ETH_HLEN + IPV6_BYTES + UDP_BYTES)

struct headers {
	uint8_t bytes[LARGEST_HEADERS];
	uint32_t used;
};

static void put(struct headers *headers, const void *data, uint32_t bytes)
{
	memcpy(headers->bytes + headers->used, data, bytes);
	headers->used += bytes;
}

static void put16(struct headers *headers, uint16_t value)
{
	uint16_t network = htons(value);

	put(headers, &network, sizeof(network));
}

/* Anywhere: a predecessor may have left fragments at a receiver that waits for the rest of them. */
static void start_identifications(const struct mcr_transmit *transmit, struct mcr_sender *sender)
{
	uint16_t random;

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
		random = 0;
	sender->ip_id_step = transmit->ip_id_step;
	sender->ip_id = (uint16_t)(random * sender->ip_id_step + transmit->ip_id_remainder);
}

static uint16_t next_identification(const struct mcr_transmit *transmit, struct mcr_sender *sender)
{
	uint16_t id;

	if (!sender->ip_id_step)
		start_identifications(transmit, sender);
	id = sender->ip_id;
	sender->ip_id = (uint16_t)(id + sender->ip_id_step);
	return id;
}

static uint32_t ip_bytes(const struct mcr_output *output)
{
	return output->ipv6 ? IPV6_BYTES : IPV4_BYTES;
}

/* Groups have link addresses of their own; unicast outputs cannot keep their source
 * (mcr/model/rule.py). */
static void put_link(struct headers *headers, const struct mcr_output *output,
		     const struct mcr_flow *flow)
{
	uint8_t destination[6] = { 0x01, 0x00, 0x5E };

	if (!output->link_bytes)
		return;
	if (output->ipv6) {
		destination[0] = destination[1] = 0x33;
		memcpy(destination + 2, flow->address + 12, 4);
	} else {
		memcpy(destination + 3, flow->address + 13, 3);
		destination[3] &= 0x7F;
	}
	put(headers, destination, 6);
	put(headers, output->link_source, 6);
	put16(headers, output->ipv6 ? ETH_P_IPV6 : ETH_P_IP);
}

static void put_ipv4(struct headers *headers, const struct mcr_flow *flow, uint32_t payload_bytes,
		     uint16_t id, uint16_t fragment)
{
	uint32_t start = headers->used;
	uint16_t checksum;

	put16(headers, (uint16_t)(0x4500 | flow->dscp << 2));
	put16(headers, (uint16_t)(IPV4_BYTES + payload_bytes));
	put16(headers, id);
	put16(headers, fragment);
	put16(headers, (uint16_t)(flow->ttl << 8 | IPPROTO_UDP));
	put16(headers, 0);
	put(headers, flow->source + 12, 4);
	put(headers, flow->address + 12, 4);
	checksum = (uint16_t)~mcr_checksum__fold(
		mcr_checksum__add(0, headers->bytes + start, IPV4_BYTES));
	memcpy(headers->bytes + start + 10, &checksum, sizeof(checksum));
}

static void put_ipv6(struct headers *headers, const struct mcr_flow *flow, uint32_t payload_bytes)
{
	put16(headers, (uint16_t)(0x6000 | flow->dscp << 6));
	put16(headers, 0);
	put16(headers, (uint16_t)payload_bytes);
	put16(headers, (uint16_t)(IPPROTO_UDP << 8 | flow->ttl));
	put(headers, flow->source, 16);
	put(headers, flow->address, 16);
}

/* The sum over addresses, protocol and length, folded but not complemented. */
static uint16_t pseudo_header(const struct mcr_output *output, const struct mcr_flow *flow,
			      uint32_t udp_bytes)
{
	uint32_t skip = output->ipv6 ? 0 : 12;
	uint64_t sum = htons(IPPROTO_UDP) + (uint64_t)htonl(udp_bytes);

	sum = mcr_checksum__add(sum, flow->source + skip, 16 - skip);
	return (uint16_t)mcr_checksum__fold(
		mcr_checksum__add(sum, flow->address + skip, 16 - skip));
}

static void put_udp(struct headers *headers, const struct mcr_flow *flow, uint32_t udp_bytes,
		    uint16_t checksum)
{
	put16(headers, flow->source_port);
	put16(headers, flow->port);
	put16(headers, (uint16_t)udp_bytes);
	put(headers, &checksum, sizeof(checksum));
}

/* Headers of one datagram, or of several of segment_bytes each, whose checksum the kernel
 * completes. */
static void put_all(struct headers *headers, const struct mcr_transmit *transmit,
		    const struct mcr_lane *lane, uint32_t payload_bytes, uint32_t segment_bytes)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];
	const struct mcr_output *output = sender->output;
	const struct mcr_flow *flow = &lane->flow;
	uint32_t udp_at = output->link_bytes + ip_bytes(output);
	struct virtio_net_hdr offloads = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = segment_bytes ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_NONE,
		.gso_size = (uint16_t)segment_bytes,
		.hdr_len = (uint16_t)(udp_at + UDP_BYTES),
		.csum_start = (uint16_t)udp_at,
		.csum_offset = UDP_CHECKSUM_AT,
	};
	uint32_t udp_bytes = UDP_BYTES + payload_bytes;

	headers->used = 0;
	put(headers, &offloads, sizeof(offloads));
	put_link(headers, output, flow);
	if (output->ipv6)
		put_ipv6(headers, flow, udp_bytes);
	else
		put_ipv4(headers, flow, udp_bytes, next_identification(transmit, sender), 0);
	put_udp(headers, flow, udp_bytes, pseudo_header(output, flow, udp_bytes));
}

static struct sockaddr_ll link_of(const struct mcr_output *output)
{
	return (struct sockaddr_ll){ .sll_family = AF_PACKET,
				     .sll_protocol = htons(output->ipv6 ? ETH_P_IPV6 : ETH_P_IP),
				     .sll_ifindex = (int)output->ifindex };
}

/* An IPv4 socket gives packets a priority by their type of service (ip_tos2prio in
 * net/ipv4/route.c), which queues and VLANs with an egress-qos-map go by; an IPv6 socket does not.
 */
uint32_t mcr_ethernet__priority(const struct mcr_output *output, const struct mcr_lane *lane)
{
	return output->ipv6 ? 0 : lane->flow.dscp >> 1 & 3;
}

static int fd_for(const struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	const struct mcr_output *output = transmit->senders[lane->slot].output;

	return transmit->packet_fds[mcr_ethernet__priority(output, lane)];
}

int mcr_ethernet__send_segments(struct mcr_transmit *transmit, const struct mcr_lane *lane)
{
	const struct mcr_output *output = transmit->senders[lane->slot].output;
	struct headers headers;
	struct iovec parts[1 + MCR_GATHER_PAYLOADS];
	struct sockaddr_ll link = link_of(output);
	struct msghdr message = { .msg_name = &link,
				  .msg_namelen = sizeof(link),
				  .msg_iov = parts,
				  .msg_iovlen = 1 + lane->gathered };

	/* The packet socket does not compare segments with the MTU; a device would drop them
	 * silently. */
	if (mcr_ethernet__needs_fragments(output, lane->segment_bytes))
		return -EMSGSIZE;
	put_all(&headers, transmit, lane, lane->bytes, lane->segment_bytes);
	parts[0] = (struct iovec){ .iov_base = headers.bytes, .iov_len = headers.used };
	memcpy(parts + 1, lane->payloads, lane->gathered * sizeof(*parts));
	return sendmsg(fd_for(transmit, lane), &message, MSG_DONTWAIT) < 0 ? -errno :
									     lane->gathered;
}

/* ---- fragments ---- */

/* What one fragment holds: a piece of UDP header and payload; its checksum covers the whole
 * datagram. */
static int send_fragment(struct mcr_transmit *transmit, const struct mcr_lane *lane,
			 const struct iovec *payload, uint32_t offset, uint32_t bytes, uint16_t id)
{
	const struct mcr_output *output = transmit->senders[lane->slot].output;
	const struct virtio_net_hdr no_offloads = { 0 };
	uint32_t udp_bytes = UDP_BYTES + (uint32_t)payload->iov_len;
	uint32_t skip = offset ? offset - UDP_BYTES : 0;
	bool last = offset + bytes == udp_bytes;
	struct headers headers = { .used = 0 };
	struct sockaddr_ll link = link_of(output);
	struct iovec parts[2];
	struct msghdr message = {
		.msg_name = &link, .msg_namelen = sizeof(link), .msg_iov = parts, .msg_iovlen = 2
	};

	put(&headers, &no_offloads, sizeof(no_offloads));
	put_link(&headers, output, &lane->flow);
	put_ipv4(&headers, &lane->flow, bytes, id,
		 (uint16_t)(offset / FRAGMENT_UNIT | (last ? 0 : MORE_FRAGMENTS)));
	if (!offset) {
		uint32_t start = headers.used;
		uint64_t sum = pseudo_header(output, &lane->flow, udp_bytes);
		uint16_t checksum;

		put_udp(&headers, &lane->flow, udp_bytes, 0);
		sum = mcr_checksum__add(sum, headers.bytes + start, UDP_BYTES);
		sum = mcr_checksum__add(sum, payload->iov_base, (uint32_t)payload->iov_len);
		checksum = (uint16_t)~mcr_checksum__fold(sum);
		checksum = checksum ? checksum : 0xFFFF;
		memcpy(headers.bytes + start + UDP_CHECKSUM_AT, &checksum, sizeof(checksum));
		bytes -= UDP_BYTES;
	}
	parts[0] = (struct iovec){ .iov_base = headers.bytes, .iov_len = headers.used };
	parts[1] =
		(struct iovec){ .iov_base = (uint8_t *)payload->iov_base + skip, .iov_len = bytes };
	return sendmsg(fd_for(transmit, lane), &message, MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* IPv6 is only fragmented by its source (RFC 8200 section 4.5), whose packets these pretend to be.
 */
static int send_fragments(struct mcr_transmit *transmit, const struct mcr_lane *lane,
			  const struct iovec *payload)
{
	struct mcr_sender *sender = &transmit->senders[lane->slot];
	uint32_t udp_bytes = UDP_BYTES + (uint32_t)payload->iov_len;
	uint32_t room = (sender->output->mtu - IPV4_BYTES) / FRAGMENT_UNIT * FRAGMENT_UNIT;
	uint16_t id = next_identification(transmit, sender);

	if (sender->output->ipv6 || sender->output->mtu < IPV4_BYTES + 2 * FRAGMENT_UNIT)
		return -EMSGSIZE;
	for (uint32_t offset = 0; offset < udp_bytes; offset += room) {
		uint32_t bytes = udp_bytes - offset < room ? udp_bytes - offset : room;
		int error = send_fragment(transmit, lane, payload, offset, bytes, id);

		if (error)
			return error;
	}
	return 1;
}

bool mcr_ethernet__needs_fragments(const struct mcr_output *output, uint32_t payload_bytes)
{
	return payload_bytes + ip_bytes(output) + UDP_BYTES > output->mtu;
}

/* ---- whole packets ---- */

/* Packets of one call. */
struct burst {
	struct headers headers[MCR_GATHER_PAYLOADS];
	struct sockaddr_ll links[MCR_GATHER_PAYLOADS];
	struct iovec parts[2 * MCR_GATHER_PAYLOADS];
	struct mmsghdr messages[MCR_GATHER_PAYLOADS];
	uint32_t count;
};

static void add_packet(struct burst *burst, const struct mcr_transmit *transmit,
		       const struct mcr_lane *lane, const struct iovec *payload)
{
	uint32_t i = burst->count++;
	struct iovec *parts = &burst->parts[2 * i];

	put_all(&burst->headers[i], transmit, lane, (uint32_t)payload->iov_len, 0);
	burst->links[i] = link_of(transmit->senders[lane->slot].output);
	parts[0] = (struct iovec){ .iov_base = burst->headers[i].bytes,
				   .iov_len = burst->headers[i].used };
	parts[1] = *payload;
	burst->messages[i].msg_hdr = (struct msghdr){ .msg_name = &burst->links[i],
						      .msg_namelen = sizeof(burst->links[i]),
						      .msg_iov = parts,
						      .msg_iovlen = 2 };
}

static int send_burst(struct burst *burst, int fd)
{
	int sent = sendmmsg(fd, burst->messages, burst->count, MSG_DONTWAIT);

	return sent < 0 ? -errno : sent;
}

int mcr_ethernet__send_singly(struct mcr_transmit *transmit, const struct mcr_lane *lane,
			      uint32_t first)
{
	const struct mcr_output *output = transmit->senders[lane->slot].output;
	struct burst burst;

	if (mcr_ethernet__needs_fragments(output, (uint32_t)lane->payloads[first].iov_len))
		return send_fragments(transmit, lane, &lane->payloads[first]);
	burst.count = 0;
	for (uint32_t i = first; i < lane->gathered; i++) {
		if (mcr_ethernet__needs_fragments(output, (uint32_t)lane->payloads[i].iov_len))
			break;
		add_packet(&burst, transmit, lane, &lane->payloads[i]);
	}
	return send_burst(&burst, fd_for(transmit, lane));
}

int mcr_ethernet__send_together(struct mcr_transmit *transmit, struct mcr_lane *const *lanes,
				uint32_t count)
{
	struct burst burst;

	burst.count = 0;
	for (uint32_t i = 0; i < count; i++)
		add_packet(&burst, transmit, lanes[i], lanes[i]->payloads);
	return send_burst(&burst, fd_for(transmit, lanes[0]));
}

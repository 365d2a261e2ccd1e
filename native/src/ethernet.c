/*
 * Whole packets with the original source address and port, through a packet socket with
 * PACKET_VNET_HDR: the kernel finishes checksums and cuts super-packets where the device cannot.
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

static uint16_t next_identification(struct mcr_sender *sender)
{
	uint16_t id = sender->ip_id;

	sender->ip_id = (uint16_t)(id + sender->ip_id_step);
	return id;
}

static uint32_t ip_bytes(const struct mcr_sender *sender)
{
	return sender->ipv6 ? IPV6_BYTES : IPV4_BYTES;
}

/* Groups have link addresses of their own; unicast outputs cannot keep their source
 * (mcr/model/rule.py). */
static void put_link(struct headers *headers, const struct mcr_sender *sender,
		     const struct mcr_flow *flow)
{
	uint8_t destination[6] = { 0x01, 0x00, 0x5E };

	if (!sender->output->link_bytes)
		return;
	if (sender->ipv6) {
		destination[0] = destination[1] = 0x33;
		memcpy(destination + 2, flow->address + 12, 4);
	} else {
		memcpy(destination + 3, flow->address + 13, 3);
		destination[3] &= 0x7F;
	}
	put(headers, destination, 6);
	put(headers, sender->output->link_source, 6);
	put16(headers, sender->ipv6 ? ETH_P_IPV6 : ETH_P_IP);
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
static uint16_t pseudo_header(const struct mcr_sender *sender, const struct mcr_flow *flow,
			      uint32_t udp_bytes)
{
	uint32_t skip = sender->ipv6 ? 0 : 12;
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
static void put_all(struct headers *headers, struct mcr_sender *sender, const struct mcr_flow *flow,
		    uint32_t payload_bytes, uint32_t segment_bytes)
{
	uint32_t link_bytes = sender->output->link_bytes;
	struct virtio_net_hdr offloads = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = segment_bytes ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_NONE,
		.gso_size = (uint16_t)segment_bytes,
		.hdr_len = (uint16_t)(link_bytes + ip_bytes(sender) + UDP_BYTES),
		.csum_start = (uint16_t)(link_bytes + ip_bytes(sender)),
		.csum_offset = UDP_CHECKSUM_AT,
	};
	uint32_t udp_bytes = UDP_BYTES + payload_bytes;

	headers->used = 0;
	put(headers, &offloads, sizeof(offloads));
	put_link(headers, sender, flow);
	if (sender->ipv6)
		put_ipv6(headers, flow, udp_bytes);
	else
		put_ipv4(headers, flow, udp_bytes, next_identification(sender), 0);
	put_udp(headers, flow, udp_bytes, pseudo_header(sender, flow, udp_bytes));
}

static struct sockaddr_ll link_of(const struct mcr_sender *sender)
{
	return (struct sockaddr_ll){ .sll_family = AF_PACKET,
				     .sll_protocol = htons(sender->ipv6 ? ETH_P_IPV6 : ETH_P_IP),
				     .sll_ifindex = (int)sender->output->ifindex };
}

int mcr_ethernet__send_segments(struct mcr_sender *sender, const struct mcr_lane *lane)
{
	struct headers headers;
	struct iovec parts[1 + MCR_GATHER_PAYLOADS];
	struct sockaddr_ll link = link_of(sender);
	struct msghdr message = { .msg_name = &link,
				  .msg_namelen = sizeof(link),
				  .msg_iov = parts,
				  .msg_iovlen = 1 + lane->gathered };

	/* The packet socket does not compare segments with the MTU; a device would drop them
	 * silently. */
	if (lane->segment_bytes + ip_bytes(sender) + UDP_BYTES > sender->output->mtu)
		return -EMSGSIZE;
	put_all(&headers, sender, &lane->flow, lane->bytes, lane->segment_bytes);
	parts[0] = (struct iovec){ .iov_base = headers.bytes, .iov_len = headers.used };
	memcpy(parts + 1, lane->payloads, lane->gathered * sizeof(*parts));
	return sendmsg(sender->fd, &message, MSG_DONTWAIT) < 0 ? -errno : lane->gathered;
}

/* What one fragment holds: a piece of UDP header and payload; its checksum covers the whole
 * datagram. */
static int send_fragment(struct mcr_sender *sender, const struct mcr_lane *lane,
			 const struct iovec *payload, uint32_t offset, uint32_t bytes, uint16_t id)
{
	const struct virtio_net_hdr no_offloads = { 0 };
	uint32_t udp_bytes = UDP_BYTES + (uint32_t)payload->iov_len;
	uint32_t skip = offset ? offset - UDP_BYTES : 0;
	bool last = offset + bytes == udp_bytes;
	struct headers headers = { .used = 0 };
	struct sockaddr_ll link = link_of(sender);
	struct iovec parts[2];
	struct msghdr message = {
		.msg_name = &link, .msg_namelen = sizeof(link), .msg_iov = parts, .msg_iovlen = 2
	};

	put(&headers, &no_offloads, sizeof(no_offloads));
	put_link(&headers, sender, &lane->flow);
	put_ipv4(&headers, &lane->flow, bytes, id,
		 (uint16_t)(offset / FRAGMENT_UNIT | (last ? 0 : MORE_FRAGMENTS)));
	if (!offset) {
		uint32_t start = headers.used;
		uint64_t sum = pseudo_header(sender, &lane->flow, udp_bytes);
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
	return sendmsg(sender->fd, &message, MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* IPv6 is only fragmented by its source (RFC 8200 section 4.5), whose packets these pretend to be.
 */
static int send_fragments(struct mcr_sender *sender, const struct mcr_lane *lane,
			  const struct iovec *payload)
{
	uint32_t udp_bytes = UDP_BYTES + (uint32_t)payload->iov_len;
	uint32_t room = (sender->output->mtu - IPV4_BYTES) / FRAGMENT_UNIT * FRAGMENT_UNIT;
	uint16_t id = next_identification(sender);

	if (sender->ipv6 || sender->output->mtu < IPV4_BYTES + 2 * FRAGMENT_UNIT)
		return -EMSGSIZE;
	for (uint32_t offset = 0; offset < udp_bytes; offset += room) {
		uint32_t bytes = udp_bytes - offset < room ? udp_bytes - offset : room;
		int error = send_fragment(sender, lane, payload, offset, bytes, id);

		if (error)
			return error;
	}
	return 1;
}

static bool needs_fragments(const struct mcr_sender *sender, const struct iovec *payload)
{
	return payload->iov_len + ip_bytes(sender) + UDP_BYTES > sender->output->mtu;
}

int mcr_ethernet__send_singly(struct mcr_sender *sender, const struct mcr_lane *lane,
			      uint32_t first)
{
	struct headers headers[MCR_GATHER_PAYLOADS];
	struct iovec parts[2 * MCR_GATHER_PAYLOADS];
	struct mmsghdr messages[MCR_GATHER_PAYLOADS];
	struct sockaddr_ll link = link_of(sender);
	uint32_t count = 0;
	int sent;

	if (needs_fragments(sender, &lane->payloads[first]))
		return send_fragments(sender, lane, &lane->payloads[first]);
	for (uint32_t i = first; i < lane->gathered; i++, count++) {
		const struct iovec *payload = &lane->payloads[i];

		if (needs_fragments(sender, payload))
			break;
		put_all(&headers[count], sender, &lane->flow, (uint32_t)payload->iov_len, 0);
		parts[2 * count] = (struct iovec){ .iov_base = headers[count].bytes,
						   .iov_len = headers[count].used };
		parts[2 * count + 1] = *payload;
		messages[count].msg_hdr = (struct msghdr){ .msg_name = &link,
							   .msg_namelen = sizeof(link),
							   .msg_iov = &parts[2 * count],
							   .msg_iovlen = 2 };
	}
	sent = sendmmsg(sender->fd, messages, count, MSG_DONTWAIT);
	return sent < 0 ? -errno : sent;
}

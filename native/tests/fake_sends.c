#include "fake_sends.h"

#include "must.h"
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#define UDP_BYTES 8
#define MOST_IP_BYTES 65535
#define FIRST_IFINDEX 100

static struct expected *expected;
static uint8_t (*take_outcome)(void);
static int udp_fds[EXPECTED_OUTPUTS];
static int packet_fds[MCR_PRIORITIES];

/* The datagram whose fragments come in. */
static struct {
	uint32_t output;
	uint16_t id;
	struct expected_flow flow;
	uint32_t count;
	uint8_t bytes[MOST_IP_BYTES];
} fragments;

void fake_sends__init(struct expected *payloads, uint8_t (*outcome)(void))
{
	expected = payloads;
	take_outcome = outcome;
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		udp_fds[i] = -1;
}

void fake_sends__attach(uint32_t output, int fd)
{
	/* A number that an output had before it was closed may come again. */
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		if (udp_fds[i] == fd)
			udp_fds[i] = -1;
	udp_fds[output] = fd;
}

void fake_sends__attach_packets(const int fds[MCR_PRIORITIES])
{
	memcpy(packet_fds, fds, sizeof(packet_fds));
}

uint32_t fake_sends__ifindex(uint32_t output)
{
	return FIRST_IFINDEX + output;
}

static bool is_packet_socket(int fd)
{
	for (uint32_t i = 0; i < MCR_PRIORITIES; i++)
		if (packet_fds[i] == fd)
			return true;
	return false;
}

static const struct mcr_output *config_of(uint32_t output)
{
	must(expected->outputs[output].config != NULL);
	return expected->outputs[output].config;
}

static bool is_ipv6(uint32_t output)
{
	return config_of(output)->ipv6;
}

static uint32_t output_of(int fd, const struct msghdr *message)
{
	const struct sockaddr_ll *link = message->msg_name;

	if (is_packet_socket(fd)) {
		must(message->msg_namelen == sizeof(*link) && link->sll_family == AF_PACKET);
		must(link->sll_ifindex - FIRST_IFINDEX < EXPECTED_OUTPUTS);
		return (uint32_t)link->sll_ifindex - FIRST_IFINDEX;
	}
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		if (udp_fds[i] == fd)
			return i;
	abort();
}

static int error_of(uint8_t outcome)
{
	static const uint8_t errors[] = { EAGAIN,	 ENOBUFS,   ENETUNREACH, EHOSTUNREACH,
					  ENETDOWN,	 EPERM,	    EMSGSIZE,	 ECONNREFUSED,
					  EINVAL,	 EIO,	    EOPNOTSUPP,	 ENODEV,
					  EADDRNOTAVAIL, EHOSTDOWN, ENOMEM,	 EBADF };

	return errors[outcome % sizeof(errors)];
}

static int fail(uint8_t outcome)
{
	errno = error_of(outcome);
	return -1;
}

static void take(uint32_t output, const struct iovec *payload, const struct expected_flow *flow)
{
	expected__take(expected, output, payload->iov_base, (uint32_t)payload->iov_len, flow);
}

/* ---- UDP sockets ---- */

static int number_in(const struct cmsghdr *header, int level, int type)
{
	int number;

	must(header && header->cmsg_len == CMSG_LEN(sizeof(number)));
	must(header->cmsg_level == level && header->cmsg_type == type);
	memcpy(&number, CMSG_DATA(header), sizeof(number));
	return number;
}

static uint16_t segment_in(const struct cmsghdr *header)
{
	uint16_t bytes;

	must(header && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_SEGMENT);
	must(header->cmsg_len == CMSG_LEN(sizeof(bytes)));
	memcpy(&bytes, CMSG_DATA(header), sizeof(bytes));
	must(bytes);
	return bytes;
}

/* Where an output sends nothing else its socket is connected, and needs no destination. */
static void read_name(const struct msghdr *message, uint32_t output, struct expected_flow *flow)
{
	const struct sockaddr_in6 *ipv6 = message->msg_name;
	const struct sockaddr_in *ipv4 = message->msg_name;

	must(config_of(output)->engine != MCR_ENGINE_KEEPING);
	if (config_of(output)->engine == MCR_ENGINE_UDP) {
		must(!message->msg_name && !message->msg_namelen);
		return;
	}
	if (config_of(output)->engine == MCR_ENGINE_ETHERNET) {
		memcpy(flow->source, expected->outputs[output].source, 16);
		flow->source_port = expected->outputs[output].source_port;
	}
	if (is_ipv6(output)) {
		must(message->msg_namelen == sizeof(*ipv6) && ipv6->sin6_family == AF_INET6);
		must(ipv6->sin6_scope_id == config_of(output)->ifindex && !ipv6->sin6_flowinfo);
		memcpy(flow->address, &ipv6->sin6_addr, 16);
		flow->port = ntohs(ipv6->sin6_port);
	} else {
		must(message->msg_namelen == sizeof(*ipv4) && ipv4->sin_family == AF_INET);
		packet__map_v4(flow->address, ntohl(ipv4->sin_addr.s_addr));
		flow->port = ntohs(ipv4->sin_port);
	}
}

/* Time to live, DSCP, and the length of segments exactly where there are some; give that. */
static uint16_t read_control(const struct msghdr *message, uint32_t output, bool has_segments,
			     struct expected_flow *flow)
{
	struct msghdr copy = *message;
	struct cmsghdr *ttl = CMSG_FIRSTHDR(&copy), *tos = CMSG_NXTHDR(&copy, ttl);
	int level = is_ipv6(output) ? IPPROTO_IPV6 : IPPROTO_IP, number;
	size_t used = 2 * CMSG_SPACE(sizeof(int));

	number = number_in(ttl, level, is_ipv6(output) ? IPV6_HOPLIMIT : IP_TTL);
	must(number >= 1 && number <= 255);
	flow->ttl = (uint8_t)number;
	number = number_in(tos, level, is_ipv6(output) ? IPV6_TCLASS : IP_TOS);
	must(number >= 0 && number <= 255 && !(number & 3));
	flow->dscp = (uint8_t)(number >> 2);
	if (has_segments)
		used += CMSG_SPACE(sizeof(uint16_t));
	must(message->msg_controllen == used);
	return has_segments ? segment_in(CMSG_NXTHDR(&copy, tos)) : 0;
}

/* What udp_sendmsg() demands of UDP_SEGMENT: all as long as the first but the last, 64 of them. */
static void check_segments(const struct iovec *payloads, size_t count, uint16_t segment)
{
	size_t total = 0;

	must(count > 1 && count <= 64 && segment);
	for (size_t i = 0; i < count; i++) {
		size_t bytes = payloads[i].iov_len;

		must(i + 1 < count ? bytes == segment : bytes && bytes <= segment);
		total += bytes;
	}
	must(total <= 65507);
}

static int send_segments(uint32_t output, const struct msghdr *message, uint8_t outcome)
{
	struct expected_flow flow = { 0 };

	read_name(message, output, &flow);
	check_segments(message->msg_iov, message->msg_iovlen,
		       read_control(message, output, true, &flow));
	if (outcome >= 128)
		return fail(outcome);
	for (size_t i = 0; i < message->msg_iovlen; i++)
		take(output, &message->msg_iov[i], &flow);
	return 0;
}

/* ---- packet sockets ---- */

struct packet {
	struct virtio_net_hdr offloads;
	struct expected_flow flow;
	uint32_t ip_payload_bytes; /* as its header says */
	uint16_t id;
	uint16_t fragment;
	uint32_t link_bytes;
	uint32_t udp_at;
	const uint8_t *bytes; /* the first part, behind the offloads */
	uint32_t count;
};

static void read_link(const struct packet *packet, uint32_t output)
{
	uint8_t group[6] = { 0x01, 0x00, 0x5E };
	const uint8_t *ip = packet->bytes + packet->link_bytes;

	if (!packet->link_bytes)
		return;
	if (is_ipv6(output)) {
		memset(group, 0x33, 2);
		memcpy(group + 2, ip + 36, 4);
	} else {
		memcpy(group + 3, ip + 17, 3);
		group[3] &= 0x7F;
	}
	must(!memcmp(packet->bytes, group, 6));
	must(!memcmp(packet->bytes + 6, config_of(output)->link_source, 6));
	must(packet__get16(packet->bytes + 12) == (is_ipv6(output) ? ETH_P_IPV6 : ETH_P_IP));
}

static void read_ipv4(struct packet *packet)
{
	const uint8_t *ip = packet->bytes + packet->link_bytes;
	uint8_t right[20];

	must(packet->count >= packet->link_bytes + 20);
	memcpy(right, ip, 20);
	packet__finish_header(right);
	must(!memcmp(right, ip, 20));
	must(ip[0] == 0x45 && ip[9] == IPPROTO_UDP && !(ip[1] & 3));
	packet->flow.dscp = ip[1] >> 2;
	packet->flow.ttl = ip[8];
	packet__map_v4(packet->flow.source,
		       (uint32_t)packet__get16(ip + 12) << 16 | packet__get16(ip + 14));
	packet__map_v4(packet->flow.address,
		       (uint32_t)packet__get16(ip + 16) << 16 | packet__get16(ip + 18));
	packet->ip_payload_bytes = packet__get16(ip + 2) - 20u;
	packet->id = packet__get16(ip + 4);
	packet->fragment = packet__get16(ip + 6);
	packet->udp_at = packet->link_bytes + 20;
}

static void read_ipv6(struct packet *packet)
{
	const uint8_t *ip = packet->bytes + packet->link_bytes;
	uint16_t first;

	must(packet->count >= packet->link_bytes + 40);
	first = packet__get16(ip);
	must(first >> 12 == 6 && !(first & 0x3F) && !packet__get16(ip + 2));
	must(ip[6] == IPPROTO_UDP);
	packet->flow.dscp = first >> 6 & 0x3F;
	packet->flow.ttl = ip[7];
	memcpy(packet->flow.source, ip + 8, 16);
	memcpy(packet->flow.address, ip + 24, 16);
	packet->ip_payload_bytes = packet__get16(ip + 4);
	packet->udp_at = packet->link_bytes + 40;
}

/* Everything before the payload is the first part. */
static struct packet read_packet(uint32_t output, const struct msghdr *message)
{
	const struct sockaddr_ll *link = message->msg_name;
	struct packet packet = { .link_bytes = config_of(output)->link_bytes };
	size_t bytes = 0;

	must(link->sll_ifindex == (int)config_of(output)->ifindex);
	must(link->sll_protocol == htons(is_ipv6(output) ? ETH_P_IPV6 : ETH_P_IP));
	must(!message->msg_control && message->msg_iov[0].iov_len > sizeof(packet.offloads));
	memcpy(&packet.offloads, message->msg_iov[0].iov_base, sizeof(packet.offloads));
	packet.bytes = (const uint8_t *)message->msg_iov[0].iov_base + sizeof(packet.offloads);
	packet.count = (uint32_t)(message->msg_iov[0].iov_len - sizeof(packet.offloads));
	if (is_ipv6(output))
		read_ipv6(&packet);
	else
		read_ipv4(&packet);
	read_link(&packet, output);
	must(packet.flow.ttl);
	for (size_t i = 0; i < message->msg_iovlen; i++)
		bytes += message->msg_iov[i].iov_len;
	must(bytes == sizeof(packet.offloads) + packet.udp_at + packet.ip_payload_bytes);
	return packet;
}

/* The checksum field holds the sum over addresses, protocol and length; the kernel adds the rest.
 */
static void check_unfinished_checksum(const struct packet *packet, uint32_t output)
{
	const uint8_t *addresses = packet->bytes + packet->link_bytes + (is_ipv6(output) ? 8 : 12);

	must(packet__get16(packet->bytes + packet->udp_at + 6) ==
	     packet__pseudo_sum(addresses, is_ipv6(output) ? 32 : 8, packet->ip_payload_bytes));
	must(packet->offloads.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM);
	must(packet->offloads.csum_start == packet->udp_at && packet->offloads.csum_offset == 6);
}

static void read_udp(struct packet *packet, uint32_t output)
{
	const uint8_t *udp = packet->bytes + packet->udp_at;

	must(packet->count == packet->udp_at + UDP_BYTES && !packet->fragment);
	must(packet__get16(udp + 4) == packet->ip_payload_bytes);
	must(packet->offloads.hdr_len == packet->udp_at + UDP_BYTES);
	check_unfinished_checksum(packet, output);
	packet->flow.source_port = packet__get16(udp);
	packet->flow.port = packet__get16(udp + 2);
}

/* packet_snd() sends segments unlooked at: they have to fit the device. */
static int send_super_packet(uint32_t output, const struct msghdr *message, struct packet *packet,
			     uint8_t outcome)
{
	const struct iovec *payloads = message->msg_iov + 1;
	size_t count = message->msg_iovlen - 1;

	read_udp(packet, output);
	must(packet->offloads.gso_type == 5);
	check_segments(payloads, count, packet->offloads.gso_size);
	must(packet->udp_at - packet->link_bytes + UDP_BYTES + packet->offloads.gso_size <=
	     config_of(output)->mtu);
	if (outcome >= 128)
		return fail(outcome);
	for (size_t i = 0; i < count; i++)
		take(output, &payloads[i], &packet->flow);
	return 0;
}

static void take_fragments(uint32_t output)
{
	uint8_t addresses[8];
	const uint8_t *udp = fragments.bytes;
	struct iovec payload = { .iov_base = fragments.bytes + UDP_BYTES,
				 .iov_len = fragments.count - UDP_BYTES };

	memcpy(addresses, fragments.flow.source + 12, 4);
	memcpy(addresses + 4, fragments.flow.address + 12, 4);
	must(packet__get16(udp + 4) == fragments.count);
	must(packet__get16(udp + 6) == packet__checksum(addresses, 8, udp, fragments.count));
	fragments.flow.source_port = packet__get16(udp);
	fragments.flow.port = packet__get16(udp + 2);
	take(output, &payload, &fragments.flow);
	fragments.output = EXPECTED_OUTPUTS;
}

static int send_fragment(uint32_t output, const struct msghdr *message, struct packet *packet,
			 uint8_t outcome)
{
	static const struct virtio_net_hdr no_offloads;
	bool more = packet->fragment & 0x2000;
	uint32_t offset = (packet->fragment & 0x1FFF) * 8u;

	must(!is_ipv6(output) && !(packet->fragment & 0xC000));
	must(!memcmp(&packet->offloads, &no_offloads, sizeof(no_offloads)));
	must(20 + packet->ip_payload_bytes <= config_of(output)->mtu);
	must(!more || packet->ip_payload_bytes % 8 == 0);
	if (outcome >= 128)
		return fail(outcome);
	if (!offset) {
		fragments.output = output;
		fragments.id = packet->id;
		fragments.flow = packet->flow;
		fragments.count = 0;
	}
	must(fragments.output == output && fragments.id == packet->id);
	must(!memcmp(&fragments.flow, &packet->flow, sizeof(packet->flow)));
	must(fragments.count == offset);
	must(20 + offset + packet->ip_payload_bytes <= MOST_IP_BYTES);
	memcpy(fragments.bytes + offset, packet->bytes + packet->udp_at,
	       packet->count - packet->udp_at);
	offset += packet->count - packet->udp_at;
	must(message->msg_iovlen == 2);
	memcpy(fragments.bytes + offset, message->msg_iov[1].iov_base, message->msg_iov[1].iov_len);
	fragments.count += packet->ip_payload_bytes;
	if (!more)
		take_fragments(output);
	return 0;
}

static int send_packet(uint32_t output, const struct msghdr *message, struct packet *packet,
		       uint8_t outcome)
{
	if (packet->fragment)
		return send_fragment(output, message, packet, outcome);
	return send_super_packet(output, message, packet, outcome);
}

/* What queues go by (net/ipv4/route.c); an IPv6 socket leaves it at zero. */
static void check_priority(int fd, uint32_t output, const struct expected_flow *flow)
{
	uint8_t tos = (uint8_t)(flow->dscp << 2);

	must(fd == packet_fds[is_ipv6(output) ? 0 : tos >> 3 & 3]);
}

/* ---- the two calls ---- */

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	uint32_t output = output_of(fd, message);
	uint8_t outcome = take_outcome();
	struct packet packet;

	must(flags == MSG_DONTWAIT);
	if (!is_packet_socket(fd))
		return send_segments(output, message, outcome);
	packet = read_packet(output, message);
	check_priority(fd, output, &packet.flow);
	return send_packet(output, message, &packet, outcome);
}

static struct expected_flow whole_packet(int fd, uint32_t output, const struct msghdr *message)
{
	struct packet packet;

	must(message->msg_iovlen == 2);
	packet = read_packet(output, message);
	read_udp(&packet, output);
	check_priority(fd, output, &packet.flow);
	must(!packet.offloads.gso_type && !packet.offloads.gso_size);
	must(packet.udp_at - packet.link_bytes + packet.ip_payload_bytes <= config_of(output)->mtu);
	return packet.flow;
}

static struct expected_flow datagram(uint32_t output, const struct msghdr *message)
{
	struct expected_flow flow = { 0 };

	must(message->msg_iovlen == 1);
	read_name(message, output, &flow);
	read_control(message, output, false, &flow);
	return flow;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	uint32_t taken = count;
	uint8_t outcome = take_outcome();

	must(flags == MSG_DONTWAIT && count && count <= 64);
	if (outcome >= 192)
		return fail(outcome);
	if (outcome >= 128)
		taken = 1 + outcome % count;
	for (uint32_t i = 0; i < count; i++) {
		const struct msghdr *message = &messages[i].msg_hdr;
		uint32_t output = output_of(fd, message);
		struct expected_flow flow = is_packet_socket(fd) ?
						    whole_packet(fd, output, message) :
						    datagram(output, message);

		if (i < taken)
			take(output, &message->msg_iov[message->msg_iovlen - 1], &flow);
	}
	return (int)taken;
}

#include "../mcr.h"
#include "checksum.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/ip6.h>
#include <stdbool.h>
#include <string.h>

#define REASON(name) (-(MCR_IGNORED_##name + 1))

#define IPV4_HEADER_BYTES 20
#define IPV6_HEADER_BYTES 40
#define UDP_HEADER_BYTES 8
#define IPV4_MORE_FRAGMENTS_OR_OFFSET 0x3FFF

static const uint8_t v4_mapped[12] = { [10] = 0xFF, [11] = 0xFF };

static uint16_t read16(const uint8_t *bytes)
{
	return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

/* RFC 768; RFC 8200 section 8.1: over IPv6 zero is not allowed. */
static bool checksum_is_right(const uint8_t *addresses, uint32_t address_bytes, const uint8_t *udp,
			      uint32_t udp_bytes)
{
	uint64_t sum = htons(IPPROTO_UDP) + (uint64_t)htonl(udp_bytes);

	if (!read16(udp + 6))
		return address_bytes == 8;
	sum = mcr_checksum__add(sum, addresses, address_bytes);
	return mcr_checksum__fold(mcr_checksum__add(sum, udp, udp_bytes)) == 0xFFFF;
}

/*
 * udp begins at the UDP header and holds udp_bytes of IP payload.  What follows the UDP length is
 * padding; a length beyond the IP payload is a lie.
 */
static int parse_udp(const struct mcr_packet *packet, const uint8_t *addresses,
		     uint32_t address_bytes, const uint8_t *udp, uint32_t udp_bytes,
		     struct mcr_datagram *datagram)
{
	uint32_t length;

	if (udp_bytes < UDP_HEADER_BYTES)
		return REASON(MALFORMED);
	length = read16(udp + 4);
	if (length < UDP_HEADER_BYTES || length > udp_bytes)
		return REASON(MALFORMED);
	if (!packet->checksum_known && !checksum_is_right(addresses, address_bytes, udp, length))
		return REASON(CHECKSUM);
	datagram->source_port = read16(udp);
	datagram->port = read16(udp + 2);
	datagram->payload = udp + UDP_HEADER_BYTES;
	datagram->payload_bytes = length - UDP_HEADER_BYTES;
	return 0;
}

static int parse_ipv4(const struct mcr_packet *packet, struct mcr_datagram *datagram)
{
	const uint8_t *ip = packet->data;
	uint32_t header_bytes, total_bytes;

	if (packet->bytes < IPV4_HEADER_BYTES)
		return REASON(MALFORMED);
	header_bytes = (ip[0] & 0x0F) * 4u;
	total_bytes = read16(ip + 2);
	if (ip[0] >> 4 != 4 || header_bytes < IPV4_HEADER_BYTES || total_bytes < header_bytes)
		return REASON(MALFORMED);
	/* What is wrong in the header may be the destination (RFC 1812 section 5.2.2). */
	if (packet->bytes >= header_bytes &&
	    mcr_checksum__fold(mcr_checksum__add(0, ip, header_bytes)) != 0xFFFF)
		return REASON(CHECKSUM);
	if (ip[9] != IPPROTO_UDP)
		return REASON(NOT_UDP);
	if (read16(ip + 6) & IPV4_MORE_FRAGMENTS_OR_OFFSET)
		return REASON(FRAGMENT);
	if (total_bytes > packet->bytes)
		return REASON(TRUNCATED);
	datagram->ttl = ip[8];
	datagram->dscp = ip[1] >> 2;
	memcpy(datagram->source, v4_mapped, 12);
	memcpy(datagram->source + 12, ip + 12, 4);
	memcpy(datagram->group, v4_mapped, 12);
	memcpy(datagram->group + 12, ip + 16, 4);
	return parse_udp(packet, ip + 12, 8, ip + header_bytes, total_bytes - header_bytes,
			 datagram);
}

/*
 * Options may be skipped unless the two highest bits of their type say that whoever does not know
 * them must discard the packet (RFC 8200 section 4.2).
 */
static int check_options(const uint8_t *option, const uint8_t *end)
{
	while (option < end) {
		if (*option == IP6OPT_PAD1) {
			option++;
			continue;
		}
		if (end - option < 2 || end - option - 2 < option[1])
			return REASON(MALFORMED);
		if (IP6OPT_TYPE(*option) != IP6OPT_TYPE_SKIP)
			return REASON(EXTENSION);
		option += 2 + option[1];
	}
	return 0;
}

/*
 * Move the cursor behind one extension header, and next to what follows it.  Hop-by-hop options
 * stand first or nowhere; a routing header with segments left names a destination to come (RFC 8200
 * sections 4.1 and 4.4).
 */
static int skip_extension(const uint8_t **cursor, const uint8_t *end, uint8_t *next, bool first)
{
	const uint8_t *header = *cursor;
	uint32_t bytes;
	uint8_t kind = *next;

	if (end - header < 8 || (kind == IPPROTO_HOPOPTS && !first))
		return REASON(MALFORMED);
	bytes = 8u + header[1] * 8u;
	if ((size_t)(end - header) < bytes)
		return REASON(MALFORMED);
	*next = header[0];
	*cursor = header + bytes;
	if (kind == IPPROTO_ROUTING)
		return header[3] ? REASON(EXTENSION) : 0;
	return check_options(header + 2, *cursor);
}

static bool is_extension(uint8_t kind)
{
	return kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING || kind == IPPROTO_DSTOPTS;
}

static int parse_ipv6(const struct mcr_packet *packet, struct mcr_datagram *datagram)
{
	const uint8_t *ip = packet->data, *cursor = ip + IPV6_HEADER_BYTES, *end;
	uint32_t payload_bytes;
	bool is_whole;
	uint8_t next;

	if (packet->bytes < IPV6_HEADER_BYTES || ip[0] >> 4 != 6)
		return REASON(MALFORMED);
	payload_bytes = read16(ip + 4);
	is_whole = payload_bytes <= packet->bytes - IPV6_HEADER_BYTES;
	end = cursor + (is_whole ? payload_bytes : 0);
	next = ip[6];
	if (is_extension(next) && !is_whole)
		return REASON(TRUNCATED);
	while (is_extension(next)) {
		int reason = skip_extension(&cursor, end, &next, cursor == ip + IPV6_HEADER_BYTES);

		if (reason)
			return reason;
	}
	if (next == IPPROTO_FRAGMENT)
		return REASON(FRAGMENT);
	if (next != IPPROTO_UDP)
		return REASON(NOT_UDP);
	if (!is_whole)
		return REASON(TRUNCATED);
	datagram->ttl = ip[7];
	datagram->dscp = (uint8_t)((ip[0] & 0x0F) << 2 | ip[1] >> 6);
	memcpy(datagram->source, ip + 8, 16);
	memcpy(datagram->group, ip + 24, 16);
	return parse_udp(packet, ip + 8, 32, cursor, (uint32_t)(end - cursor), datagram);
}

int mcr_parse__packet(const struct mcr_packet *packet, struct mcr_datagram *datagram)
{
	switch (packet->protocol) {
	case ETH_P_IP:
		return parse_ipv4(packet, datagram);
	case ETH_P_IPV6:
		return parse_ipv6(packet, datagram);
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		return REASON(VLAN);
	default:
		return REASON(NOT_UDP);
	}
}

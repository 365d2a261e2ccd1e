/* Packets for tests: an IP header, a UDP header and a payload, with correct checksums. */
#pragma once

#include "../mcr.h"

#include <stdbool.h>

#define PACKET_MAX_BYTES 65575 /* 65,535 bytes behind an IPv6 header */

struct test_packet {
	bool ipv6;
	uint8_t source[16];
	uint8_t group[16];
	uint16_t source_port; /* 0: 40000 */
	uint16_t port;
	uint8_t ttl;
	uint8_t dscp;
	const uint8_t *payload;
	uint32_t payload_bytes;
};

/* ::ffff:a.b.c.d */
void packet__map_v4(uint8_t address[16], uint32_t v4);
/* Write the packet from its IP header on; give its length. */
uint32_t packet__write(uint8_t *at, const struct test_packet *packet);
/* Make the header checksum of an IPv4 packet right again. */
void packet__finish_header(uint8_t *ip);
/* What the UDP checksum has to be, computed as slowly and plainly as RFC 768 says it.  The field
 * itself is taken as zero. */
uint16_t packet__checksum(const uint8_t *addresses, uint32_t address_bytes, const uint8_t *udp,
			  uint32_t udp_bytes);
/* The part of its sum that is not in the datagram: what the checksum field holds before somebody
 * adds the rest. */
uint16_t packet__pseudo_sum(const uint8_t *addresses, uint32_t address_bytes, uint32_t udp_bytes);
void packet__put16(uint8_t *at, uint32_t value);
uint16_t packet__get16(const uint8_t *at);

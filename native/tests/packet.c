#include "packet.h"

#include <netinet/in.h>
#include <string.h>

#define UDP_HEADER_BYTES 8

void packet__put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

uint16_t packet__get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

void packet__map_v4(uint8_t address[16], uint32_t v4)
{
	memset(address, 0, 10);
	memset(address + 10, 0xFF, 2);
	packet__put16(address + 12, v4 >> 16);
	packet__put16(address + 14, v4);
}

static uint32_t add(uint32_t sum, const uint8_t *bytes, uint32_t count)
{
	/* 32,768 words of 16 bits do not overflow it. */
	for (uint32_t i = 0; i < count; i++)
		sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return sum;
}

uint16_t packet__pseudo_sum(const uint8_t *addresses, uint32_t address_bytes, uint32_t udp_bytes)
{
	const uint8_t rest[] = { 0, IPPROTO_UDP, (uint8_t)(udp_bytes >> 8), (uint8_t)udp_bytes };

	return (uint16_t)add(add(0, addresses, address_bytes), rest, sizeof(rest));
}

uint16_t packet__checksum(const uint8_t *addresses, uint32_t address_bytes, const uint8_t *udp,
			  uint32_t udp_bytes)
{
	uint32_t sum = packet__pseudo_sum(addresses, address_bytes, udp_bytes);

	sum = add(sum, udp, 6);
	sum = ~add(sum, udp + 8, udp_bytes - 8) & 0xFFFF;
	return (uint16_t)(sum ? sum : 0xFFFF);
}

void packet__finish_header(uint8_t *ip)
{
	packet__put16(ip + 10, 0);
	packet__put16(ip + 10, ~add(0, ip, (ip[0] & 0x0Fu) * 4));
}

static void write_udp(uint8_t *udp, const struct test_packet *packet, const uint8_t *addresses,
		      uint32_t address_bytes)
{
	uint32_t bytes = UDP_HEADER_BYTES + packet->payload_bytes;

	packet__put16(udp, packet->source_port ? packet->source_port : 40000);
	packet__put16(udp + 2, packet->port);
	packet__put16(udp + 4, bytes);
	if (packet->payload_bytes)
		memmove(udp + UDP_HEADER_BYTES, packet->payload, packet->payload_bytes);
	packet__put16(udp + 6, packet__checksum(addresses, address_bytes, udp, bytes));
}

uint32_t packet__write(uint8_t *at, const struct test_packet *packet)
{
	uint32_t udp_bytes = UDP_HEADER_BYTES + packet->payload_bytes;

	if (packet->ipv6) {
		memset(at, 0, 40);
		packet__put16(at, 0x6000 | (uint32_t)packet->dscp << 6);
		packet__put16(at + 4, udp_bytes);
		at[6] = IPPROTO_UDP;
		at[7] = packet->ttl;
		memcpy(at + 8, packet->source, 16);
		memcpy(at + 24, packet->group, 16);
		write_udp(at + 40, packet, at + 8, 32);
		return 40 + udp_bytes;
	}
	memset(at, 0, 20);
	at[0] = 0x45;
	at[1] = (uint8_t)(packet->dscp << 2);
	packet__put16(at + 2, 20 + udp_bytes);
	at[8] = packet->ttl;
	at[9] = IPPROTO_UDP;
	memcpy(at + 12, packet->source + 12, 4);
	memcpy(at + 16, packet->group + 12, 4);
	packet__finish_header(at);
	write_udp(at + 20, packet, at + 12, 8);
	return 20 + udp_bytes;
}

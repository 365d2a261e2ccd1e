/*
 * Input: protocol (0 IPv4, 1 IPv6, 2 VLAN, else the byte as EtherType 0x86xx), whether the checksum
 * is known (lowest bit), then the packet.
 */
#include "must.h"
#include "packet.h"

#include <linux/if_ether.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint16_t protocol_of(uint8_t choice)
{
	static const uint16_t known[] = { ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q };

	return choice < 3 ? known[choice] : (uint16_t)(0x8600 | choice);
}

static bool checksum_is_right(const struct mcr_packet *packet, const struct mcr_datagram *datagram)
{
	bool ipv6 = packet->protocol == ETH_P_IPV6;
	const uint8_t *udp = datagram->payload - 8;
	uint16_t stated = packet__get16(udp + 6);

	if (!stated)
		return !ipv6;
	return stated == packet__checksum(packet->data + (ipv6 ? 8 : 12), ipv6 ? 32 : 8, udp,
					  datagram->payload_bytes + 8);
}

/* The sum over the header with its checksum is 0xFFFF (RFC 1071). */
static bool header_is_right(const struct mcr_packet *packet)
{
	uint8_t right[60];
	uint32_t bytes = (packet->data[0] & 0x0F) * 4u;

	must(packet->bytes >= bytes && bytes <= sizeof(right));
	memcpy(right, packet->data, bytes);
	packet__finish_header(right);
	/* Nothing but zeroes sums up to the other zero. */
	return packet__get16(right + 10) % 0xFFFF == packet__get16(packet->data + 10) % 0xFFFF;
}

static void check_datagram(const struct mcr_packet *packet, const struct mcr_datagram *datagram)
{
	static const uint8_t v4_mapped[12] = { [10] = 0xFF, [11] = 0xFF };
	uint32_t headers = packet->protocol == ETH_P_IPV6 ? 48 : 28;

	must(packet->protocol == ETH_P_IP || packet->protocol == ETH_P_IPV6);
	must(packet->bytes >= headers && datagram->payload >= packet->data + headers);
	must(datagram->payload_bytes <= (size_t)(packet->data + packet->bytes - datagram->payload));
	must(datagram->source_port == packet__get16(datagram->payload - 8));
	must(datagram->port == packet__get16(datagram->payload - 6));
	if (packet->protocol == ETH_P_IP) {
		must(!memcmp(datagram->source, v4_mapped, 12) &&
		     !memcmp(datagram->source + 12, packet->data + 12, 4));
		must(!memcmp(datagram->group, v4_mapped, 12) &&
		     !memcmp(datagram->group + 12, packet->data + 16, 4));
		must(datagram->ttl == packet->data[8]);
		must(datagram->dscp == packet->data[1] / 4);
		must(header_is_right(packet));
	} else {
		must(!memcmp(datagram->source, packet->data + 8, 16) &&
		     !memcmp(datagram->group, packet->data + 24, 16));
		must(datagram->ttl == packet->data[7]);
		must(datagram->dscp == packet__get16(packet->data) / 64 % 64);
	}
}

/* Either the header's checksum is wrong, whatever else is, or nothing but that of UDP. */
static void check_wrong_checksum(uint8_t *bytes, struct mcr_packet packet)
{
	struct mcr_datagram datagram;

	if (packet.protocol == ETH_P_IP && !header_is_right(&packet)) {
		packet__finish_header(bytes);
		must(header_is_right(&packet));
		packet.checksum_known = 1;
		must(mcr_parse__packet(&packet, &datagram) != -(MCR_IGNORED_CHECKSUM + 1));
		return;
	}
	must(!packet.checksum_known);
	packet.checksum_known = 1;
	must(!mcr_parse__packet(&packet, &datagram));
	check_datagram(&packet, &datagram);
	must(!checksum_is_right(&packet, &datagram));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mcr_datagram datagram;
	struct mcr_packet packet = { 0 };
	uint8_t *copy;
	int result;

	if (size < 2)
		return 0;
	/* Exactly as large as the packet, so that the sanitizer sees the first byte beyond it. */
	copy = malloc(size - 2);
	must(copy != NULL);
	memcpy(copy, data + 2, size - 2);
	packet.data = copy;
	packet.bytes = (uint32_t)size - 2;
	packet.protocol = protocol_of(data[0]);
	packet.checksum_known = data[1] & 1;
	result = mcr_parse__packet(&packet, &datagram);
	must(result <= 0 && result >= -MCR_IGNORED_REASONS);
	if (!result) {
		check_datagram(&packet, &datagram);
		must(packet.checksum_known || checksum_is_right(&packet, &datagram));
	} else if (result == -(MCR_IGNORED_CHECKSUM + 1)) {
		check_wrong_checksum(copy, packet);
	}
	free(copy);
	return 0;
}

/* The Internet checksum (RFC 1071), shared by what checks and what makes packets. */
#pragma once

#include <stdint.h>
#include <string.h>

static inline uint32_t mcr_checksum__fold(uint64_t sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return (uint32_t)((sum & 0xFFFF) + (sum >> 16));
}

#define MCR_CHECKSUM_BLOCK 64

/* Add whole blocks with what this CPU has for it. */
uint64_t mcr_checksum__add_blocks(uint64_t sum, const uint8_t *data, uint32_t blocks);

/* Add bytes to a one's complement sum; its byte order does not matter (RFC 1071 section 2). */
static inline uint64_t mcr_checksum__add(uint64_t sum, const uint8_t *data, uint32_t bytes)
{
	uint32_t word, blocks = bytes / MCR_CHECKSUM_BLOCK;
	uint16_t last = 0;

	if (blocks) {
		sum = mcr_checksum__add_blocks(sum, data, blocks);
		data += blocks * MCR_CHECKSUM_BLOCK;
		bytes %= MCR_CHECKSUM_BLOCK;
	}
	for (; bytes >= 4; data += 4, bytes -= 4) {
		memcpy(&word, data, 4);
		sum += word;
	}
	if (bytes >= 2) {
		memcpy(&last, data, 2);
		sum += last;
		data += 2;
		bytes -= 2;
	}
	if (bytes) {
		last = 0;
		memcpy(&last, data, 1);
		sum += last;
	}
	return sum;
}

/* The datagram of mcrgen, as generate.h describes it: what writing and checking share. */
#pragma once

#include "../generate.h"

#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <string.h>

#define MCR_GENERATED_MAGIC 0x6D637267u
#define MCR_GENERATED_VERSION 2
#define MCR_GENERATED_STEP 0x9E3779B97F4A7C15ull

struct mcr_generated {
	uint32_t magic;
	uint8_t version;
	uint8_t reserved;
	uint16_t flow;
	uint64_t sequence;
	uint64_t sent_ns;
	uint64_t total;
	uint32_t bytes;
	uint32_t check;
};

static_assert(sizeof(struct mcr_generated) == MCR_GENERATED_HEADER_BYTES, "no padding on the wire");
static_assert(offsetof(struct mcr_generated, flow) == 6, "wire format");
static_assert(offsetof(struct mcr_generated, sequence) == 8, "wire format");
static_assert(offsetof(struct mcr_generated, sent_ns) == 16, "wire format");
static_assert(offsetof(struct mcr_generated, total) == 24, "wire format");
static_assert(offsetof(struct mcr_generated, bytes) == 32, "wire format");
static_assert(offsetof(struct mcr_generated, check) == 36, "wire format");

static inline uint64_t mcr_check__mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * MCR_GENERATED_STEP;
	return hash ^ hash >> 32;
}

/* Over the header as it stands on the wire, without its last field. */
static inline uint32_t mcr_check__header(const struct mcr_generated *header)
{
	uint64_t words[4], hash = 0;

	memcpy(words, header, sizeof(words));
	for (int i = 0; i < 4; i++)
		hash = mcr_check__mix(hash, be64toh(words[i]));
	return (uint32_t)mcr_check__mix(hash, be32toh(header->bytes));
}

/* The datagram of mcrgen, as generate.h describes it: what writing and checking share. */
#pragma once

#include "../generate.h"

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define MCR_GENERATED_MAGIC 0x6D637267u
#define MCR_GENERATED_VERSION 1
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

static inline uint64_t mcr_pattern__seed(uint16_t flow, uint64_t sequence)
{
	return mcr_check__mix(flow, sequence);
}

/* memcpy() of words keeps both loops free of alignment rules; gcc turns them into vector code. */
static inline void mcr_pattern__fill(uint8_t *at, uint32_t bytes, uint64_t seed)
{
	uint32_t words = bytes / 8;

	for (uint32_t i = 0; i < words; i++) {
		uint64_t word = htole64(seed + i * MCR_GENERATED_STEP);

		memcpy(at + 8 * i, &word, 8);
	}
	if (bytes % 8) {
		uint64_t word = htole64(seed + words * MCR_GENERATED_STEP);

		memcpy(at + 8 * words, &word, bytes % 8);
	}
}

static inline bool mcr_pattern__matches(const uint8_t *at, uint32_t bytes, uint64_t seed)
{
	uint32_t words = bytes / 8;
	uint64_t wrong = 0;

	for (uint32_t i = 0; i < words; i++) {
		uint64_t word;

		memcpy(&word, at + 8 * i, 8);
		wrong |= le64toh(word) ^ (seed + i * MCR_GENERATED_STEP);
	}
	if (bytes % 8) {
		uint64_t word = htole64(seed + words * MCR_GENERATED_STEP);

		wrong |= memcmp(at + 8 * words, &word, bytes % 8) != 0;
	}
	return !wrong;
}

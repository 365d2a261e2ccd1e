/* What fills mcrgen's datagrams behind their header, as generate.h describes it. */
#pragma once

#include "../generate.h"

/* Give all patterns of that length, in one block to be freed; NULL without memory. */
uint8_t *mcr_patterns__new(uint32_t bytes);

/* Write the beginning of a pattern. */
void mcr_pattern__write(uint8_t *at, uint32_t bytes, uint32_t number);

/* Find one in such a block.  They overlap, so that all of them stay in the first cache. */
static inline uint8_t *mcr_pattern__in(uint8_t *patterns, uint32_t number)
{
	return patterns + (uint64_t)number * MCR_PATTERN_STEP;
}

static inline uint32_t mcr_pattern__number(uint16_t flow, uint64_t sequence)
{
	return (flow + sequence % MCR_PATTERNS) % MCR_PATTERNS;
}

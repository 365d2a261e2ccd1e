#include "pattern.h"

#include "generated.h"

#include <stdlib.h>

static uint64_t word_at(uint32_t index)
{
	return htole64(mcr_check__mix(0, index));
}

void mcr_pattern__write(uint8_t *at, uint32_t bytes, uint32_t number)
{
	uint32_t index = number * (MCR_PATTERN_STEP / 8);
	uint64_t word;

	for (; bytes >= 8; at += 8, bytes -= 8) {
		word = word_at(index++);
		memcpy(at, &word, 8);
	}
	word = word_at(index);
	memcpy(at, &word, bytes);
}

uint8_t *mcr_patterns__new(uint32_t bytes)
{
	uint32_t all_bytes = bytes + MCR_PATTERNS * MCR_PATTERN_STEP;
	uint8_t *patterns = malloc(all_bytes);

	if (patterns)
		mcr_pattern__write(patterns, all_bytes, 0);
	return patterns;
}

/* The rules of one worker: a flat open-addressing index over the arrays of a share. */
#pragma once

#include "../mcr.h"

#define MCR_TABLE_BUCKETS (4 * MCR_MAX_RULES)

/* Places for what look-ups among the ranges gave: sets of several, so that flows whose hashes meet
 * do not drive each other out.  A set is filled from its first place on. */
#define MCR_CACHE_SETS 2048
#define MCR_CACHE_WAYS 8

/* What a look-up among the ranges found; "result" 0 marks an empty entry,
 * else it is the rule's index plus one, or a negative errno. */
struct mcr_found {
	uint8_t group[16];
	uint8_t source[16];
	uint32_t interface;
	uint16_t port;
	uint16_t reserved;
	int32_t result;
};

struct mcr_table {
	struct mcr_share_header header;
	struct mcr_rule rules[MCR_MAX_RULES];
	struct mcr_output outputs[MCR_MAX_OUTPUTS];
	struct mcr_source sources[MCR_MAX_SOURCES];
	/* Rule index + 1 of the first of consecutive rules with one key, 0 for an empty bucket. */
	uint32_t buckets[MCR_TABLE_BUCKETS];
	/* Rules for a group prefix or several ports, most specific first, and what they gave
	 * lately. */
	uint32_t ranges[MCR_MAX_RULES];
	uint32_t range_count;
	struct mcr_found cache[MCR_CACHE_SETS][MCR_CACHE_WAYS];
	uint32_t cache_turn; /* which of a full set goes next */
	/* Slots in use, so that what is no longer named can be closed. */
	uint8_t rule_used[MCR_MAX_RULES];
	uint8_t output_claimed[MCR_MAX_OUTPUTS]; /* by index in the share */
	uint8_t output_used[MCR_MAX_OUTPUTS];
};

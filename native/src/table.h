/* The rules of one worker: a flat open-addressing index over the arrays of a share. */
#pragma once

#include "../mcr.h"

#define MCR_TABLE_BUCKETS (4 * MCR_MAX_RULES)

struct mcr_table {
	struct mcr_share_header header;
	struct mcr_rule rules[MCR_MAX_RULES];
	struct mcr_output outputs[MCR_MAX_OUTPUTS];
	struct mcr_source sources[MCR_MAX_SOURCES];
	/* Rule index + 1 of the first of consecutive rules with one key, 0 for an empty bucket. */
	uint32_t buckets[MCR_TABLE_BUCKETS];
	/* Slots in use, so that what is no longer named can be closed. */
	uint8_t interface_used[MCR_MAX_INTERFACES];
	uint8_t output_used[MCR_MAX_OUTPUTS];
};

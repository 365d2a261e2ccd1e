/* What look-ups must find, said plainly and slowly. */
#pragma once

#include "../mcr.h"

#include <stdbool.h>

struct plain_table {
	const struct mcr_rule *rules;
	const struct mcr_source *sources;
	uint32_t count; /* of the rules */
	/* Take what is meant for most groups and ports last, wherever it stands; else ranges are
	 * tried in the order in which they stand. */
	bool most_specific_first;
};

struct plain_key {
	uint32_t interface;
	uint8_t group[16];
	uint16_t port;
	uint8_t source[16];
};

/* As mcr_table__find(). */
int plain_table__find(const struct plain_table *table, const struct plain_key *key);
/* Whether a rule is for more than one group and port. */
bool plain_table__is_range(const struct mcr_rule *rule);
/* Below zero if the groups and ports of one rule are fewer than those of the other, above if they
 * are more. */
int plain_table__compare(const struct mcr_rule *one, const struct mcr_rule *other);

/*
 * The loop guard: datagrams that come by again and again although their time to live has run out.
 *
 * Under ttl: auto a time to live never falls below 1, so that two relays which feed each other
 * would pass a datagram on for ever.  Such datagrams arrive with 1 and with the same payload, many
 * times a second.
 */
#pragma once

#include "../mcr.h"

#include <stdbool.h>

#define MCR_GUARD_ENTRIES 256

struct mcr_guard_entry {
	uint64_t fingerprint;
	uint64_t times;
};

/* Per rule. */
struct mcr_guard {
	uint64_t window_start_ns;
	uint64_t datagrams;   /* in this window */
	uint64_t sample_mask; /* of fingerprints: at high rates only some are followed */
	uint64_t guarded_until_ns;
	struct mcr_guard_entry entries[MCR_GUARD_ENTRIES];
};

/* Follow a datagram that arrived with a time to live of 1 or less; true when it is found to loop,
 * for the first time in a while. */
bool mcr_guard__found_loop(struct mcr_guard *guard, const struct mcr_datagram *datagram,
			   uint64_t now_ns);

static inline bool mcr_guard__is_on(const struct mcr_guard *guard, uint64_t now_ns)
{
	return now_ns < guard->guarded_until_ns;
}

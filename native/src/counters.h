/* The counters that the supervisor reads while the worker writes them. */
#pragma once

#include "../mcr.h"

struct mcr_table;

/* Counters are being changed, or no longer.  An empty batch changes none: a worker that never
 * sleeps would leave no time to read them. */
static inline void mcr_counters__toggle(struct mcr_shared *shared)
{
	__atomic_store_n(&shared->sequence, shared->sequence + 1, __ATOMIC_SEQ_CST);
}

static inline uint64_t mcr_counters__sum(const uint64_t *counters, uint32_t count)
{
	uint64_t sum = 0;

	while (count--)
		sum += *counters++;
	return sum;
}

/* Make the sums come out even after a predecessor that died within a batch. */
void mcr_counters__settle(struct mcr_shared *shared, const struct mcr_table *table);

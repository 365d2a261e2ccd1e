/* How long datagrams are under way, from the kernel's receipt to the send call. */
#pragma once

#include "../mcr.h"

/* Datagrams of one rule whose time to the send call is still to be measured. */
struct mcr_stamp {
	uint32_t rule; /* slot */
	uint32_t datagrams;
	uint64_t received_ns; /* CLOCK_REALTIME, what the kernel stamps frames with */
};

/* Those of one batch. */
struct mcr_stamps {
	struct mcr_stamp *all; /* MCR_MAX_BATCH for each ring */
	uint32_t count;
};

static inline void mcr_stamps__note(struct mcr_stamps *stamps, uint32_t rule, uint32_t datagrams,
				    uint64_t received_ns)
{
	stamps->all[stamps->count++] = (struct mcr_stamp){ rule, datagrams, received_ns };
}

/* Everything has been sent: count the times in the rules' histograms. */
void mcr_stamps__measure(struct mcr_stamps *stamps, struct mcr_latency *latencies);

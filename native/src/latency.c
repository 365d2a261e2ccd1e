#include "latency.h"

#include <time.h>

#define NS_PER_US 1000
#define NS_PER_S 1000000000ull

static uint32_t bucket_of(uint64_t elapsed_ns)
{
	uint64_t us = elapsed_ns / NS_PER_US;
	uint32_t octave, quarters, bucket;

	if (!us)
		return 0;
	octave = 63u - (uint32_t)__builtin_clzll(us);
	quarters = (uint32_t)((elapsed_ns >> octave) / (NS_PER_US / 4)); /* 4 to 7 */
	bucket = 1 + 4 * octave + quarters - 4;
	return bucket < MCR_RULE_LATENCY_BUCKETS ? bucket : MCR_RULE_LATENCY_BUCKETS - 1;
}

uint32_t mcr_relay__latency_bucket(uint64_t elapsed_ns)
{
	return bucket_of(elapsed_ns);
}

/* One look at the clock for the whole batch: its calls take microseconds, the times are counted in
 * such. */
void mcr_stamps__measure(struct mcr_stamps *stamps, struct mcr_latency *latencies)
{
	struct timespec clock;
	uint64_t now;

	if (!stamps->count)
		return;
	clock_gettime(CLOCK_REALTIME, &clock);
	now = (uint64_t)clock.tv_sec * NS_PER_S + (uint64_t)clock.tv_nsec;
	for (uint32_t i = 0; i < stamps->count; i++) {
		const struct mcr_stamp *stamp = &stamps->all[i];
		uint64_t elapsed = now > stamp->received_ns ? now - stamp->received_ns : 0;

		latencies[stamp->rule].buckets[bucket_of(elapsed)] += stamp->datagrams;
	}
	stamps->count = 0;
}

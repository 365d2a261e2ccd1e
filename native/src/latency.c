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

/* Those times are in the bucket that are at least "low" and less than "width" longer. */
struct bounds {
	uint64_t low;
	uint64_t width;
};

static struct bounds bounds_of(uint32_t bucket)
{
	uint32_t octave = (bucket - 1) / 4, quarters = (bucket - 1) % 4 + 4;
	struct bounds bounds = { 0, NS_PER_US };

	if (bucket)
		bounds = (struct bounds){ (uint64_t)quarters * (NS_PER_US / 4) << octave,
					  (uint64_t)(NS_PER_US / 4) << octave };
	if (bucket == MCR_RULE_LATENCY_BUCKETS - 1)
		bounds.width = UINT64_MAX - bounds.low;
	return bounds;
}

/*
 * One look at the clock for the whole batch: its calls take microseconds, the times are counted in
 * such. Datagrams that arrived one after the other mostly go where the last one went.
 */
void mcr_stamps__measure(struct mcr_stamps *stamps, struct mcr_latency *latencies)
{
	const struct mcr_stamp *stamp = stamps->all, *end = stamp + stamps->count;
	struct bounds bounds = { 0, 0 };
	uint64_t *counter = NULL, now;
	uint32_t rule = UINT32_MAX;
	struct timespec clock;

	if (!stamps->count)
		return;
	clock_gettime(CLOCK_REALTIME, &clock);
	now = (uint64_t)clock.tv_sec * NS_PER_S + (uint64_t)clock.tv_nsec;
	for (; stamp < end; stamp++) {
		uint64_t elapsed = now > stamp->received_ns ? now - stamp->received_ns : 0;

		if (stamp->rule != rule || elapsed - bounds.low >= bounds.width) {
			uint32_t bucket = bucket_of(elapsed);

			rule = stamp->rule;
			bounds = bounds_of(bucket);
			counter = &latencies[rule].buckets[bucket];
		}
		*counter += stamp->datagrams;
	}
	stamps->count = 0;
}

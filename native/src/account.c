/* Account for numbered datagrams: which came, how often, in which order and how late. */
#include "generated.h"
#include "measure.h"
#include "pattern.h"

#include <stdbool.h>

#define SUB_BUCKET_BITS 6
#define SUB_BUCKETS (1u << SUB_BUCKET_BITS)

static_assert(MCR_MEASURE_WINDOW % 64 == 0, "a window is whole words");
static_assert(MCR_LATENCY_BUCKETS == (64 - SUB_BUCKET_BITS + 1) * SUB_BUCKETS,
	      "every 64-bit value has a bucket");

/* ---- latency ---- */

uint32_t mcr_latency__bucket(uint64_t ns)
{
	uint32_t shift;

	if (ns < SUB_BUCKETS)
		return ns;
	shift = 63 - SUB_BUCKET_BITS - __builtin_clzll(ns);
	return shift * SUB_BUCKETS + (ns >> shift);
}

uint64_t mcr_latency__lower_bound(uint32_t bucket)
{
	uint32_t shift;

	if (bucket < SUB_BUCKETS)
		return bucket;
	if (bucket >= MCR_LATENCY_BUCKETS)
		return UINT64_MAX;
	shift = bucket / SUB_BUCKETS - 1;
	return (uint64_t)(SUB_BUCKETS + bucket % SUB_BUCKETS) << shift;
}

static void take_latency(struct mcr_measure_tally *tally, uint64_t sent_ns, uint64_t arrived_ns)
{
	uint64_t ns = 0;

	if (arrived_ns >= sent_ns)
		ns = arrived_ns - sent_ns;
	else
		tally->clock_behind++;
	if (ns > tally->latency_max_ns)
		tally->latency_max_ns = ns;
	tally->latency[mcr_latency__bucket(ns)]++;
}

/* ---- sequence numbers ---- */

/* Move the window up to a new highest number; what stood there before is more than a window behind.
 */
static void advance(uint64_t *window, uint64_t next, uint64_t sequence)
{
	if (sequence - next >= MCR_MEASURE_WINDOW) {
		memset(window, 0, MCR_MEASURE_WINDOW / 8);
		return;
	}
	for (; next < sequence; next++)
		window[next / 64 % WINDOW_WORDS] &= ~(1ull << next % 64);
}

/* Say whether this sequence number is new, and count it. */
static void take_sequence(struct mcr_measure *measure, uint32_t index, uint64_t sequence)
{
	struct mcr_measure_tally *tally = &measure->tally;
	struct mcr_measure_flow *flow = &measure->flows[index];
	uint64_t *window = measure->windows + (size_t)index * WINDOW_WORDS;
	uint64_t *word = &window[sequence / 64 % WINDOW_WORDS], bit = 1ull << sequence % 64;

	if (!flow->distinct)
		flow->first = flow->next = sequence;
	if (sequence < flow->first)
		flow->first = sequence;
	if (sequence >= flow->next) {
		advance(window, flow->next, sequence);
		flow->next = sequence + 1;
	} else if (flow->next - sequence > MCR_MEASURE_WINDOW) {
		tally->stale++;
		return;
	} else if (*word & bit) {
		tally->duplicated++;
		return;
	} else {
		tally->reordered++;
	}
	*word |= bit;
	flow->distinct++;
	tally->distinct++;
}

/* ---- one datagram ---- */

static bool is_ours(const uint8_t *bytes, uint32_t length)
{
	uint32_t magic;

	if (length < sizeof(magic))
		return false;
	memcpy(&magic, bytes, sizeof(magic));
	return magic == htobe32(MCR_GENERATED_MAGIC);
}

static bool is_whole(const struct mcr_measure *measure, const struct mcr_generated *header,
		     const uint8_t *bytes, uint32_t length)
{
	uint64_t sequence = be64toh(header->sequence);
	uint32_t number = mcr_pattern__number(be16toh(header->flow), sequence);

	return header->version == MCR_GENERATED_VERSION &&
	       be32toh(header->check) == mcr_check__header(header) &&
	       be32toh(header->bytes) == length && sequence != UINT64_MAX &&
	       !memcmp(bytes + sizeof(*header), mcr_pattern__in(measure->patterns, number),
		       length - sizeof(*header));
}

static void take_received(struct mcr_measure *measure, uint32_t index,
			  const struct mcr_generated *header, uint64_t arrived_ns)
{
	struct mcr_measure_tally *tally = &measure->tally;
	struct mcr_measure_flow *flow = &measure->flows[index];

	if (be64toh(header->total) > flow->total)
		flow->total = be64toh(header->total);
	if (!tally->received)
		tally->first_ns = arrived_ns;
	tally->last_ns = arrived_ns;
	tally->received++;
	tally->bytes += be32toh(header->bytes);
	take_sequence(measure, index, be64toh(header->sequence));
	take_latency(tally, be64toh(header->sent_ns), arrived_ns);
}

void mcr_measure__take(struct mcr_measure *measure, const uint8_t *bytes, uint32_t length,
		       uint32_t destination, uint64_t arrived_ns)
{
	struct mcr_measure_flow *flow;
	struct mcr_generated header;
	uint32_t index;

	if (!is_ours(bytes, length)) {
		measure->tally.foreign++;
		return;
	}
	if (length < sizeof(header)) {
		measure->tally.corrupted++;
		return;
	}
	memcpy(&header, bytes, sizeof(header));
	if (!is_whole(measure, &header, bytes, length)) {
		measure->tally.corrupted++;
		return;
	}
	index = measure->plan.by_flow ? be16toh(header.flow) : destination;
	if (index >= measure->plan.flows) {
		measure->tally.foreign++;
		return;
	}
	flow = &measure->flows[index];
	if (!flow->is_heard) {
		flow->is_heard = 1;
		flow->flow = be16toh(header.flow);
	} else if (flow->flow != be16toh(header.flow)) {
		measure->tally.misdirected++;
		return;
	}
	take_received(measure, index, &header, arrived_ns);
}

/* ---- results ---- */

const struct mcr_measure_tally *mcr_measure__tally(const struct mcr_measure *measure)
{
	return &measure->tally;
}

const struct mcr_measure_flow *mcr_measure__flow(const struct mcr_measure *measure,
						 uint32_t destination)
{
	return destination < measure->plan.flows ? &measure->flows[destination] : NULL;
}

static uint64_t smallest_total(const struct mcr_measure *measure)
{
	uint64_t smallest = 0;

	for (uint32_t i = 0; i < measure->plan.flows; i++)
		if (measure->flows[i].total && (!smallest || measure->flows[i].total < smallest))
			smallest = measure->flows[i].total;
	return smallest;
}

static uint64_t gaps_of(const struct mcr_measure_flow *flow)
{
	return flow->next - (flow->total ? 0 : flow->first) - flow->distinct;
}

uint64_t mcr_measure__lost(const struct mcr_measure *measure, uint32_t destination)
{
	const struct mcr_measure_flow *flow = mcr_measure__flow(measure, destination);

	if (!flow)
		return 0;
	if (!flow->is_heard)
		return smallest_total(measure);
	/* Numbers at or above the total mean that the sender changed its mind: nothing seen is ever
	 * subtracted. */
	return flow->total > flow->next ? flow->total - flow->distinct : gaps_of(flow);
}

uint64_t mcr_measure__gaps(const struct mcr_measure *measure, uint32_t destination)
{
	const struct mcr_measure_flow *flow = mcr_measure__flow(measure, destination);

	return flow ? gaps_of(flow) : 0;
}

uint64_t mcr_measure__all_gaps(const struct mcr_measure *measure)
{
	uint64_t gaps = 0;

	for (uint32_t i = 0; i < measure->plan.flows; i++)
		gaps += gaps_of(&measure->flows[i]);
	return gaps;
}

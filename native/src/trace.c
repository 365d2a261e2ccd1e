#include "trace.h"

#include <string.h>
#include <time.h>

static uint64_t realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* An entry is whole once its number is in it: the reader compares before and after. */
static void publish(struct mcr_trace *trace, uint64_t number, uint64_t sent_ns, uint32_t verdict)
{
	struct mcr_trace_entry *entry = &trace->entries[number % MCR_TRACE_ENTRIES];

	entry->sent_ns = sent_ns;
	entry->verdict = verdict;
	__atomic_store_n(&entry->number, number + 1, __ATOMIC_RELEASE);
}

static uint64_t fill(struct mcr_tracer *tracer, uint32_t slot, const struct mcr_datagram *datagram,
		     uint32_t bytes)
{
	uint64_t number = tracer->shared->written++;
	struct mcr_trace_entry *entry = &tracer->shared->entries[number % MCR_TRACE_ENTRIES];

	__atomic_store_n(&entry->number, 0, __ATOMIC_RELEASE);
	entry->received_ns = tracer->received_ns;
	entry->output = slot;
	entry->bytes = bytes;
	entry->source_port = datagram->source_port;
	entry->ttl = datagram->ttl;
	memcpy(entry->source, datagram->source, sizeof(entry->source));
	return number;
}

void mcr_tracer__begin(struct mcr_tracer *tracer, uint32_t lane, uint32_t payload, uint32_t slot,
		       const struct mcr_datagram *datagram, uint32_t bytes)
{
	if (tracer->pending_count == MCR_TRACE_PENDING)
		return;
	tracer->pending[tracer->pending_count++] = (struct mcr_pending){
		.lane = lane, .payload = payload, .entry = fill(tracer, slot, datagram, bytes)
	};
}

void mcr_tracer__note(struct mcr_tracer *tracer, uint32_t slot, const struct mcr_datagram *datagram,
		      uint32_t bytes, uint32_t verdict)
{
	publish(tracer->shared, fill(tracer, slot, datagram, bytes), realtime_ns(), verdict);
}

void mcr_tracer__end(struct mcr_tracer *tracer, uint32_t lane, uint32_t first, uint32_t count,
		     uint32_t verdict)
{
	uint64_t now = realtime_ns();
	uint32_t kept = 0;

	for (uint32_t i = 0; i < tracer->pending_count; i++) {
		struct mcr_pending *pending = &tracer->pending[i];

		if (pending->lane == lane && pending->payload >= first &&
		    pending->payload < first + count)
			publish(tracer->shared, pending->entry, now, verdict);
		else
			tracer->pending[kept++] = *pending;
	}
	tracer->pending_count = kept;
}

/* What happened to single datagrams of one rule, for those who ask; see struct mcr_trace. */
#pragma once

#include "../mcr.h"

#include <stdbool.h>

#define MCR_TRACE_PENDING 256

/* A traced payload whose fate is not known yet. */
struct mcr_pending {
	uint32_t lane;
	uint32_t payload;
	uint64_t entry;
};

struct mcr_tracer {
	struct mcr_trace *shared;
	bool on;	      /* for the datagram in hand */
	uint64_t datagrams;   /* of the traced rule so far, to take every nth */
	uint64_t received_ns; /* of the datagram in hand */
	uint32_t pending_count;
	struct mcr_pending pending[MCR_TRACE_PENDING];
};

/* Whether to trace the next datagram of a rule; off, it costs one comparison. */
static inline bool mcr_tracer__wants(struct mcr_tracer *tracer, uint32_t rule_slot)
{
	if (tracer->shared->rule != (uint64_t)rule_slot + 1)
		return false;
	return tracer->datagrams++ % (tracer->shared->every ? tracer->shared->every : 1) == 0;
}

/* Note a payload that waits in a lane. */
void mcr_tracer__begin(struct mcr_tracer *tracer, uint32_t lane, uint32_t payload, uint32_t slot,
		       const struct mcr_datagram *datagram, uint32_t bytes);
/* Note a payload whose fate is known at once; the verdict is 0 or a reason plus one. */
void mcr_tracer__note(struct mcr_tracer *tracer, uint32_t slot, const struct mcr_datagram *datagram,
		      uint32_t bytes, uint32_t verdict);
/* Note the fate of "count" payloads of a lane. */
void mcr_tracer__end(struct mcr_tracer *tracer, uint32_t lane, uint32_t first, uint32_t count,
		     uint32_t verdict);

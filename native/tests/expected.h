/*
 * What one batch must lead to, worked out plainly from the frames and the table: counters, and for
 * each output the payloads in their order.
 */
#pragma once

#include "../src/table.h"
#include "fake_ring.h"

#define EXPECTED_OUTPUTS 16
#define EXPECTED_RULES 16
#define EXPECTED_PAYLOADS 16384

struct expected_payload {
	const uint8_t *bytes;
	uint32_t count;
	uint8_t ttl;
	uint8_t dscp;
};

struct expected_output {
	uint64_t due;	      /* as many as its rule matched */
	uint64_t without_ttl; /* of these */
	uint64_t taken;	      /* by the kernel */
	uint64_t taken_bytes;
	uint32_t next; /* of the payloads, the first that has not been passed yet */
	uint32_t count;
	struct expected_payload payloads[EXPECTED_PAYLOADS];
};

struct expected {
	struct mcr_interface_counters interfaces[MCR_MAX_INTERFACES];
	struct mcr_rule_counters rules[EXPECTED_RULES];
	struct expected_output outputs[EXPECTED_OUTPUTS];
};

/* Start a run. */
void expected__clear(struct expected *expected);
/* Start a batch: what has not left until now never will. */
void expected__start_batch(struct expected *expected);
/* Add a frame that is going to be read.  It must stay where it is until the batch is over. */
void expected__add(struct expected *expected, struct mcr_table *table, uint32_t slot,
		   const struct fake_frame *frame, uint32_t kept);
/* The kernel takes a payload: it must be one of the next.  Payloads may be left out, since the
 * kernel may have refused them. */
void expected__take(struct expected *expected, uint32_t output, const uint8_t *bytes,
		    uint32_t count, uint8_t ttl, uint8_t dscp);
/* Abort unless the counters say what they must. */
void expected__check(const struct expected *expected, const struct mcr_shared *shared);

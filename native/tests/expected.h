/*
 * What one batch must lead to, worked out plainly from the frames and the table: counters, and for
 * each output the payloads in their order.
 */
#pragma once

#include "../src/guard.h"
#include "../src/table.h"
#include "fake_ring.h"

#define EXPECTED_OUTPUTS 28
#define EXPECTED_RULES 16
#define EXPECTED_PAYLOADS 16384

/* What a payload leaves with.  What the output's engine does not say is zero. */
struct expected_flow {
	uint8_t address[16];
	uint8_t source[16];
	uint16_t port;
	uint16_t source_port;
	uint8_t ttl;
	uint8_t dscp;
	uint16_t reserved;
};

struct expected_payload {
	const uint8_t *bytes;
	uint32_t count;
	bool passed; /* it has left, or one behind it has */
	struct expected_flow flow;
};

struct expected_output {
	const struct mcr_output *config; /* in the table, from the first payload on */
	uint64_t due;			 /* as many as its rule matched */
	uint64_t without_ttl;		 /* of these */
	uint64_t above_rate;		 /* of these */
	uint64_t taken;			 /* by the kernel */
	uint64_t taken_bytes;
	/* The rate limit, as a bucket that leaks: how long what it holds takes to flow off. */
	uint64_t backlog_ns;
	uint64_t backlog_at_ns;
	uint8_t source[16]; /* of its socket */
	uint16_t source_port;
	uint32_t next; /* of the payloads, the first that has not been passed yet */
	uint32_t count;
	struct expected_payload payloads[EXPECTED_PAYLOADS];
};

struct expected {
	uint64_t now_ns;
	struct mcr_interface_counters interfaces[MCR_MAX_INTERFACES];
	struct mcr_rule_counters rules[EXPECTED_RULES];
	struct mcr_latency latencies[EXPECTED_RULES];
	struct mcr_guard guards[EXPECTED_RULES];
	bool loop_found; /* and not forgotten */
	struct mcr_loop loop;
	struct expected_output outputs[EXPECTED_OUTPUTS];
};

/* Start a run. */
void expected__clear(struct expected *expected);
/* Start a batch: what has not left until now never will. */
void expected__start_batch(struct expected *expected, uint64_t now_ns);
/* Another table came into force: a rule that is gone leaves nothing of its guard to the next. */
void expected__install(struct expected *expected, const struct mcr_table *previous,
		       const struct mcr_table *table);
/* An output got a new socket, with this address and port. */
void expected__attach(struct expected *expected, uint32_t output, const uint8_t source[16],
		      uint16_t source_port);
/* Add a frame that is going to be read.  It must stay where it is until the batch is over. */
void expected__add(struct expected *expected, const struct mcr_table *table, uint32_t slot,
		   const struct fake_frame *frame, uint32_t kept);
/* The kernel takes a payload: it must be one of the next of those that go the same way.  Payloads
 * may be left out, since the kernel may have refused them. */
void expected__take(struct expected *expected, uint32_t output, const uint8_t *bytes,
		    uint32_t count, const struct expected_flow *flow);
/* Abort unless the counters say what they must. */
void expected__check(const struct expected *expected, const struct mcr_shared *shared);

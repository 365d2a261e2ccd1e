/* Whether a worker waits for more before it looks again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* How long a rate is measured. */
#define MCR_PACE_WINDOW_NS 2000000ull

struct mcr_pace {
	uint64_t window_start_ns;
	uint64_t window_datagrams;
	bool was_fast; /* in the last window */
	bool gathering;
	uint32_t gather_ns; /* how long to wait for more, 0 for not at all */
	bool busy_poll;
	uint32_t batch; /* frames of one ring */
};

/* Take note of what a batch had to send. */
void mcr_pace__note(struct mcr_pace *pace, uint32_t datagrams, uint64_t now_ns);

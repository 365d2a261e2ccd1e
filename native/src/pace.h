/* Whether a worker waits for more before it looks again, and how long. */
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
	bool adapts;		/* gather_ns follows what waiting costs */
	uint32_t gather_ns;	/* how long to wait for more, 0 for not at all */
	uint32_t wait_costs_ns; /* CPU time that waits took, several together */
	uint32_t waits;		/* so far, to measure every nth */
	bool busy_poll;
	uint32_t batch; /* frames of one ring */
};

/* Set how long to wait for more; -1: as long as waiting then costs a small part of the CPU. */
void mcr_pace__set_gather(struct mcr_pace *pace, int32_t coalesce_us);
/* Take note of what a batch had to send. */
void mcr_pace__note(struct mcr_pace *pace, uint32_t datagrams, uint64_t now_ns);
/* Whether the CPU time of the next wait is to be measured. */
bool mcr_pace__measures(struct mcr_pace *pace);
/* Take note of the CPU time that a wait took. */
void mcr_pace__note_wait(struct mcr_pace *pace, uint64_t cpu_ns);

#include "pace.h"

/* Datagrams sent per second from which on it is worth to wait for more. */
#define GATHER_RATE_PPS 20000
#define NS_PER_S 1000000000ull
#define NS_PER_US 1000

/* To fall asleep and wake up may take one part in so many of the CPU. */
#define WAIT_SHARE 20
#define LEAST_GATHER_NS 100000
#define MOST_GATHER_NS 350000
/* A mean over about so many, in which a single interrupt does not count for much. */
#define WAITS_TOGETHER 8
/* To look at the clock of CPU time is a system call. */
#define WAITS_PER_LOOK 16

static uint32_t at_most(uint64_t value, uint32_t most)
{
	return value < most ? (uint32_t)value : most;
}

void mcr_pace__set_gather(struct mcr_pace *pace, int32_t coalesce_us)
{
	pace->adapts = coalesce_us < 0;
	pace->wait_costs_ns = WAITS_TOGETHER * LEAST_GATHER_NS / WAIT_SHARE;
	pace->gather_ns = pace->adapts ? LEAST_GATHER_NS : (uint32_t)coalesce_us * NS_PER_US;
}

bool mcr_pace__measures(struct mcr_pace *pace)
{
	return pace->adapts && pace->waits++ % WAITS_PER_LOOK == 0;
}

void mcr_pace__note_wait(struct mcr_pace *pace, uint64_t cpu_ns)
{
	uint32_t cost = at_most(cpu_ns, MOST_GATHER_NS / WAIT_SHARE);

	pace->wait_costs_ns += cost - pace->wait_costs_ns / WAITS_TOGETHER;
	pace->gather_ns = WAIT_SHARE * (pace->wait_costs_ns / WAITS_TOGETHER);
	if (pace->gather_ns < LEAST_GATHER_NS)
		pace->gather_ns = LEAST_GATHER_NS;
}

/*
 * Whether to wait on purpose follows from the measured rate, not from the size of the last batch: a
 * relay that is woken for each packet sees small batches for ever, however high the rate.
 */
void mcr_pace__note(struct mcr_pace *pace, uint32_t datagrams, uint64_t now_ns)
{
	uint64_t elapsed = now_ns - pace->window_start_ns;
	bool fast;

	pace->window_datagrams += datagrams;
	if (elapsed < MCR_PACE_WINDOW_NS)
		return;
	fast = pace->gather_ns && pace->window_datagrams * NS_PER_S / elapsed >= GATHER_RATE_PPS;
	/* One window alone may be what a sender makes up for after a pause. */
	pace->gathering = fast && pace->was_fast;
	pace->was_fast = fast;
	pace->window_start_ns = now_ns;
	pace->window_datagrams = 0;
}

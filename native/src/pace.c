#include "pace.h"

/* Datagrams sent per second from which on it is worth to wait for more. */
#define GATHER_RATE_PPS 20000
#define NS_PER_S 1000000000ull

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

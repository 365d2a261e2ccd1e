#include "standby.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <time.h>

int mcr_standby__open(struct mcr_standby *standby)
{
	struct timespec tick;

	/* The clock that ticks. */
	if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick))
		return -errno;
	standby->span_ns = (uint64_t)tick.tv_nsec / 2;
	/* Nobody reads it: that it is pending is all that it is for. */
	standby->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	return standby->fd < 0 ? -errno : 0;
}

bool mcr_standby__lacks(struct mcr_standby *standby, uint64_t now_ns)
{
	uint64_t distance = now_ns - standby->ready_ns;

	standby->ready_ns = now_ns;
	return distance < standby->span_ns && standby->due_ns < now_ns + distance;
}

void mcr_standby__set(struct mcr_standby *standby, uint64_t now_ns)
{
	const struct itimerspec once = { .it_value.tv_nsec = (long)standby->span_ns };

	if (!mcr_standby__lacks(standby, now_ns))
		return;
	standby->due_ns = now_ns + standby->span_ns;
	timerfd_settime(standby->fd, 0, &once, NULL);
}

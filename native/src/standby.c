#include "standby.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

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

void mcr_standby__close(struct mcr_standby *standby)
{
	if (standby->fd >= 0)
		close(standby->fd);
}

void mcr_standby__prepare(struct mcr_standby *standby, uint64_t woke_ns)
{
	const struct itimerspec once = { .it_value.tv_nsec = (long)standby->span_ns };
	uint64_t distance = woke_ns - standby->woke_ns;

	standby->woke_ns = woke_ns;
	if (distance >= standby->span_ns || standby->due_ns >= woke_ns + distance)
		return;
	standby->due_ns = woke_ns + standby->span_ns;
	timerfd_settime(standby->fd, 0, &once, NULL);
}

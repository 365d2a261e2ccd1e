/*
 * A timer that stands by while datagrams come one by one.
 *
 * A CPU that falls asleep stops its tick, and starts it again when it wakes up, before the worker
 * runs (kernel/time/tick-sched.c). Each time the timer hardware is set, unless another timer is due
 * before the tick. On virtual machines that is a trap to the host, of several microseconds; to have
 * such a timer takes one of them now and then.
 */
#pragma once

#include <stdint.h>

struct mcr_standby {
	int fd;
	uint64_t span_ns; /* half a tick: mostly due before the next one */
	uint64_t woke_ns; /* before the wait that is about to begin, CLOCK_MONOTONIC */
	uint64_t due_ns;
};

/* Open the timer; 0 or a negative errno. */
int mcr_standby__open(struct mcr_standby *standby);
void mcr_standby__close(struct mcr_standby *standby);
/* Before a wait, with the time when the worker woke up: set the timer if it would be due before the
 * next datagram, should that take as long as the last one. */
void mcr_standby__prepare(struct mcr_standby *standby, uint64_t woke_ns);

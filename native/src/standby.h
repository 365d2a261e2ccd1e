/*
 * A timer that stands by while datagrams come one by one.
 *
 * A CPU that falls asleep stops its tick, and starts it again when it wakes up, before the worker
 * runs (kernel/time/tick-sched.c). Each time the timer hardware is set, unless another timer is due
 * before the tick. On virtual machines that is a trap to the host, of several microseconds; to have
 * such a timer takes one of them now and then.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct mcr_standby {
	int fd;
	uint64_t span_ns;  /* half a tick: mostly due before the next one */
	uint64_t ready_ns; /* when the last wait began, CLOCK_MONOTONIC */
	uint64_t due_ns;
};

/* Open the timer; 0 or a negative errno. */
int mcr_standby__open(struct mcr_standby *standby);
/* Take note of a wait that begins; tell whether the timer is to be set, because it would be due
 * before the next datagram if that takes as long as the last one. */
bool mcr_standby__lacks(struct mcr_standby *standby, uint64_t now_ns);
/* Set the timer before a wait, if it is worth it. */
void mcr_standby__set(struct mcr_standby *standby, uint64_t now_ns);

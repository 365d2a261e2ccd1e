/*
 * What arrives as UDP multicast and matches no rule, in a bounded table, so that "why does nothing
 * come out" can be answered.  The packets wait in the small queue of a socket of their own and are
 * looked at ten times a second: what does not fit is not looked at, so that much of it costs no
 * more than little.
 */
#pragma once

#include "../mcr.h"

/* Look at what waits at the socket of an interface. */
void mcr_watch__look(struct mcr_unmatched *table, int fd, uint32_t interface);

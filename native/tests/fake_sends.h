/*
 * sendmsg() and sendmmsg() as a kernel that is hard to please: they check what the relay hands over
 * against what is expected, and succeed, fail or stop half-way as they are told.
 *
 * A program that uses it is linked with --wrap=sendmsg and --wrap=sendmmsg.
 */
#pragma once

#include "expected.h"

/* An outcome below 128 is success. From there on sendmsg() fails, sendmmsg() sends only some, or
 * from 192 on fails; the lowest bits say with which error or how many. */
void fake_sends__init(struct expected *payloads, uint8_t (*outcome)(void));
void fake_sends__attach(uint32_t output, int fd);
void fake_sends__attach_packets(const int fds[MCR_PRIORITIES]);
/* The interface of an output that writes packets: by that it is told from others. */
uint32_t fake_sends__ifindex(uint32_t output);

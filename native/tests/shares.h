/* Shares for tests, put together rule by rule. */
#pragma once

#include "../mcr.h"

#include <stddef.h>

/* A program that needs more is built with them. */
#ifndef SHARE_MAX_RULES
#define SHARE_MAX_RULES 64
#define SHARE_MAX_OUTPUTS 64
#endif
#define SHARE_MAX_SOURCES 64
#define SHARE_MAX_BYTES                                                                \
	(sizeof(struct mcr_share_header) + SHARE_MAX_RULES * sizeof(struct mcr_rule) + \
	 SHARE_MAX_OUTPUTS * sizeof(struct mcr_output) +                               \
	 SHARE_MAX_SOURCES * sizeof(struct mcr_source))

struct test_share {
	struct mcr_share_header header;
	struct mcr_rule rules[SHARE_MAX_RULES];
	struct mcr_output outputs[SHARE_MAX_OUTPUTS];
	struct mcr_source sources[SHARE_MAX_SOURCES];
};

void share__init(struct test_share *share, uint64_t generation);
/* Add a rule for one group and port and any source, and have its interface read; outputs and
 * sources added next belong to it.  Its slot is its index. */
struct mcr_rule *share__add_rule(struct test_share *share, uint32_t interface,
				 const uint8_t group[16], uint16_t port);
/* Add a connected UDP socket's output.  Its slot is its index. */
struct mcr_output *share__add_output(struct test_share *share, enum mcr_ttl_policy policy,
				     uint8_t ttl);
void share__add_source(struct test_share *share, const uint8_t source[16]);
/* Write the share as the supervisor does; give its length. */
size_t share__write(const struct test_share *share, uint8_t *at);
/* The same in a memory file. */
int share__file(const struct test_share *share, uint64_t *bytes);

/* What a receiver knows: shared by its socket (measure.c) and its accounts (account.c). */
#pragma once

#include "../generate.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#define BATCH 32
#define CONTROL_BYTES 256
#define WINDOW_WORDS (MCR_MEASURE_WINDOW / 64)
#define LONGEST_PATTERN (MCR_GENERATED_MAX_BYTES - MCR_GENERATED_HEADER_BYTES)

struct mcr_measure {
	struct mcr_measure_plan plan;
	struct mcr_measure_tally tally;
	struct mcr_measure_flow *flows;
	uint64_t *windows; /* per flow, bit n % MCR_MEASURE_WINDOW: sequence number n was seen */
	uint8_t (*sources)[16];
	uint8_t *patterns; /* of LONGEST_PATTERN */
	uint64_t rate_since_ns;
	uint64_t rate_from; /* datagrams seen at rate_since_ns */
	bool is_busy;
	uint8_t *buffers;
	uint8_t (*controls)[CONTROL_BYTES];
	struct sockaddr_in6 names[BATCH];
	struct iovec vectors[BATCH];
	struct mmsghdr messages[BATCH];
};

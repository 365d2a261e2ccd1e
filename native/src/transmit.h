/*
 * Sending through connected UDP sockets: payloads of one output gather within a batch and leave in
 * one call.
 */
#pragma once

#include "../mcr.h"

#include <stdbool.h>
#include <sys/uio.h>

/* UDP_MAX_SEGMENTS in linux/udp.h is 64 before Linux 6.9 and 128 since. */
#define MCR_GATHER_PAYLOADS 64
/* 65,535 minus the headers of IPv4 and UDP: what one UDP_SEGMENT call may carry. */
#define MCR_GATHER_BYTES 65507

struct mcr_sender {
	int fd; /* -1: none */
	bool dirty;
	bool ipv6;
	uint8_t ttl;	   /* of the payloads gathered */
	uint16_t gathered; /* payloads */
	uint32_t bytes;
	uint32_t segment_bytes;	      /* length of the first payload gathered */
	uint32_t segment_bytes_limit; /* longer ones do not fit the path in one segment */
	uint64_t retry_at_ns;
	uint64_t backoff_ns;
	struct mcr_output_counters *counters;
	struct iovec *payloads; /* MCR_GATHER_PAYLOADS */
};

struct mcr_transmit {
	struct mcr_sender *senders; /* MCR_MAX_OUTPUTS */
	struct iovec *payloads;	    /* MCR_GATHER_PAYLOADS for each sender */
	uint32_t *dirty;	    /* slots with payloads gathered */
	uint32_t dirty_count;
	uint64_t now_ns;
};

int mcr_transmit__init(struct mcr_transmit *transmit, struct mcr_output_counters *counters);
void mcr_transmit__free(struct mcr_transmit *transmit);
void mcr_transmit__attach(struct mcr_transmit *transmit, uint32_t slot, int fd, int ip_version);
/* Gather one payload; it must stay where it is until the flush. */
void mcr_transmit__add(struct mcr_transmit *transmit, uint32_t slot, uint8_t ttl,
		       const uint8_t *payload, uint32_t bytes);
void mcr_transmit__flush(struct mcr_transmit *transmit);

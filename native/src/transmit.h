/*
 * Sending: payloads that can leave in one call gather in a lane within a batch.
 *
 * A lane leaves (depart.c) through a UDP socket (udp.c), or as whole packets (ethernet.c).  Lanes
 * that gathered a single payload leave together, as packets of one call.
 */
#pragma once

#include "../mcr.h"
#include "trace.h"

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

/* UDP_MAX_SEGMENTS in linux/udp.h is 64 before Linux 6.9 and 128 since. */
#define MCR_GATHER_PAYLOADS 64
/* 65,535 minus the headers of IPv4 and UDP: what one UDP_SEGMENT call may carry. */
#define MCR_GATHER_BYTES 65507
#define MCR_LANES 4096

/* What must be equal for payloads to leave in one call; unused bytes are zero, so that it can be
 * compared. */
struct mcr_flow {
	uint8_t address[16];
	uint8_t source[16]; /* only in whole packets */
	uint16_t port;
	uint16_t source_port;
	uint8_t ttl;
	uint8_t dscp;
	uint16_t reserved;
};

struct mcr_lane {
	struct mcr_flow flow;
	uint32_t slot; /* of the output that gathers here */
	uint16_t gathered;
	bool dirty;
	uint32_t bytes;
	uint32_t segment_bytes; /* length of the first payload */
	struct iovec payloads[MCR_GATHER_PAYLOADS];
};

struct mcr_sender {
	int fd;		    /* a UDP socket; -1: none */
	uint8_t source[16]; /* that it sends from */
	uint16_t source_port;
	uint16_t ip_id;		      /* of the next packet (RFC 791) */
	uint16_t ip_id_step;	      /* 0: none has left */
	uint32_t segment_bytes_limit; /* longer ones did not fit the path in one segment */
	uint64_t longer_at_ns;	      /* when they are tried again */
	uint64_t by_stack_until_ns;   /* as one was too long for the link */
	uint64_t retry_at_ns;
	uint64_t backoff_ns;
	uint64_t allowed_at_ns; /* when the rate limit has room again */
	const struct mcr_output *output;
	struct mcr_output_counters *counters;
};

struct mcr_transmit {
	struct mcr_sender *senders; /* MCR_MAX_OUTPUTS */
	struct mcr_lane *lanes;	    /* MCR_LANES */
	uint32_t *dirty;	    /* lanes with payloads */
	uint32_t dirty_count;
	int packet_fds[MCR_PRIORITIES]; /* by which whole packets leave, -1: none */
	bool super_packets_refused;	/* by them, but not by a UDP socket */
	uint64_t now_ns;
	/* Workers may fragment for the same source and destination at the same time: each has the
	 * identifications with its own remainder. */
	uint16_t ip_id_remainder;
	uint16_t ip_id_step; /* a power of two, so that they go round without overlap */
	struct mcr_tracer tracer;
};

int mcr_transmit__init(struct mcr_transmit *transmit, struct mcr_shared *shared);
void mcr_transmit__free(struct mcr_transmit *transmit);
void mcr_transmit__set_number(struct mcr_transmit *transmit, uint32_t worker, uint32_t workers);
void mcr_transmit__attach(struct mcr_transmit *transmit, uint32_t slot, int fd,
			  const uint8_t source[16], uint16_t source_port);
void mcr_transmit__detach(struct mcr_transmit *transmit, uint32_t slot);
/* Gather a datagram, in pieces of segment_bytes unless that is 0, for one output of the table in
 * use.  The payload must stay where it is until the flush. */
void mcr_transmit__add(struct mcr_transmit *transmit, const struct mcr_output *output,
		       const struct mcr_datagram *datagram, uint32_t segment_bytes);
void mcr_transmit__flush(struct mcr_transmit *transmit);

/* ---- depart.c ---- */

/* Empty one lane. */
void mcr_depart__lane(struct mcr_transmit *transmit, struct mcr_lane *lane);
/* Empty all that are dirty. */
void mcr_depart__all(struct mcr_transmit *transmit);

/* ---- udp.c and ethernet.c: each gives a count of payloads sent, or a negative errno ---- */

/* All payloads of the lane in one call. */
int mcr_udp__send_segments(const struct mcr_sender *sender, const struct mcr_lane *lane);
int mcr_ethernet__send_segments(struct mcr_transmit *transmit, const struct mcr_lane *lane);
/* Payloads from "first" on, each as a datagram of its own; the errno is that of the first. */
int mcr_udp__send_singly(const struct mcr_sender *sender, const struct mcr_lane *lane,
			 uint32_t first);
int mcr_ethernet__send_singly(struct mcr_transmit *transmit, const struct mcr_lane *lane,
			      uint32_t first);
/* The single payloads of up to MCR_GATHER_PAYLOADS lanes of one priority, none of which needs
 * fragments. */
int mcr_ethernet__send_together(struct mcr_transmit *transmit, struct mcr_lane *const *lanes,
				uint32_t count);
/* By which of the packet sockets a lane leaves. */
uint32_t mcr_ethernet__priority(const struct mcr_output *output, const struct mcr_lane *lane);
bool mcr_ethernet__needs_fragments(const struct mcr_output *output, uint32_t payload_bytes);

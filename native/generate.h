/*
 * The C interface of mcrgen: makes datagrams that can be told apart, and measures what became of
 * them. The C compiler and cffi read this same file, so it holds only declarations and "#define
 * NAME NUMBER".
 *
 * A datagram, byte for byte; numbers are big-endian:
 *
 *    0  4  magic, "mcrg"
 *    4  1  version, 2
 *    5  1  reserved, 0
 *    6  2  flow: number of the destination, 0 for the first
 *    8  8  sequence number within the flow, from 0
 *   16  8  send time, nanoseconds of CLOCK_REALTIME
 *   24  8  datagrams that the flow is meant to have, 0 while the sender does not know
 *   32  4  length of the datagram, this header included
 *   36  4  check: mcr_check__header() over bytes 0 to 35
 *   40     pattern number (flow + sequence number) % MCR_PATTERNS: what follows in a fixed stream
 * of pseudorandom bytes from that many times MCR_PATTERN_STEP on
 *
 * So nothing is made for each datagram, and all patterns together are hardly longer than one. Their
 * number is prime: datagrams whose places in a ring or a batch differ by a power of two have
 * different ones.
 *
 * Times are nanoseconds.  Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
 * Errors: functions return 0, a count, or a negative errno.
 */
#pragma once

#include <stdint.h>

#define MCR_GENERATED_HEADER_BYTES 40
#define MCR_GENERATED_MAX_BYTES 65507
#define MCR_MAX_FLOWS 65536
#define MCR_PATTERNS 31
#define MCR_PATTERN_STEP 64

/* Write one datagram of the given length, at least MCR_GENERATED_HEADER_BYTES. */
void mcr_generated__write(uint8_t *at, uint32_t bytes, uint16_t flow, uint64_t sequence,
			  uint64_t total, uint64_t sent_ns);

/* ---- send ---- */

#define MCR_SEND_ERRNOS 134
#define MCR_SEND_NAME_BYTES 28
#define MCR_SEND_HEAD_BYTES 80

struct mcr_send;

struct mcr_send_flow {
	uint64_t total;	     /* datagrams to send, 0: until mcr_send__finish() */
	uint32_t name_bytes; /* 0: the socket is connected or bound to its destination */
	uint32_t head_bytes; /* 0: the kernel makes the headers */
	uint8_t name[MCR_SEND_NAME_BYTES]; /* struct sockaddr_in or sockaddr_in6 */
	/* struct virtio_net_hdr, Ethernet, IP and UDP header, with the sum of the pseudo header as
	 * UDP checksum. */
	uint8_t head[MCR_SEND_HEAD_BYTES];
};

struct mcr_send_plan {
	double rate_pps; /* datagrams of all flows together, 0: as fast as it goes */
	int32_t fd;	 /* stays the caller's */
	uint32_t flows;
	uint32_t payload_bytes;
	uint32_t segments; /* datagrams per message, above 1 only with UDP_SEGMENT set on fd */
};

/* In datagrams: sent + not_sent == all that were due; not_sent == sum(errors). */
struct mcr_send_tally {
	uint64_t sent;
	uint64_t not_sent;
	uint64_t bytes; /* UDP payload */
	uint64_t first_ns;
	uint64_t last_ns;      /* CLOCK_MONOTONIC, of the first and the last burst */
	uint64_t worst_lag_ns; /* longest delay of a datagram behind its time */
	uint64_t retries;      /* times that the kernel had no buffer and was asked again */
	uint64_t errors[MCR_SEND_ERRNOS];
};

/* NULL with errno set: EINVAL for a plan that contradicts itself, ENOMEM. */
struct mcr_send *mcr_send__new(const struct mcr_send_plan *plan, const struct mcr_send_flow *flows);
void mcr_send__free(struct mcr_send *send);
/* Send for slice_ns at most.  Returns 1 while there is more to send, else 0. */
int mcr_send__run(struct mcr_send *send, uint64_t slice_ns);
/* Let every flow without a total end with one more datagram, which carries its total. */
void mcr_send__finish(struct mcr_send *send);
const struct mcr_send_tally *mcr_send__tally(const struct mcr_send *send);

/* ---- measure ---- */

#define MCR_LATENCY_BUCKETS 3776
#define MCR_MEASURE_WINDOW 1048576

struct mcr_measure;

struct mcr_measure_plan {
	uint64_t stop_after; /* distinct datagrams after which receiving is done, 0: never */
	uint32_t flows;	     /* destinations, consecutive from first on */
	uint32_t by_flow;    /* nonzero: flows are told by number, not by destination */
	uint32_t sources;    /* allowed senders, 0: all */
	uint32_t has_first;  /* zero: the socket is bound to the only destination */
	uint8_t first[16];
};

/* received == distinct + duplicated + stale; every datagram is in exactly one of received,
 * corrupted, foreign and misdirected. */
struct mcr_measure_tally {
	uint64_t received;
	uint64_t distinct;
	uint64_t duplicated;
	/* More than MCR_MEASURE_WINDOW behind: perhaps seen before, so not distinct. */
	uint64_t stale;
	uint64_t reordered; /* distinct, behind a later one */
	uint64_t corrupted; /* ours, but header, length or pattern are wrong */
	uint64_t foreign; /* not from mcrgen, or from a sender or for a destination not asked for */
	uint64_t misdirected; /* of another flow than the first datagram at this destination */
	uint64_t bytes;	      /* UDP payload of the received ones */
	/* CLOCK_REALTIME at which the kernel had the first and the last received one. */
	uint64_t first_ns;
	uint64_t last_ns;
	uint64_t messages; /* of the socket: fewer than datagrams where the kernel merged some */
	uint64_t clock_behind; /* received before they were sent: the clocks differ */
	uint64_t latency_max_ns;
	uint64_t latency[MCR_LATENCY_BUCKETS];
};

struct mcr_measure_flow {
	uint64_t total; /* as intended by the sender, 0 unknown */
	uint64_t first; /* lowest and highest sequence number seen, the latter plus one */
	uint64_t next;
	uint64_t distinct;
	uint32_t flow; /* number in the datagrams */
	uint32_t is_heard;
};

/* The arrays are copied.  NULL with errno set: EINVAL, ENOMEM. */
struct mcr_measure *mcr_measure__new(const struct mcr_measure_plan *plan, const uint8_t *sources);
void mcr_measure__free(struct mcr_measure *measure);
/* Receive for slice_ns at most (plus the socket's receive timeout).  Returns 1 once stop_after is
 * reached, 0 before, or a negative errno. */
int mcr_measure__receive(struct mcr_measure *measure, int fd, uint64_t slice_ns);
/* Account for one datagram that came to a destination, counted from the first. */
void mcr_measure__take(struct mcr_measure *measure, const uint8_t *bytes, uint32_t length,
		       uint32_t destination, uint64_t arrived_ns);
const struct mcr_measure_tally *mcr_measure__tally(const struct mcr_measure *measure);
const struct mcr_measure_flow *mcr_measure__flow(const struct mcr_measure *measure,
						 uint32_t destination);
/* Datagrams missing at one destination: up to the intended total if it is known, else gaps only.  A
 * destination where nothing came misses the smallest total that another one announced. */
uint64_t mcr_measure__lost(const struct mcr_measure *measure, uint32_t destination);
/* Datagrams missing below the highest one seen, at one destination and at all of them. */
uint64_t mcr_measure__gaps(const struct mcr_measure *measure, uint32_t destination);
uint64_t mcr_measure__all_gaps(const struct mcr_measure *measure);

/* Log-linear: exact below 64, then 64 buckets per power of two. */
uint32_t mcr_latency__bucket(uint64_t ns);
/* The smallest value of a bucket, and the smallest of the next. */
uint64_t mcr_latency__lower_bound(uint32_t bucket);

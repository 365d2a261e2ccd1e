/* Receive numbered datagrams from a socket, and tell where each was sent to and when it came. */
#include "measure.h"

#include "pattern.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define SECOND_NS 1000000000ull
/* A merged message holds up to 64 KiB.  The odd rest keeps the buffers' beginnings in different
 * cache sets. */
#define BUFFER_BYTES (65536 + 17 * 64)
/* What one call brings should still be in a core's cache when it is looked at. */
#define CALL_BYTES (128u << 10)
/* Above this rate it waits on purpose before it looks again.  A receiver that is woken for every
 * datagram takes the CPU away from what it measures; arrival times come from the kernel, so waiting
 * does not show in them. */
#define BUSY_PPS 20000
#define NAP_NS 200000ull
#define RATE_SPAN_NS 10000000ull

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* What the kernel says about one message. */
struct arrival {
	uint64_t arrived_ns;
	uint32_t segment_bytes;
	uint32_t destination; /* counted from the first, at least plan.flows if not asked for */
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static bool allocate(struct mcr_measure *measure, const uint8_t *sources)
{
	const struct mcr_measure_plan *plan = &measure->plan;

	measure->flows = calloc(plan->flows, sizeof(*measure->flows));
	/* 128 KiB per flow, of which only touched pages are ever real. */
	measure->windows = calloc((size_t)plan->flows * WINDOW_WORDS, sizeof(uint64_t));
	measure->sources = calloc(plan->sources + 1, 16);
	measure->buffers = malloc((size_t)BATCH * BUFFER_BYTES);
	measure->controls = calloc(BATCH, CONTROL_BYTES);
	measure->patterns = mcr_patterns__new(LONGEST_PATTERN);
	if (!measure->flows || !measure->windows || !measure->sources || !measure->buffers ||
	    !measure->controls || !measure->patterns)
		return false;
	if (plan->sources)
		memcpy(measure->sources, sources, 16 * (size_t)plan->sources);
	return true;
}

struct mcr_measure *mcr_measure__new(const struct mcr_measure_plan *plan, const uint8_t *sources)
{
	struct mcr_measure *measure;

	if (!plan->flows || plan->flows > MCR_MAX_FLOWS ||
	    (plan->flows > 1 && !plan->has_first && !plan->by_flow)) {
		errno = EINVAL;
		return NULL;
	}
	measure = calloc(1, sizeof(*measure));
	if (!measure)
		return NULL;
	measure->plan = *plan;
	if (!allocate(measure, sources)) {
		mcr_measure__free(measure);
		errno = ENOMEM;
		return NULL;
	}
	prctl(PR_SET_TIMERSLACK, 1);
	return measure;
}

void mcr_measure__free(struct mcr_measure *measure)
{
	if (!measure)
		return;
	free(measure->flows);
	free(measure->windows);
	free(measure->sources);
	free(measure->buffers);
	free(measure->controls);
	free(measure->patterns);
	free(measure);
}

/* ---- the socket ---- */

static void map_v4(uint8_t address[16], const struct in_addr *v4)
{
	memset(address, 0, 10);
	memset(address + 10, 0xFF, 2);
	memcpy(address + 12, v4, 4);
}

static uint32_t destination_of(const struct mcr_measure *measure, const uint8_t address[16])
{
	unsigned __int128 value = 0, first = 0;

	for (int i = 0; i < 16; i++) {
		value = value << 8 | address[i];
		first = first << 8 | measure->plan.first[i];
	}
	return value - first < measure->plan.flows ? (uint32_t)(value - first) : UINT32_MAX;
}

static void read_control(const struct mcr_measure *measure, struct cmsghdr *control,
			 struct arrival *arrival)
{
	uint8_t address[16];
	int value;

	if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_TIMESTAMPNS) {
		struct timespec time;

		memcpy(&time, CMSG_DATA(control), sizeof(time));
		arrival->arrived_ns = time.tv_sec * SECOND_NS + time.tv_nsec;
	} else if (control->cmsg_level == IPPROTO_UDP && control->cmsg_type == UDP_GRO) {
		memcpy(&value, CMSG_DATA(control), sizeof(value));
		if (value > 0)
			arrival->segment_bytes = value;
	} else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
		map_v4(address, &((struct in_pktinfo *)CMSG_DATA(control))->ipi_addr);
		arrival->destination = destination_of(measure, address);
	} else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
		arrival->destination = destination_of(measure, CMSG_DATA(control));
	}
}

static bool source_is_allowed(const struct mcr_measure *measure, const struct sockaddr_in6 *name)
{
	uint8_t address[16];

	if (!measure->plan.sources)
		return true;
	if (name->sin6_family == AF_INET)
		map_v4(address, &((const struct sockaddr_in *)name)->sin_addr);
	else
		memcpy(address, &name->sin6_addr, 16);
	for (uint32_t i = 0; i < measure->plan.sources; i++)
		if (!memcmp(measure->sources[i], address, 16))
			return true;
	return false;
}

static void take_message(struct mcr_measure *measure, uint32_t index, uint64_t now_ns)
{
	struct msghdr *message = &measure->messages[index].msg_hdr;
	uint32_t length = measure->messages[index].msg_len;
	const uint8_t *bytes = measure->vectors[index].iov_base;
	struct arrival arrival = {
		.arrived_ns = now_ns,
		.segment_bytes = length,
		.destination = measure->plan.has_first ? UINT32_MAX : 0,
	};

	for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control;
	     control = CMSG_NXTHDR(message, control))
		read_control(measure, control, &arrival);
	measure->tally.messages++;
	do {
		uint32_t part = length < arrival.segment_bytes ? length : arrival.segment_bytes;

		if (source_is_allowed(measure, message->msg_name))
			mcr_measure__take(measure, bytes, part, arrival.destination,
					  arrival.arrived_ns);
		else
			measure->tally.foreign++;
		bytes += part;
		length -= part;
	} while (length);
}

/* As many messages as fit CALL_BYTES if they are as long as the last. */
static uint32_t messages_per_call(const struct mcr_measure *measure)
{
	uint32_t fitting = CALL_BYTES / (measure->messages[0].msg_len | 1);

	return fitting < BATCH ? fitting : BATCH;
}

static int take_batch(struct mcr_measure *measure, int fd, uint32_t wanted)
{
	int count;

	for (uint32_t i = 0; i < wanted; i++) {
		measure->vectors[i] =
			(struct iovec){ measure->buffers + (size_t)i * BUFFER_BYTES, BUFFER_BYTES };
		measure->messages[i].msg_hdr = (struct msghdr){
			.msg_name = &measure->names[i],
			.msg_namelen = sizeof(measure->names[i]),
			.msg_iov = &measure->vectors[i],
			.msg_iovlen = 1,
			.msg_control = measure->controls[i],
			.msg_controllen = CONTROL_BYTES,
		};
	}
	count = recvmmsg(fd, measure->messages, wanted, MSG_WAITFORONE, NULL);
	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (int i = 0; i < count; i++)
		take_message(measure, i, clock_ns(CLOCK_REALTIME));
	return count;
}

static void judge_rate(struct mcr_measure *measure, uint64_t now)
{
	const struct mcr_measure_tally *tally = &measure->tally;
	uint64_t seen = tally->received + tally->corrupted + tally->foreign + tally->misdirected;
	uint64_t span = now - measure->rate_since_ns;

	if (span < RATE_SPAN_NS)
		return;
	measure->is_busy = (seen - measure->rate_from) * SECOND_NS / span > BUSY_PPS;
	measure->rate_since_ns = now;
	measure->rate_from = seen;
}

int mcr_measure__receive(struct mcr_measure *measure, int fd, uint64_t slice_ns)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), until = now + slice_ns;
	const struct timespec nap = { .tv_nsec = NAP_NS };

	while (now < until) {
		uint32_t wanted = messages_per_call(measure);
		int count = take_batch(measure, fd, wanted);

		if (count < 0)
			return count;
		if (measure->plan.stop_after && measure->tally.distinct >= measure->plan.stop_after)
			return 1;
		now = clock_ns(CLOCK_MONOTONIC);
		judge_rate(measure, now);
		if (measure->is_busy && count < (int)wanted)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
	}
	return 0;
}

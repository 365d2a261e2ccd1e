/* Make traffic: paced bursts of numbered datagrams, the flows interleaved one by one. */
#include "generated.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define BURST 64
#define SECOND_NS 1000000000ull
/* A sleep wakes up late by about this much, so it ends this much earlier. */
#define WAKE_NS 50000ull
#define SHORTEST_SLEEP_NS 10000ull
/* A queue that stays full for 200 x 50 us is not going to empty for this datagram. */
#define PATIENCE 200
#define PRESSURE_SLEEP_NS 50000ull
/* Datagrams begin this far into their slot, so that their headers fit in front and the pattern is
 * aligned. */
#define HEAD_ROOM MCR_SEND_HEAD_BYTES

static_assert(sizeof(struct sockaddr_in6) == MCR_SEND_NAME_BYTES,
	      "a name holds either address family");

struct flow {
	struct mcr_send_flow plan;
	uint64_t next;
};

struct mcr_send {
	struct mcr_send_plan plan;
	struct mcr_send_tally tally;
	struct flow *flows;
	uint32_t turn;	     /* flow of the next message */
	uint32_t open_flows; /* with something left to send */
	uint64_t scheduled;  /* datagrams handed to the kernel, taken or not */
	uint64_t start_ns;   /* CLOCK_MONOTONIC */
	uint64_t slot_bytes;
	uint8_t *slots;
	uint32_t datagrams[BURST];
	struct mmsghdr messages[BURST];
	struct iovec vectors[BURST];
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec time = { .tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS };

	/* Woken early by a signal is fine: the caller looks at the clock again. */
	clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

void mcr_generated__write(uint8_t *at, uint32_t bytes, uint16_t flow, uint64_t sequence,
			  uint64_t total, uint64_t sent_ns)
{
	struct mcr_generated header = {
		.magic = htobe32(MCR_GENERATED_MAGIC),
		.version = MCR_GENERATED_VERSION,
		.flow = htobe16(flow),
		.sequence = htobe64(sequence),
		.sent_ns = htobe64(sent_ns),
		.total = htobe64(total),
		.bytes = htobe32(bytes),
	};

	header.check = htobe32(mcr_check__header(&header));
	memcpy(at, &header, sizeof(header));
	mcr_pattern__fill(at + sizeof(header), bytes - sizeof(header),
			  mcr_pattern__seed(flow, sequence));
}

static bool plan_is_sound(const struct mcr_send_plan *plan, const struct mcr_send_flow *flows)
{
	if (!plan->flows || plan->flows > MCR_MAX_FLOWS || !plan->segments ||
	    !(plan->rate_pps >= 0) || plan->payload_bytes < MCR_GENERATED_HEADER_BYTES ||
	    (uint64_t)plan->payload_bytes * plan->segments > MCR_GENERATED_MAX_BYTES)
		return false;
	for (uint32_t i = 0; i < plan->flows; i++)
		if (flows[i].name_bytes > MCR_SEND_NAME_BYTES || flows[i].head_bytes > HEAD_ROOM ||
		    (flows[i].head_bytes && plan->segments > 1))
			return false;
	return true;
}

struct mcr_send *mcr_send__new(const struct mcr_send_plan *plan, const struct mcr_send_flow *flows)
{
	struct mcr_send *send;

	if (!plan_is_sound(plan, flows)) {
		errno = EINVAL;
		return NULL;
	}
	send = calloc(1, sizeof(*send));
	if (!send)
		return NULL;
	send->plan = *plan;
	/* Whole cache lines, an odd number of them, so that the slots do not share cache sets. */
	send->slot_bytes =
		((HEAD_ROOM + (uint64_t)plan->payload_bytes * plan->segments + 63) / 64 | 1) * 64;
	send->slots = aligned_alloc(64, BURST * send->slot_bytes);
	send->flows = calloc(plan->flows, sizeof(*send->flows));
	if (!send->slots || !send->flows) {
		mcr_send__free(send);
		errno = ENOMEM;
		return NULL;
	}
	for (uint32_t i = 0; i < plan->flows; i++)
		send->flows[i].plan = flows[i];
	send->open_flows = plan->flows;
	/* The default slack of 50 us would make every datagram of a slow flow late. */
	prctl(PR_SET_TIMERSLACK, 1);
	return send;
}

void mcr_send__free(struct mcr_send *send)
{
	if (!send)
		return;
	free(send->slots);
	free(send->flows);
	free(send);
}

/* ---- one message ---- */

/* Fold the ones' complement sum of the payload into the pseudo header's that the head carries (RFC
 * 768). */
static void finish_checksum(uint8_t *head, uint32_t head_bytes, const uint8_t *payload,
			    uint32_t bytes)
{
	uint8_t *field = head + head_bytes - 2;
	uint64_t sum = 0;
	uint16_t half;
	uint32_t i;

	for (i = 0; i + 4 <= bytes; i += 4) {
		uint32_t word;

		memcpy(&word, payload + i, 4);
		sum += word;
	}
	for (; i < bytes; i++)
		sum += htole16((uint16_t)(payload[i] << 8 * (i & 1)));
	memcpy(&half, field, 2);
	sum += half;
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	half = ~sum;
	/* Zero means "no checksum". */
	half = half ? half : 0xFFFF;
	memcpy(field, &half, 2);
}

static void write_message(struct mcr_send *send, uint32_t index, struct flow *flow,
			  uint32_t datagrams, uint64_t sent_ns)
{
	uint8_t *payload = send->slots + index * send->slot_bytes + HEAD_ROOM;
	uint32_t bytes = send->plan.payload_bytes, head_bytes = flow->plan.head_bytes;

	for (uint32_t i = 0; i < datagrams; i++)
		mcr_generated__write(payload + (size_t)i * bytes, bytes, flow - send->flows,
				     flow->next + i, flow->plan.total, sent_ns);
	if (head_bytes) {
		memcpy(payload - head_bytes, flow->plan.head, head_bytes);
		finish_checksum(payload - head_bytes, head_bytes, payload, bytes);
	}
	send->vectors[index] =
		(struct iovec){ payload - head_bytes, head_bytes + (size_t)datagrams * bytes };
	send->messages[index].msg_hdr = (struct msghdr){
		.msg_name = flow->plan.name_bytes ? flow->plan.name : NULL,
		.msg_namelen = flow->plan.name_bytes,
		.msg_iov = &send->vectors[index],
		.msg_iovlen = 1,
	};
	send->datagrams[index] = datagrams;
}

static bool is_open(const struct flow *flow)
{
	return !flow->plan.total || flow->next < flow->plan.total;
}

/* The next flow in turn that has something to send; the caller knows that there is one. */
static struct flow *take_turn(struct mcr_send *send)
{
	struct flow *flow;

	do {
		flow = &send->flows[send->turn];
		send->turn = send->turn + 1 == send->plan.flows ? 0 : send->turn + 1;
	} while (!is_open(flow));
	return flow;
}

/* Write up to the given number of messages; give how many there are. */
static uint32_t write_burst(struct mcr_send *send, uint64_t messages)
{
	uint64_t sent_ns = clock_ns(CLOCK_REALTIME);
	uint32_t index;

	for (index = 0; index < messages && index < BURST && send->open_flows; index++) {
		struct flow *flow = take_turn(send);
		uint64_t left = flow->plan.total ? flow->plan.total - flow->next : UINT64_MAX;
		uint32_t datagrams = left < send->plan.segments ? left : send->plan.segments;

		write_message(send, index, flow, datagrams, sent_ns);
		flow->next += datagrams;
		send->scheduled += datagrams;
		send->open_flows -= !is_open(flow);
	}
	return index;
}

/* ---- bursts ---- */

static bool is_pressure(int error)
{
	return error == ENOBUFS || error == EAGAIN || error == EINTR;
}

static void count_sent(struct mcr_send *send, uint32_t index)
{
	send->tally.sent += send->datagrams[index];
	send->tally.bytes += (uint64_t)send->datagrams[index] * send->plan.payload_bytes;
}

static void count_failed(struct mcr_send *send, uint32_t index, int error)
{
	send->tally.not_sent += send->datagrams[index];
	send->tally.errors[error < MCR_SEND_ERRNOS ? error : 0] += send->datagrams[index];
}

static void send_burst(struct mcr_send *send, uint32_t count)
{
	uint32_t index = 0, waits = 0;

	while (index < count) {
		int taken = sendmmsg(send->plan.fd, send->messages + index, count - index, 0);

		if (taken > 0) {
			while (taken--)
				count_sent(send, index++);
			waits = 0;
		} else if (is_pressure(errno) && waits++ < PATIENCE) {
			send->tally.retries++;
			sleep_ns(PRESSURE_SLEEP_NS);
		} else {
			count_failed(send, index++, errno);
			waits = 0;
		}
	}
}

/* ---- pace ---- */

static void relax(void)
{
#ifdef __x86_64__
	__builtin_ia32_pause();
#endif
}

/* The time at which the n-th datagram is due. */
static uint64_t due_ns(const struct mcr_send *send, uint64_t datagram)
{
	return send->start_ns + (uint64_t)((double)datagram * SECOND_NS / send->plan.rate_pps);
}

static uint64_t messages_due(struct mcr_send *send, uint64_t now)
{
	uint64_t due, since;

	if (send->plan.rate_pps == 0)
		return BURST;
	/* The first message is due at once, so the schedule is one message ahead of the clock. */
	due = (uint64_t)((double)(now - send->start_ns) * send->plan.rate_pps / SECOND_NS) +
	      send->plan.segments;
	if (due < send->scheduled + send->plan.segments)
		return 0;
	since = due_ns(send, send->scheduled);
	if (now > since && now - since > send->tally.worst_lag_ns)
		send->tally.worst_lag_ns = now - since;
	return (due - send->scheduled) / send->plan.segments;
}

static void wait_for_next(const struct mcr_send *send, uint64_t now, uint64_t until)
{
	uint64_t next = due_ns(send, send->scheduled);

	if (next > until)
		next = until;
	if (next > now + WAKE_NS + SHORTEST_SLEEP_NS)
		sleep_ns(next - now - WAKE_NS);
	else
		relax();
}

int mcr_send__run(struct mcr_send *send, uint64_t slice_ns)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), until = now + slice_ns;

	if (!send->start_ns) {
		send->start_ns = now;
		send->tally.first_ns = now;
	}
	while (send->open_flows && now < until) {
		uint64_t messages = messages_due(send, now);

		if (messages) {
			send_burst(send, write_burst(send, messages));
			send->tally.last_ns = now;
		} else {
			wait_for_next(send, now, until);
		}
		now = clock_ns(CLOCK_MONOTONIC);
	}
	return send->open_flows > 0;
}

void mcr_send__finish(struct mcr_send *send)
{
	for (uint32_t i = 0; i < send->plan.flows; i++)
		if (!send->flows[i].plan.total)
			send->flows[i].plan.total = send->flows[i].next + 1;
}

const struct mcr_send_tally *mcr_send__tally(const struct mcr_send *send)
{
	return &send->tally;
}

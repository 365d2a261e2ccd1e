/* Make traffic: paced bursts of numbered datagrams, the flows interleaved one by one. */
#include "checksum.h"
#include "generated.h"
#include "pattern.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

/* Datagrams that are stamped and handed over together, unless a single message has more. */
#define BURST 64
#define SECOND_NS 1000000000ull
/* A sleep wakes up late by about this much, so it ends this much earlier. */
#define WAKE_NS 50000ull
#define SHORTEST_SLEEP_NS 10000ull
/* A queue that stays full for 200 x 50 us is not going to empty for this datagram. */
#define PATIENCE 200
#define PRESSURE_SLEEP_NS 50000ull
#define HEADER_BYTES MCR_GENERATED_HEADER_BYTES

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
	uint8_t *patterns;
	uint32_t pattern_bytes;
	uint64_t pattern_sums[MCR_PATTERNS]; /* ones' complement */
	uint32_t turn;			     /* flow of the next message */
	uint32_t open_flows;		     /* with something left to send */
	uint64_t scheduled;		     /* datagrams handed to the kernel, taken or not */
	uint64_t start_ns;		     /* CLOCK_MONOTONIC */
	uint32_t most_messages;		     /* of a burst */
	uint32_t slot_bytes;
	uint8_t *slots;	       /* of each message: its head, and the headers of its datagrams */
	struct iovec *vectors; /* of each message: header and pattern of each datagram */
	uint32_t datagrams[BURST];
	struct mmsghdr messages[BURST];
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

static void write_header(uint8_t *at, uint32_t bytes, uint16_t flow, uint64_t sequence,
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
}

void mcr_generated__write(uint8_t *at, uint32_t bytes, uint16_t flow, uint64_t sequence,
			  uint64_t total, uint64_t sent_ns)
{
	write_header(at, bytes, flow, sequence, total, sent_ns);
	mcr_pattern__write(at + HEADER_BYTES, bytes - HEADER_BYTES,
			   mcr_pattern__number(flow, sequence));
}

static bool plan_is_sound(const struct mcr_send_plan *plan, const struct mcr_send_flow *flows)
{
	if (!plan->flows || plan->flows > MCR_MAX_FLOWS || !plan->segments ||
	    !(plan->rate_pps >= 0) || plan->payload_bytes < MCR_GENERATED_HEADER_BYTES ||
	    (uint64_t)plan->payload_bytes * plan->segments > MCR_GENERATED_MAX_BYTES)
		return false;
	for (uint32_t i = 0; i < plan->flows; i++)
		if (flows[i].name_bytes > MCR_SEND_NAME_BYTES ||
		    flows[i].head_bytes > MCR_SEND_HEAD_BYTES ||
		    (flows[i].head_bytes && plan->segments > 1))
			return false;
	return true;
}

static bool allocate_send(struct mcr_send *send)
{
	const struct mcr_send_plan *plan = &send->plan;

	send->slot_bytes = MCR_SEND_HEAD_BYTES + HEADER_BYTES * plan->segments;
	send->slots = calloc(send->most_messages, send->slot_bytes);
	send->vectors =
		calloc((size_t)send->most_messages * plan->segments, 2 * sizeof(*send->vectors));
	send->flows = calloc(plan->flows, sizeof(*send->flows));
	send->patterns = mcr_patterns__new(send->pattern_bytes);
	if (!send->slots || !send->vectors || !send->flows || !send->patterns)
		return false;
	for (uint32_t i = 0; i < MCR_PATTERNS; i++)
		send->pattern_sums[i] = mcr_checksum__add(0, mcr_pattern__in(send->patterns, i),
							  send->pattern_bytes);
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
	send->pattern_bytes = plan->payload_bytes - HEADER_BYTES;
	send->most_messages = plan->segments < BURST ? BURST / plan->segments : 1;
	if (!allocate_send(send)) {
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
	free(send->patterns);
	free(send->slots);
	free(send->vectors);
	free(send->flows);
	free(send);
}

/* ---- one message ---- */

/* Fold what follows into the sum of the pseudo header that the head carries (RFC 768). */
static void finish_checksum(uint8_t *field, const uint8_t *header, uint64_t pattern_sum)
{
	uint16_t half;
	uint32_t sum;

	memcpy(&half, field, 2);
	sum = mcr_checksum__fold(mcr_checksum__add(pattern_sum + half, header, HEADER_BYTES));
	/* Zero means "no checksum". */
	half = sum == 0xFFFF ? 0xFFFF : (uint16_t)~sum;
	memcpy(field, &half, 2);
}

static void write_message(struct mcr_send *send, uint32_t index, struct flow *flow,
			  uint32_t datagrams, uint64_t sent_ns)
{
	uint8_t *headers = send->slots + (size_t)index * send->slot_bytes + MCR_SEND_HEAD_BYTES;
	struct iovec *vectors = send->vectors + (size_t)index * 2 * send->plan.segments;
	uint16_t flow_number = (uint16_t)(flow - send->flows);
	uint32_t head_bytes = flow->plan.head_bytes, number = 0;

	for (uint32_t i = 0; i < datagrams; i++) {
		uint8_t *header = headers + (size_t)i * HEADER_BYTES;

		number = mcr_pattern__number(flow_number, flow->next);
		write_header(header, send->plan.payload_bytes, flow_number, flow->next++,
			     flow->plan.total, sent_ns);
		vectors[2 * i] = (struct iovec){ header, HEADER_BYTES };
		vectors[2 * i + 1] = (struct iovec){ mcr_pattern__in(send->patterns, number),
						     send->pattern_bytes };
	}
	/* Then it is the only one of its message. */
	if (head_bytes) {
		memcpy(headers - head_bytes, flow->plan.head, head_bytes);
		finish_checksum(headers - 2, headers, send->pattern_sums[number]);
		vectors[0] = (struct iovec){ headers - head_bytes, head_bytes + HEADER_BYTES };
	}
	send->messages[index].msg_hdr = (struct msghdr){
		.msg_name = flow->plan.name_bytes ? flow->plan.name : NULL,
		.msg_namelen = flow->plan.name_bytes,
		.msg_iov = vectors,
		.msg_iovlen = 2 * datagrams,
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

	for (index = 0; index < messages && index < send->most_messages && send->open_flows;
	     index++) {
		struct flow *flow = take_turn(send);
		uint64_t left = flow->plan.total ? flow->plan.total - flow->next : UINT64_MAX;
		uint32_t datagrams = left < send->plan.segments ? left : send->plan.segments;

		write_message(send, index, flow, datagrams, sent_ns);
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
		return send->most_messages;
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

#include "expected.h"

#include "must.h"
#include "plain_table.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define VLAN_ID_MASK 0x0FFF
#define BURST_NS 10000000

void expected__clear(struct expected *expected)
{
	memset(expected, 0, offsetof(struct expected, outputs));
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		memset(&expected->outputs[i], 0, offsetof(struct expected_output, payloads));
}

void expected__start_batch(struct expected *expected, uint64_t now_ns)
{
	expected->now_ns = now_ns;
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		expected->outputs[i].next = expected->outputs[i].count = 0;
}

void expected__attach(struct expected *expected, uint32_t output, const uint8_t source[16],
		      uint16_t source_port)
{
	expected->outputs[output].backlog_ns = 0;
	memcpy(expected->outputs[output].source, source, 16);
	expected->outputs[output].source_port = source_port;
}

/* ---- what a payload leaves with ---- */

static uint8_t ttl_of(const struct mcr_output *output, uint8_t arrived, bool guarded)
{
	switch ((enum mcr_ttl_policy)output->ttl_policy) {
	case MCR_TTL_AUTO:
		if (arrived < 2)
			return guarded ? 0 : 1;
		return (uint8_t)(arrived - 1);
	case MCR_TTL_KEEP:
		return arrived;
	case MCR_TTL_DECREMENT:
		return arrived < 2 ? 0 : (uint8_t)(arrived - 1);
	case MCR_TTL_FIXED:
		return output->ttl;
	}
	abort();
}

static struct expected_flow flow_of(const struct expected_output *to,
				    const struct mcr_datagram *datagram, bool guarded)
{
	const struct mcr_output *output = to->config;
	struct expected_flow flow = { .ttl = ttl_of(output, datagram->ttl, guarded),
				      .dscp = datagram->dscp };

	if (output->dscp_policy == MCR_DSCP_FIXED)
		flow.dscp = output->dscp;
	if (output->engine == MCR_ENGINE_UDP)
		return flow;
	for (uint32_t bit = 0; bit < 128; bit++) {
		const uint8_t *from = bit < output->prefix_bits ? output->address : datagram->group;

		flow.address[bit / 8] |= from[bit / 8] & (0x80 >> bit % 8);
	}
	flow.port = output->port;
	if (!flow.port)
		flow.port = (uint16_t)(datagram->port + output->port_offset);
	if (output->engine == MCR_ENGINE_KEEPING) {
		memcpy(flow.source, datagram->source, 16);
		flow.source_port = datagram->source_port;
	} else if (output->engine == MCR_ENGINE_ETHERNET) {
		memcpy(flow.source, to->source, 16);
		flow.source_port = to->source_port;
	}
	return flow;
}

static bool exceeds_rate(const struct expected *expected, struct expected_output *to,
			 uint32_t payload_bytes)
{
	const struct mcr_output *output = to->config;
	uint64_t passed_ns = expected->now_ns - to->backlog_at_ns;
	uint64_t units = 1;

	if (!output->rate)
		return false;
	if (output->rate_in_bits)
		units = 8 * (payload_bytes + 8 + (output->ipv6 ? 40 : 20));
	to->backlog_ns = to->backlog_ns > passed_ns ? to->backlog_ns - passed_ns : 0;
	to->backlog_at_ns = expected->now_ns;
	if (to->backlog_ns > BURST_NS)
		return true;
	to->backlog_ns += units * 1000000000u / output->rate;
	return false;
}

/* ---- frames ---- */

static void add_payloads(struct expected *expected, const struct mcr_output *output,
			 const struct mcr_datagram *datagram, bool guarded, uint32_t segment_bytes)
{
	struct expected_output *to = &expected->outputs[output->slot];
	struct expected_flow flow;
	uint32_t offset = 0;

	to->config = output;
	flow = flow_of(to, datagram, guarded);
	do {
		uint32_t count = datagram->payload_bytes - offset;

		if (segment_bytes && count > segment_bytes)
			count = segment_bytes;
		to->due++;
		if (!flow.ttl) {
			to->without_ttl++;
		} else if (exceeds_rate(expected, to, count)) {
			to->above_rate++;
		} else {
			must(to->count < EXPECTED_PAYLOADS);
			to->payloads[to->count++] = (struct expected_payload){
				.bytes = datagram->payload + offset, .count = count, .flow = flow
			};
		}
		offset += count;
	} while (offset < datagram->payload_bytes);
}

void expected__install(struct expected *expected, const struct mcr_table *previous,
		       const struct mcr_table *table)
{
	for (uint32_t slot = 0; slot < EXPECTED_RULES; slot++) {
		if (!previous->rule_used[slot] || table->rule_used[slot])
			continue;
		memset(&expected->guards[slot], 0, sizeof(expected->guards[slot]));
		if (expected->loop.rule == slot)
			expected->loop_found = false;
	}
}

/* test_guard.c says what a guard must find. */
static bool is_guarded(struct expected *expected, const struct mcr_rule *rule,
		       const struct mcr_datagram *datagram)
{
	struct mcr_guard *guard = &expected->guards[rule->slot];

	if (datagram->ttl > 1)
		return false;
	if (mcr_guard__found_loop(guard, datagram, expected->now_ns)) {
		expected->loop_found = true;
		expected->loop.rule = rule->slot;
		memcpy(expected->loop.group, datagram->group, 16);
		memcpy(expected->loop.source, datagram->source, 16);
	}
	return mcr_guard__is_on(guard, expected->now_ns);
}

/* The last bucket that begins at or before the time. */
static uint32_t bucket_of(uint64_t elapsed_ns)
{
	uint32_t bucket = 0;

	while (bucket + 1 < MCR_RULE_LATENCY_BUCKETS &&
	       elapsed_ns >= 250 * ((4ull + bucket % 4) << bucket / 4))
		bucket++;
	return bucket;
}

static void match(struct expected *expected, const struct mcr_table *table, uint32_t slot,
		  const struct mcr_rule *rule, const struct mcr_datagram *datagram,
		  const struct fake_frame *frame)
{
	uint32_t segment_bytes = frame->offloads.gso_type == 5 ? frame->offloads.gso_size : 0;
	bool guarded = is_guarded(expected, rule, datagram);
	uint64_t datagrams = 1;

	if (segment_bytes && datagram->payload_bytes)
		datagrams = (datagram->payload_bytes - 1) / segment_bytes + 1;
	expected->interfaces[slot].received += datagrams;
	expected->interfaces[slot].matched += datagrams;
	expected->rules[rule->slot].matched += datagrams;
	expected->rules[rule->slot].bytes += datagram->payload_bytes;
	expected->latencies[rule->slot].buckets[bucket_of(expected->now_ns - frame->received_ns)] +=
		datagrams;
	for (uint32_t i = 0; i < rule->outputs; i++)
		add_payloads(expected, &table->outputs[rule->first_output + i], datagram, guarded,
			     segment_bytes);
}

/* 0, or a reason: -(reason + 1). */
static int parse(const struct fake_frame *frame, uint32_t kept, struct mcr_datagram *datagram)
{
	uint8_t checked = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	struct mcr_packet packet = { .data = frame->bytes + frame->link_bytes,
				     .bytes = kept > frame->link_bytes ? kept - frame->link_bytes :
									 0,
				     .protocol = frame->protocol,
				     .checksum_known = (frame->offloads.flags & checked) != 0 };

	if (frame->pkttype == PACKET_OUTGOING)
		return -(MCR_IGNORED_OWN + 1);
	if (frame->has_vlan && frame->vlan_tci & VLAN_ID_MASK)
		return -(MCR_IGNORED_VLAN + 1);
	return mcr_parse__packet(&packet, datagram);
}

static int find(const struct mcr_table *table, uint32_t slot, const struct mcr_datagram *datagram)
{
	const struct plain_table plain = { .rules = table->rules,
					   .sources = table->sources,
					   .count = table->header.rules,
					   .most_specific_first = true };
	struct plain_key key = { .interface = slot, .port = datagram->port };

	memcpy(key.group, datagram->group, 16);
	memcpy(key.source, datagram->source, 16);
	return plain_table__find(&plain, &key);
}

void expected__add(struct expected *expected, const struct mcr_table *table, uint32_t slot,
		   const struct fake_frame *frame, uint32_t kept)
{
	struct mcr_interface_counters *counters = &expected->interfaces[slot];
	struct mcr_datagram datagram;
	int reason = parse(frame, kept, &datagram), found;

	if (!reason) {
		found = find(table, slot, &datagram);
		if (found >= 0) {
			match(expected, table, slot, mcr_table__rule(table, (uint32_t)found),
			      &datagram, frame);
			return;
		}
		reason = found == -EACCES ? -(MCR_IGNORED_SOURCE + 1) : -(MCR_IGNORED_NO_RULE + 1);
	}
	counters->received++;
	counters->ignored[-reason - 1]++;
}

/* ---- outcome ---- */

/* Of payloads that go the same way each must leave before the next, whatever it leaves with. */
static bool go_the_same_way(const struct expected_flow *one, const struct expected_flow *other)
{
	return !memcmp(one, other, offsetof(struct expected_flow, ttl));
}

static bool is_payload(const struct expected_payload *payload, const uint8_t *bytes, uint32_t count,
		       const struct expected_flow *flow)
{
	return payload->flow.ttl == flow->ttl && payload->flow.dscp == flow->dscp &&
	       payload->count == count && (!count || !memcmp(payload->bytes, bytes, count));
}

void expected__take(struct expected *expected, uint32_t output, const uint8_t *bytes,
		    uint32_t count, const struct expected_flow *flow)
{
	struct expected_output *to = &expected->outputs[output];
	bool found = false;

	for (uint32_t i = to->next; !found && i < to->count; i++) {
		struct expected_payload *payload = &to->payloads[i];

		if (payload->passed || !go_the_same_way(&payload->flow, flow))
			continue;
		payload->passed = true;
		found = is_payload(payload, bytes, count, flow);
	}
	must(found);
	while (to->next < to->count && to->payloads[to->next].passed)
		to->next++;
	to->taken++;
	to->taken_bytes += count;
}

static uint64_t sum_of(const uint64_t *counters, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += counters[i];
	return sum;
}

void expected__check(const struct expected *expected, const struct mcr_shared *shared)
{
	must(!(shared->sequence & 1));
	for (uint32_t i = 0; i < MCR_MAX_INTERFACES; i++) {
		const struct mcr_interface_counters *have = &shared->interfaces[i];
		const struct mcr_interface_counters *want = &expected->interfaces[i];

		must(have->received == want->received && have->matched == want->matched);
		must(!memcmp(have->ignored, want->ignored, sizeof(have->ignored)));
		must(have->received == have->matched + sum_of(have->ignored, MCR_IGNORED_REASONS));
	}
	must(!memcmp(shared->rules, expected->rules, sizeof(expected->rules)));
	must(!memcmp(shared->latencies, expected->latencies, sizeof(expected->latencies)));
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++) {
		const struct mcr_output_counters *have = &shared->outputs[i];
		const struct expected_output *want = &expected->outputs[i];

		must(have->sent == want->taken && have->bytes == want->taken_bytes);
		must(have->not_sent[MCR_NOT_SENT_TTL] == want->without_ttl);
		must(have->not_sent[MCR_NOT_SENT_RATE] == want->above_rate);
		must(want->due == have->sent + sum_of(have->not_sent, MCR_NOT_SENT_REASONS));
	}
}

#include "expected.h"

#include "must.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define VLAN_ID_MASK 0x0FFF

void expected__clear(struct expected *expected)
{
	memset(expected->interfaces, 0, sizeof(expected->interfaces));
	memset(expected->rules, 0, sizeof(expected->rules));
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		memset(&expected->outputs[i], 0, offsetof(struct expected_output, payloads));
}

void expected__start_batch(struct expected *expected)
{
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		expected->outputs[i].next = expected->outputs[i].count = 0;
}

/* ---- frames ---- */

static uint8_t ttl_of(const struct mcr_output *output, uint8_t arrived)
{
	switch ((enum mcr_ttl_policy)output->ttl_policy) {
	case MCR_TTL_AUTO:
		return arrived < 2 ? 1 : (uint8_t)(arrived - 1);
	case MCR_TTL_KEEP:
		return arrived;
	case MCR_TTL_DECREMENT:
		return arrived < 2 ? 0 : (uint8_t)(arrived - 1);
	case MCR_TTL_FIXED:
		return output->ttl;
	}
	abort();
}

static void add_payloads(struct expected *expected, const struct mcr_output *output,
			 const struct mcr_datagram *datagram, uint32_t segment_bytes)
{
	struct expected_output *to = &expected->outputs[output->slot];
	uint8_t ttl = ttl_of(output, datagram->ttl);
	uint32_t offset = 0;

	do {
		uint32_t count = datagram->payload_bytes - offset;

		if (segment_bytes && count > segment_bytes)
			count = segment_bytes;
		to->due++;
		if (ttl) {
			must(to->count < EXPECTED_PAYLOADS);
			to->payloads[to->count++] =
				(struct expected_payload){ datagram->payload + offset, count, ttl,
							   datagram->dscp };
		} else {
			to->without_ttl++;
		}
		offset += count;
	} while (offset < datagram->payload_bytes);
}

static void match(struct expected *expected, const struct mcr_table *table, uint32_t slot,
		  const struct mcr_rule *rule, const struct mcr_datagram *datagram,
		  uint32_t segment_bytes)
{
	uint64_t datagrams = 1;

	if (segment_bytes && datagram->payload_bytes)
		datagrams = (datagram->payload_bytes - 1) / segment_bytes + 1;
	expected->interfaces[slot].received += datagrams;
	expected->interfaces[slot].matched += datagrams;
	expected->rules[rule->slot].matched += datagrams;
	expected->rules[rule->slot].bytes += datagram->payload_bytes;
	for (uint32_t i = 0; i < rule->outputs; i++)
		add_payloads(expected, &table->outputs[rule->first_output + i], datagram,
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

void expected__add(struct expected *expected, struct mcr_table *table, uint32_t slot,
		   const struct fake_frame *frame, uint32_t kept)
{
	struct mcr_interface_counters *counters = &expected->interfaces[slot];
	struct mcr_datagram datagram;
	int reason = parse(frame, kept, &datagram), found;

	if (!reason) {
		found = mcr_table__find(table, slot, datagram.group, datagram.port,
					datagram.source);
		if (found >= 0) {
			match(expected, table, slot, mcr_table__rule(table, (uint32_t)found),
			      &datagram,
			      frame->offloads.gso_type == 5 ? frame->offloads.gso_size : 0);
			return;
		}
		reason = found == -EACCES ? -(MCR_IGNORED_SOURCE + 1) : -(MCR_IGNORED_NO_RULE + 1);
	}
	counters->received++;
	counters->ignored[-reason - 1]++;
}

/* ---- outcome ---- */

static bool is_payload(const struct expected_payload *payload, const uint8_t *bytes, uint32_t count,
		       uint8_t ttl, uint8_t dscp)
{
	return payload->ttl == ttl && payload->dscp == dscp && payload->count == count &&
	       (!count || !memcmp(payload->bytes, bytes, count));
}

void expected__take(struct expected *expected, uint32_t output, const uint8_t *bytes,
		    uint32_t count, uint8_t ttl, uint8_t dscp)
{
	struct expected_output *to = &expected->outputs[output];

	while (to->next < to->count &&
	       !is_payload(&to->payloads[to->next], bytes, count, ttl, dscp))
		to->next++;
	must(to->next < to->count);
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
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++) {
		const struct mcr_output_counters *have = &shared->outputs[i];
		const struct expected_output *want = &expected->outputs[i];

		must(have->sent == want->taken && have->bytes == want->taken_bytes);
		must(have->not_sent[MCR_NOT_SENT_TTL] == want->without_ttl);
		must(want->due == have->sent + sum_of(have->not_sent, MCR_NOT_SENT_REASONS));
	}
}

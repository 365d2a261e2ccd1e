/*
 * Input: one byte of layout, then a share.  Layout 0: the bytes are the share as they are.  Else
 * two bytes per rule count, output count and source count follow, and the rest fills those arrays,
 * zeroes where it ends: so that a share does not stop to be one when its length changes.
 */
#include "../src/table.h"
#include "must.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define RULES 96
#define OUTPUTS 96
#define SOURCES 96
#define LAYOUT_BYTES 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct share {
	uint8_t *bytes;
	uint64_t count;
};

/* The parts of a share that can be one. */
struct parts {
	struct mcr_share_header header;
	const struct mcr_rule *rules;
	const uint8_t *outputs; /* aligned for no struct */
	const struct mcr_source *sources;
};

/* ---- from input to share ---- */

static struct share share_as_is(const uint8_t *data, size_t size)
{
	struct share share = { .bytes = malloc(size), .count = size };

	must(share.bytes != NULL);
	memcpy(share.bytes, data, size);
	return share;
}

static struct share share_of_layout(const uint8_t *data, size_t size)
{
	struct mcr_share_header header = { .abi = MCR_ABI,
					   .rules = data[0] % (RULES + 1),
					   .outputs = data[1] % (OUTPUTS + 1),
					   .sources = data[2] % (SOURCES + 1),
					   .generation = data[3] };
	struct share share = { .count = sizeof(header) + header.rules * sizeof(struct mcr_rule) +
					header.outputs * sizeof(struct mcr_output) +
					header.sources * sizeof(struct mcr_source) };
	size_t body = share.count - sizeof(header);

	share.bytes = calloc(1, share.count);
	must(share.bytes != NULL);
	memcpy(share.bytes, &header, sizeof(header));
	memcpy(share.bytes + sizeof(header), data + LAYOUT_BYTES,
	       size - LAYOUT_BYTES < body ? size - LAYOUT_BYTES : body);
	return share;
}

/* ---- what the table should do, said plainly ---- */

static struct parts parts_of(const struct share *share)
{
	struct parts parts;

	memcpy(&parts.header, share->bytes, sizeof(parts.header));
	parts.rules = (const void *)(share->bytes + sizeof(parts.header));
	parts.outputs = (const uint8_t *)(parts.rules + parts.header.rules);
	parts.sources =
		(const void *)(parts.outputs + parts.header.outputs * sizeof(struct mcr_output));
	return parts;
}

static bool same_key(const struct mcr_rule *one, const struct mcr_rule *other)
{
	return one->interface == other->interface && one->port == other->port &&
	       one->last_port == other->last_port && one->prefix_bits == other->prefix_bits &&
	       !memcmp(one->group, other->group, 16);
}

static bool is_range(const struct mcr_rule *rule)
{
	return rule->prefix_bits < 128 || rule->port < rule->last_port;
}

/* Whether a rule is meant for the interface, the group and the first port of another. */
static bool covers(const struct mcr_rule *rule, const struct mcr_rule *key)
{
	if (rule->interface != key->interface || key->port < rule->port ||
	    key->port > rule->last_port)
		return false;
	for (uint32_t bit = 0; bit < rule->prefix_bits; bit++)
		if ((rule->group[bit / 8] ^ key->group[bit / 8]) & 0x80 >> bit % 8)
			return false;
	return true;
}

static bool allows(const struct parts *parts, const struct mcr_rule *rule, const uint8_t source[16])
{
	for (uint32_t i = 0; i < rule->sources; i++)
		if (!memcmp(&parts->sources[rule->first_source + i], source, 16))
			return !rule->excludes;
	return rule->excludes || rule->sources == 0;
}

static int find(const struct parts *parts, const struct mcr_rule *key, const uint8_t source[16])
{
	int result = -ENOENT;

	/* Single groups first, then ranges in their order. */
	for (int ranges = 0; ranges <= 1; ranges++)
		for (uint32_t i = 0; i < parts->header.rules; i++) {
			if (is_range(&parts->rules[i]) != ranges || !covers(&parts->rules[i], key))
				continue;
			if (allows(parts, &parts->rules[i], source))
				return (int)i;
			result = -EACCES;
		}
	return result;
}

/* ---- checks ---- */

static bool finds_the_same(struct mcr_table *table, const struct parts *parts,
			   const struct mcr_rule *key, const uint8_t source[16])
{
	return mcr_table__find(table, key->interface, key->group, key->port, source) ==
	       find(parts, key, source);
}

static void check_rule(struct mcr_table *table, const struct parts *parts, uint32_t index)
{
	const struct mcr_rule *rule = mcr_table__rule(table, index);
	static const uint8_t nobody[16] = { 0xDE, 0xAD };
	struct mcr_rule other = *rule;

	must(!memcmp(rule, &parts->rules[index], sizeof(*rule)));
	must((uint64_t)rule->first_output + rule->outputs <= parts->header.outputs);
	must((uint64_t)rule->first_source + rule->sources <= parts->header.sources);
	must(rule->interface < MCR_MAX_INTERFACES && rule->slot < MCR_MAX_RULES);
	must(finds_the_same(table, parts, rule, nobody));
	for (uint32_t i = 0; i < rule->sources; i++)
		must(finds_the_same(table, parts, rule,
				    parts->sources[rule->first_source + i].address));
	/* Each rule is found for whom no rule before it is meant. */
	must(find(parts, rule, nobody) != -ENOENT);
	other.port ^= 1;
	must(finds_the_same(table, parts, &other, nobody));
	other = *rule;
	other.interface ^= 1;
	must(finds_the_same(table, parts, &other, nobody));
	other = *rule;
	other.group[index % 16] ^= 1;
	must(finds_the_same(table, parts, &other, nobody));
}

static void check_outputs(const struct parts *parts)
{
	for (uint32_t i = 0; i < parts->header.outputs; i++) {
		struct mcr_output output;

		memcpy(&output, parts->outputs + i * sizeof(output), sizeof(output));
		must(output.slot < MCR_MAX_OUTPUTS && output.ttl_policy <= MCR_TTL_FIXED);
		must(output.dscp_policy <= MCR_DSCP_FIXED && output.engine <= MCR_ENGINE_KEEPING);
		must(output.prefix_bits <= 128 &&
		     (output.link_bytes == 0 || output.link_bytes == 14));
	}
}

/* The same rules from last to first, those with one key in their old order. */
static void check_digest(const struct mcr_table *table, const struct share *share)
{
	static struct mcr_table *turned;
	struct parts parts = parts_of(share);
	struct share copy = share_as_is(share->bytes, share->count);
	struct mcr_rule *at = (void *)(copy.bytes + sizeof(parts.header));

	if (!turned)
		turned = mcr_table__new();
	for (uint32_t end = parts.header.rules; end;) {
		uint32_t first = end - 1;

		while (first && same_key(&parts.rules[first - 1], &parts.rules[end - 1]))
			first--;
		memcpy(at, &parts.rules[first], (end - first) * sizeof(*at));
		at += end - first;
		end = first;
	}
	must(!mcr_table__load(turned, copy.bytes, copy.count));
	must(mcr_table__digest(turned) == mcr_table__digest(table));
	free(copy.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mcr_table *table;
	struct share share;

	if (size < 1 || (data[0] && size < 1 + LAYOUT_BYTES))
		return 0;
	if (!table)
		table = mcr_table__new();
	share = data[0] ? share_of_layout(data + 1, size - 1) : share_as_is(data + 1, size - 1);
	if (mcr_table__load(table, share.bytes, share.count)) {
		must(!mcr_table__rule(table, 0) && !mcr_table__generation(table));
	} else {
		struct parts parts = parts_of(&share);

		must(mcr_table__generation(table) == parts.header.generation);
		must(!mcr_table__rule(table, parts.header.rules));
		for (uint32_t i = 0; i < parts.header.rules; i++)
			check_rule(table, &parts, i);
		check_outputs(&parts);
		check_digest(table, &share);
	}
	free(share.bytes);
	return 0;
}

#include "table.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct mcr_share_header) == 32, "the supervisor packs it so");
static_assert(sizeof(struct mcr_rule) == 52, "the supervisor packs it so");
static_assert(sizeof(struct mcr_output) == 56, "the supervisor packs it so");
static_assert(offsetof(struct mcr_output, slot) == 52, "the digest ends before the slot");
static_assert(sizeof(struct mcr_source) == 16, "the supervisor packs it so");

#define FNV_OFFSET 0xCBF29CE484222325ull
#define FNV_PRIME 0x100000001B3ull

struct mcr_table *mcr_table__new(void)
{
	/* Zeroed pages cost nothing until they are used. */
	return calloc(1, sizeof(struct mcr_table));
}

void mcr_table__free(struct mcr_table *table)
{
	free(table);
}

static uint32_t bucket_of(uint32_t interface, const uint8_t group[16], uint16_t port)
{
	uint64_t high, low;

	memcpy(&high, group, 8);
	memcpy(&low, group + 8, 8);
	low ^= high * 0x9E3779B97F4A7C15ull;
	low += (uint64_t)port << 32 | interface;
	low *= 0xD6E8FEB86659FD93ull;
	low ^= low >> 32;
	low *= 0xD6E8FEB86659FD93ull;
	return (low >> 40) % MCR_TABLE_BUCKETS;
}

static bool has_key(const struct mcr_rule *rule, uint32_t interface, const uint8_t group[16],
		    uint16_t port)
{
	return rule->port == port && rule->interface == interface &&
	       !memcmp(rule->group, group, 16);
}

static bool same_key(const struct mcr_rule *one, const struct mcr_rule *other)
{
	return has_key(one, other->interface, other->group, other->port) &&
	       one->last_port == other->last_port && one->prefix_bits == other->prefix_bits;
}

static bool is_range(const struct mcr_rule *rule)
{
	return rule->prefix_bits < 128 || rule->last_port != rule->port;
}

/* Compare the first bits, 64 at a time. */
static bool has_prefix(const uint8_t address[16], const uint8_t prefix[16], uint32_t bits)
{
	for (uint32_t at = 0; at < 16 && bits; at += 8) {
		uint32_t here = bits < 64 ? bits : 64;
		uint64_t left, right;

		memcpy(&left, address + at, 8);
		memcpy(&right, prefix + at, 8);
		if (be64toh(left ^ right) >> (64 - here))
			return false;
		bits -= here;
	}
	return true;
}

/* The bucket of the key, or the empty one where it would stand. */
static uint32_t probe(const struct mcr_table *table, uint32_t interface, const uint8_t group[16],
		      uint16_t port)
{
	uint32_t bucket = bucket_of(interface, group, port);

	while (table->buckets[bucket] &&
	       !has_key(&table->rules[table->buckets[bucket] - 1], interface, group, port))
		bucket = (bucket + 1) % MCR_TABLE_BUCKETS;
	return bucket;
}

static bool rule_is_sound(const struct mcr_share_header *header, const struct mcr_rule *rule)
{
	return rule->interface < MCR_MAX_INTERFACES && rule->slot < MCR_MAX_RULES &&
	       rule->prefix_bits <= 128 && rule->port <= rule->last_port &&
	       (uint64_t)rule->first_output + rule->outputs <= header->outputs &&
	       (uint64_t)rule->first_source + rule->sources <= header->sources;
}

static bool output_is_sound(const struct mcr_output *output)
{
	return output->slot < MCR_MAX_OUTPUTS && output->ttl_policy <= MCR_TTL_FIXED &&
	       output->dscp_policy <= MCR_DSCP_FIXED && output->engine <= MCR_ENGINE_KEEPING &&
	       output->prefix_bits <= 128 && (!output->link_bytes || output->link_bytes == 14);
}

static bool header_is_sound(const struct mcr_share_header *header, uint64_t bytes)
{
	return header->abi == MCR_ABI && header->rules <= MCR_MAX_RULES &&
	       header->outputs <= MCR_MAX_OUTPUTS && header->sources <= MCR_MAX_SOURCES &&
	       bytes == sizeof(*header) + header->rules * sizeof(struct mcr_rule) +
				header->outputs * sizeof(struct mcr_output) +
				header->sources * sizeof(struct mcr_source);
}

static void copy_share(struct mcr_table *table, const uint8_t *share)
{
	const uint8_t *cursor = share + sizeof(table->header);

	memcpy(table->rules, cursor, table->header.rules * sizeof(struct mcr_rule));
	cursor += table->header.rules * sizeof(struct mcr_rule);
	memcpy(table->outputs, cursor, table->header.outputs * sizeof(struct mcr_output));
	cursor += table->header.outputs * sizeof(struct mcr_output);
	memcpy(table->sources, cursor, table->header.sources * sizeof(struct mcr_source));
}

/*
 * Rules with one key stand side by side, those for any source last: look-up takes the first that
 * fits. Ranges stand in the order in which they are to be tried.
 */
static int index_rule(struct mcr_table *table, uint32_t index)
{
	const struct mcr_rule *rule = &table->rules[index];
	uint32_t bucket;

	if (!rule_is_sound(&table->header, rule) || table->rule_used[rule->slot])
		return -EINVAL;
	table->rule_used[rule->slot] = 1;
	if (index > 0 && same_key(rule, rule - 1) && !rule[-1].sources)
		return -EINVAL;
	if (is_range(rule)) {
		table->ranges[table->range_count++] = index;
		return 0;
	}
	if (index > 0 && same_key(rule, rule - 1))
		return 0;
	bucket = probe(table, rule->interface, rule->group, rule->port);
	if (table->buckets[bucket])
		return -EINVAL;
	table->buckets[bucket] = index + 1;
	return 0;
}

/* Rules that counted in one place, or shared an output, would break the sums of both. */
static int claim_outputs(struct mcr_table *table, const struct mcr_rule *rule)
{
	for (uint32_t i = rule->first_output; i < rule->first_output + rule->outputs; i++) {
		if (table->output_claimed[i])
			return -EINVAL;
		table->output_claimed[i] = 1;
	}
	return 0;
}

static int index_share(struct mcr_table *table)
{
	for (uint32_t i = 0; i < table->header.rules; i++)
		if (index_rule(table, i) || claim_outputs(table, &table->rules[i]))
			return -EINVAL;
	for (uint32_t i = 0; i < table->header.outputs; i++) {
		if (!output_is_sound(&table->outputs[i]) ||
		    table->output_used[table->outputs[i].slot])
			return -EINVAL;
		table->output_used[table->outputs[i].slot] = 1;
	}
	return 0;
}

static void clear(struct mcr_table *table)
{
	memset(&table->header, 0, sizeof(table->header));
	memset(table->buckets, 0, sizeof(table->buckets));
	if (table->range_count)
		memset(table->cache, 0, sizeof(table->cache));
	table->range_count = 0;
	memset(table->rule_used, 0, sizeof(table->rule_used));
	memset(table->output_claimed, 0, sizeof(table->output_claimed));
	memset(table->output_used, 0, sizeof(table->output_used));
}

int mcr_table__load(struct mcr_table *table, const uint8_t *share, uint64_t bytes)
{
	struct mcr_share_header header;
	int error;

	clear(table);
	if (bytes < sizeof(header))
		return -EINVAL;
	memcpy(&header, share, sizeof(header));
	if (!header_is_sound(&header, bytes))
		return -EINVAL;
	table->header = header;
	copy_share(table, share);
	error = index_share(table);
	if (error)
		clear(table);
	return error;
}

static bool allows(const struct mcr_table *table, const struct mcr_rule *rule,
		   const uint8_t source[16])
{
	const struct mcr_source *listed = &table->sources[rule->first_source];

	for (uint32_t i = 0; i < rule->sources; i++)
		if (!memcmp(listed[i].address, source, 16))
			return !rule->excludes;
	return !rule->sources || rule->excludes;
}

static int find_single(const struct mcr_table *table, uint32_t interface, const uint8_t group[16],
		       uint16_t port, const uint8_t source[16])
{
	uint32_t first = table->buckets[probe(table, interface, group, port)], i;

	if (!first)
		return -ENOENT;
	i = first - 1;
	while (!allows(table, &table->rules[i], source))
		if (++i == table->header.rules ||
		    !same_key(&table->rules[i], &table->rules[first - 1]))
			return -EACCES;
	return (int)i;
}

static int search_ranges(const struct mcr_table *table, uint32_t interface, const uint8_t group[16],
			 uint16_t port, const uint8_t source[16])
{
	int result = -ENOENT;

	for (uint32_t i = 0; i < table->range_count; i++) {
		const struct mcr_rule *rule = &table->rules[table->ranges[i]];

		if (rule->interface != interface || port < rule->port || port > rule->last_port ||
		    !has_prefix(group, rule->group, rule->prefix_bits))
			continue;
		if (allows(table, rule, source))
			return (int)table->ranges[i];
		result = -EACCES;
	}
	return result;
}

static bool is_of(const struct mcr_found *found, uint32_t interface, const uint8_t group[16],
		  uint16_t port, const uint8_t source[16])
{
	return found->interface == interface && found->port == port &&
	       !memcmp(found->group, group, 16) && !memcmp(found->source, source, 16);
}

/* Results are kept, so that a datagram in a range costs what one for a single group does. */
static int find_range(struct mcr_table *table, uint32_t interface, const uint8_t group[16],
		      uint16_t port, const uint8_t source[16])
{
	uint32_t hash = bucket_of(interface, group, port) ^ source[15] * 31u ^ source[14];
	struct mcr_found *set = table->cache[hash % MCR_CACHE_SETS];
	struct mcr_found *found = set, *end = set + MCR_CACHE_WAYS;

	while (found < end && found->result && !is_of(found, interface, group, port, source))
		found++;
	if (found == end) {
		found = &set[table->cache_turn++ % MCR_CACHE_WAYS];
		found->result = 0;
	}
	if (!found->result) {
		found->interface = interface;
		found->port = port;
		memcpy(found->group, group, 16);
		memcpy(found->source, source, 16);
		found->result = search_ranges(table, interface, group, port, source);
		if (found->result >= 0)
			found->result++;
	}
	return found->result > 0 ? found->result - 1 : found->result;
}

int mcr_table__find(struct mcr_table *table, uint32_t interface, const uint8_t group[16],
		    uint16_t port, const uint8_t source[16])
{
	int single = find_single(table, interface, group, port, source);
	int range;

	if (single >= 0 || !table->range_count)
		return single;
	range = find_range(table, interface, group, port, source);
	return range == -ENOENT ? single : range;
}

const struct mcr_rule *mcr_table__rule(const struct mcr_table *table, uint32_t index)
{
	return index < table->header.rules ? &table->rules[index] : NULL;
}

uint64_t mcr_table__generation(const struct mcr_table *table)
{
	return table->header.generation;
}

static uint64_t fnv(uint64_t state, const void *data, size_t bytes)
{
	const uint8_t *byte = data;

	while (bytes--)
		state = (state ^ *byte++) * FNV_PRIME;
	return state;
}

static uint64_t rule_digest(const struct mcr_table *table, const struct mcr_rule *rule)
{
	uint64_t state = fnv(FNV_OFFSET, rule->group, 16);

	state = fnv(state, &rule->ifindex, 4);
	state = fnv(state, &rule->port, 2);
	state = fnv(state, &rule->last_port, 2);
	state = fnv(state, &rule->prefix_bits, 1);
	state = fnv(state, &rule->excludes, 1);
	state = fnv(state, &rule->sources, 4);
	state = fnv(state, &table->sources[rule->first_source],
		    rule->sources * sizeof(struct mcr_source));
	for (uint32_t i = 0; i < rule->outputs; i++)
		/* Everything but the slot, which says where to count and not what to do. */
		state = fnv(state, &table->outputs[rule->first_output + i],
			    offsetof(struct mcr_output, slot));
	return state;
}

/*
 * The sum over the rules does not depend on their order.  Rules are reached as look-ups reach them,
 * so that a rule that look-ups cannot find is missing from the digest too.
 */
uint64_t mcr_table__digest(const struct mcr_table *table)
{
	uint64_t sum = FNV_OFFSET;

	for (uint32_t i = 0; i < table->range_count; i++)
		sum += rule_digest(table, &table->rules[table->ranges[i]]);
	for (uint32_t bucket = 0; bucket < MCR_TABLE_BUCKETS; bucket++) {
		uint32_t first = table->buckets[bucket];

		for (uint32_t i = first - 1; first && i < table->header.rules; i++) {
			if (!same_key(&table->rules[i], &table->rules[first - 1]))
				break;
			sum += rule_digest(table, &table->rules[i]);
		}
	}
	return sum;
}

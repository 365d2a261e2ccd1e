#include "table.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct mcr_share_header) == 24, "the supervisor packs it so");
static_assert(sizeof(struct mcr_rule) == 48, "the supervisor packs it so");
static_assert(sizeof(struct mcr_output) == 28, "the supervisor packs it so");
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
	return has_key(one, other->interface, other->group, other->port);
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
	       (uint64_t)rule->first_output + rule->outputs <= header->outputs &&
	       (uint64_t)rule->first_source + rule->sources <= header->sources;
}

static bool output_is_sound(const struct mcr_output *output)
{
	return output->slot < MCR_MAX_OUTPUTS && output->ttl_policy <= MCR_TTL_FIXED;
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

/* Rules with one key stand side by side, those for any source last: look-up takes the first that
 * fits. */
static int index_rules(struct mcr_table *table)
{
	for (uint32_t i = 0; i < table->header.rules; i++) {
		const struct mcr_rule *rule = &table->rules[i];
		uint32_t bucket;

		if (!rule_is_sound(&table->header, rule))
			return -EINVAL;
		table->interface_used[rule->interface] = 1;
		if (i > 0 && same_key(rule, rule - 1)) {
			if (!rule[-1].sources)
				return -EINVAL;
			continue;
		}
		bucket = probe(table, rule->interface, rule->group, rule->port);
		if (table->buckets[bucket])
			return -EINVAL;
		table->buckets[bucket] = i + 1;
	}
	for (uint32_t i = 0; i < table->header.outputs; i++) {
		if (!output_is_sound(&table->outputs[i]))
			return -EINVAL;
		table->output_used[table->outputs[i].slot] = 1;
	}
	return 0;
}

static void clear(struct mcr_table *table)
{
	memset(&table->header, 0, sizeof(table->header));
	memset(table->buckets, 0, sizeof(table->buckets));
	memset(table->interface_used, 0, sizeof(table->interface_used));
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
	error = index_rules(table);
	if (error)
		clear(table);
	return error;
}

static bool allows(const struct mcr_table *table, const struct mcr_rule *rule,
		   const uint8_t source[16])
{
	const struct mcr_source *allowed = &table->sources[rule->first_source];

	for (uint32_t i = 0; i < rule->sources; i++)
		if (!memcmp(allowed[i].address, source, 16))
			return true;
	return !rule->sources;
}

int mcr_table__find(const struct mcr_table *table, uint32_t interface, const uint8_t group[16],
		    uint16_t port, const uint8_t source[16])
{
	uint32_t first = table->buckets[probe(table, interface, group, port)];

	if (!first)
		return -ENOENT;
	for (uint32_t i = first - 1; i < table->header.rules; i++) {
		if (!same_key(&table->rules[i], &table->rules[first - 1]))
			break;
		if (allows(table, &table->rules[i], source))
			return (int)i;
	}
	return -EACCES;
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
	state = fnv(state, &rule->sources, 4);
	state = fnv(state, &table->sources[rule->first_source],
		    rule->sources * sizeof(struct mcr_source));
	for (uint32_t i = 0; i < rule->outputs; i++)
		/* Everything but the slot, which says where to count and not what to do. */
		state = fnv(state, &table->outputs[rule->first_output + i],
			    sizeof(struct mcr_output) - sizeof(uint32_t));
	return state;
}

/*
 * The sum over the rules does not depend on their order.  Rules are reached through the buckets, so
 * that a rule that look-ups cannot find is missing from the digest too.
 */
uint64_t mcr_table__digest(const struct mcr_table *table)
{
	uint64_t sum = FNV_OFFSET;

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

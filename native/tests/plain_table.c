#include "plain_table.h"

#include <errno.h>
#include <string.h>

bool plain_table__is_range(const struct mcr_rule *rule)
{
	return rule->prefix_bits != 128 || rule->port != rule->last_port;
}

int plain_table__compare(const struct mcr_rule *one, const struct mcr_rule *other)
{
	if (one->prefix_bits != other->prefix_bits)
		return one->prefix_bits > other->prefix_bits ? -1 : 1;
	return (one->last_port - one->port) - (other->last_port - other->port);
}

static bool is_meant(const struct mcr_rule *rule, const struct plain_key *key)
{
	if (rule->interface != key->interface || key->port < rule->port ||
	    key->port > rule->last_port)
		return false;
	for (uint32_t bit = 0; bit < rule->prefix_bits; bit++)
		if ((rule->group[bit / 8] ^ key->group[bit / 8]) & (0x80 >> bit % 8))
			return false;
	return true;
}

static bool allows(const struct plain_table *table, const struct mcr_rule *rule,
		   const uint8_t source[16])
{
	bool listed = false;

	for (uint32_t i = 0; i < rule->sources; i++)
		listed |= !memcmp(&table->sources[rule->first_source + i], source, 16);
	if (!rule->sources)
		return true;
	return rule->excludes ? !listed : listed;
}

/* Of two rules, the later one only if it is more specific. */
static bool comes_first(const struct plain_table *table, const struct mcr_rule *later,
			const struct mcr_rule *earlier)
{
	if (plain_table__is_range(later) != plain_table__is_range(earlier))
		return !plain_table__is_range(later);
	return table->most_specific_first && plain_table__compare(later, earlier) < 0;
}

int plain_table__find(const struct plain_table *table, const struct plain_key *key)
{
	int result = -ENOENT;

	for (uint32_t i = 0; i < table->count; i++) {
		const struct mcr_rule *rule = &table->rules[i];

		if (!is_meant(rule, key))
			continue;
		if (!allows(table, rule, key->source))
			result = result == -ENOENT ? -EACCES : result;
		else if (result < 0 || comes_first(table, rule, &table->rules[result]))
			result = (int)i;
	}
	return result;
}

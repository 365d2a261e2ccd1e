#include "../src/table.h"
#include "must.h"
#include "packet.h"
#include "plain_table.h"
#include "shares.h"

#include <errno.h>
#include <string.h>

#include "testing.h"

static const uint8_t group[16] = { [10] = 0xFF, 0xFF, 239, 1, 1, 1 };
static const uint8_t other_group[16] = { [10] = 0xFF, 0xFF, 239, 1, 1, 2 };
static const uint8_t alice[16] = { [10] = 0xFF, 0xFF, 10, 0, 0, 1 };
static const uint8_t bob[16] = { [10] = 0xFF, 0xFF, 10, 0, 0, 2 };
static const uint8_t carol[16] = { [10] = 0xFF, 0xFF, 10, 0, 0, 3 };

static struct mcr_table *table;
static struct test_share share;

static int make_table(void **state)
{
	(void)state;
	table = mcr_table__new();
	share__init(&share, 7);
	return 0;
}

static int free_table(void **state)
{
	(void)state;
	mcr_table__free(table);
	return 0;
}

/* From a copy exactly as long as the share, so that the sanitizer sees what reads on. */
static int load_bytes(const uint8_t *bytes, size_t count)
{
	uint8_t *copy = malloc(count ? count : 1);
	int error;

	must(copy != NULL);
	memcpy(copy, bytes, count);
	error = mcr_table__load(table, copy, count);
	free(copy);
	return error;
}

static int load(void)
{
	uint8_t bytes[SHARE_MAX_BYTES];

	return load_bytes(bytes, share__write(&share, bytes));
}

/* ---- look-up ---- */

static void an_empty_share_is_a_share(void **state)
{
	(void)state;
	assert_int_equal(load(), 0);
	assert_int_equal(mcr_table__generation(table), 7);
	assert_int_equal(mcr_table__find(table, 0, group, 5001, alice), -ENOENT);
	assert_null(mcr_table__rule(table, 0));
}

static void a_rule_is_found_by_interface_group_and_port(void **state)
{
	(void)state;
	share__add_rule(&share, 3, group, 5001);
	assert_int_equal(load(), 0);
	assert_int_equal(mcr_table__find(table, 3, group, 5001, alice), 0);
	assert_int_equal(mcr_table__find(table, 2, group, 5001, alice), -ENOENT);
	assert_int_equal(mcr_table__find(table, 3, other_group, 5001, alice), -ENOENT);
	assert_int_equal(mcr_table__find(table, 3, group, 5002, alice), -ENOENT);
}

static void the_most_specific_rule_wins(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_source(&share, alice);
	share__add_rule(&share, 0, group, 5001);
	share__add_source(&share, bob);
	share__add_rule(&share, 0, group, 5001);
	assert_int_equal(load(), 0);
	assert_int_equal(mcr_table__find(table, 0, group, 5001, alice), 0);
	assert_int_equal(mcr_table__find(table, 0, group, 5001, bob), 1);
	assert_int_equal(mcr_table__find(table, 0, group, 5001, carol), 2);
}

static void another_source_is_refused_by_name(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_source(&share, alice);
	share__add_source(&share, bob);
	assert_int_equal(load(), 0);
	assert_int_equal(mcr_table__find(table, 0, group, 5001, bob), 0);
	assert_int_equal(mcr_table__find(table, 0, group, 5001, carol), -EACCES);
}

/* ---- ranges ---- */

static uint8_t address[16];

static const uint8_t *v4(uint32_t value)
{
	packet__map_v4(address, value);
	return address;
}

static struct mcr_rule *add_range(uint32_t first, uint32_t bits, uint16_t port, uint16_t last_port)
{
	struct mcr_rule *rule = share__add_rule(&share, 0, v4(first), port);

	rule->prefix_bits = (uint8_t)(96 + bits);
	rule->last_port = last_port;
	return rule;
}

static int find_v4(uint32_t to, uint16_t port)
{
	int found = mcr_table__find(table, 0, v4(to), port, alice);

	/* What was found is kept, and must be the same. */
	assert_int_equal(mcr_table__find(table, 0, v4(to), port, alice), found);
	return found;
}

static void a_prefix_holds_its_groups_and_no_other(void **state)
{
	(void)state;
	add_range(0xEF010100, 24, 5001, 5001);
	assert_int_equal(load(), 0);
	for (uint32_t last = 0; last < 256; last++)
		assert_int_equal(find_v4(0xEF010100 + last, 5001), 0);
	assert_int_equal(find_v4(0xEF0100FF, 5001), -ENOENT);
	assert_int_equal(find_v4(0xEF010200, 5001), -ENOENT);
	assert_int_equal(find_v4(0xEF010101, 5000), -ENOENT);
	assert_int_equal(find_v4(0xEF010101, 5002), -ENOENT);
	assert_int_equal(mcr_table__find(table, 1, v4(0xEF010101), 5001, alice), -ENOENT);
}

/* One bit within and one beyond, for every length; what stands behind the prefix does not count. */
static void prefixes_of_every_length_end_where_they_say(void **state)
{
	uint8_t inside[16], outside[16];

	(void)state;
	for (uint32_t bits = 1; bits < 128; bits++) {
		struct mcr_rule *rule;

		share__init(&share, 7);
		rule = share__add_rule(&share, 0, group, 5001);
		memset(rule->group, 0xA5, 16);
		rule->prefix_bits = (uint8_t)bits;
		assert_int_equal(load(), 0);
		memset(inside, 0xA5, 16);
		memset(outside, 0xA5, 16);
		for (uint32_t bit = bits; bit < 128; bit++)
			inside[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
		outside[(bits - 1) / 8] ^= (uint8_t)(0x80 >> (bits - 1) % 8);
		assert_int_equal(mcr_table__find(table, 0, inside, 5001, alice), 0);
		assert_int_equal(mcr_table__find(table, 0, outside, 5001, alice), -ENOENT);
	}
}

static void ports_hold_from_the_first_to_the_last(void **state)
{
	(void)state;
	add_range(0xEF010101, 32, 5000, 5010);
	add_range(0xEF010102, 32, 0, 65535);
	assert_int_equal(load(), 0);
	for (uint16_t port = 5000; port <= 5010; port++)
		assert_int_equal(find_v4(0xEF010101, port), 0);
	assert_int_equal(find_v4(0xEF010101, 4999), -ENOENT);
	assert_int_equal(find_v4(0xEF010101, 5011), -ENOENT);
	assert_int_equal(find_v4(0xEF010102, 0), 1);
	assert_int_equal(find_v4(0xEF010102, 65535), 1);
}

static void a_single_group_comes_before_every_range(void **state)
{
	(void)state;
	add_range(0xEF010101, 32, 5000, 5010);
	add_range(0xEF010101, 32, 5001, 5001);
	add_range(0xEF010100, 24, 5001, 5001);
	assert_int_equal(load(), 0);
	assert_int_equal(find_v4(0xEF010101, 5001), 1);
	assert_int_equal(find_v4(0xEF010101, 5002), 0);
	assert_int_equal(find_v4(0xEF010102, 5001), 2);
}

/* The supervisor writes what is more specific first. */
static void ranges_are_tried_in_their_order(void **state)
{
	(void)state;
	add_range(0xEF010101, 32, 5001, 5002);
	add_range(0xEF010101, 32, 5001, 5009);
	add_range(0xEF010100, 24, 5001, 5001);
	add_range(0xEF010000, 16, 5001, 5001);
	add_range(0, 0, 0, 65535);
	assert_int_equal(load(), 0);
	assert_int_equal(find_v4(0xEF010101, 5001), 0);
	assert_int_equal(find_v4(0xEF010101, 5003), 1);
	assert_int_equal(find_v4(0xEF010102, 5001), 2);
	assert_int_equal(find_v4(0xEF010202, 5001), 3);
	assert_int_equal(find_v4(0x01010101, 1), 4);
}

/* What one does not allow, the next less specific one may. */
static void a_range_that_refuses_the_source_passes_on(void **state)
{
	(void)state;
	add_range(0xEF010101, 32, 5001, 5001);
	share__add_source(&share, bob);
	add_range(0xEF010100, 24, 5001, 5001);
	share__add_source(&share, carol);
	add_range(0xEF010000, 16, 5001, 5001);
	share__add_source(&share, alice);
	assert_int_equal(load(), 0);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, bob), 0);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, carol), 1);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, alice), 2);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, group), -EACCES);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5002, alice), -ENOENT);
}

static void excluded_sources_are_refused_and_all_others_allowed(void **state)
{
	(void)state;
	for (uint32_t bits = 31; bits <= 32; bits++) {
		share__init(&share, 7);
		add_range(0xEF010101, bits, 5001, 5001)->excludes = 1;
		share__add_source(&share, alice);
		share__add_source(&share, bob);
		assert_int_equal(load(), 0);
		assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, alice), -EACCES);
		assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, bob), -EACCES);
		assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, carol), 0);
	}
}

static void some_sources_come_before_all_but_some_before_any(void **state)
{
	(void)state;
	add_range(0xEF010100, 24, 5001, 5001);
	share__add_source(&share, alice);
	add_range(0xEF010100, 24, 5001, 5001)->excludes = 1;
	share__add_source(&share, bob);
	add_range(0xEF010100, 24, 5001, 5001);
	assert_int_equal(load(), 0);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, alice), 0);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, carol), 1);
	assert_int_equal(mcr_table__find(table, 0, v4(0xEF010101), 5001, bob), 2);
}

/* More look-ups than are kept, twice. */
static void what_was_found_is_not_mixed_up(void **state)
{
	struct plain_table plain = { .rules = share.rules, .sources = share.sources };

	(void)state;
	add_range(0xEF010101, 32, 5002, 5003);
	add_range(0xEF010100, 25, 5000, 5003);
	share__add_source(&share, bob);
	add_range(0xEF010100, 24, 5001, 5002)->excludes = 1;
	share__add_source(&share, carol);
	add_range(0xEF010000, 16, 5000, 5002);
	assert_int_equal(load(), 0);
	plain.count = share.header.rules;
	plain.most_specific_first = true;
	for (uint32_t i = 0; i < 80000; i++) {
		uint32_t number = i % 40000;
		struct plain_key key = { .interface = number / 20000,
					 .port = (uint16_t)(5000 + number / 5000 % 4) };

		packet__map_v4(key.group, 0xEF010000u + number % 500);
		packet__map_v4(key.source, 0x0A000000u + number / 500 % 10);
		assert_int_equal(mcr_table__find(table, key.interface, key.group, key.port,
						 key.source),
				 plain_table__find(&plain, &key));
	}
}

static void a_new_share_forgets_what_the_one_before_gave(void **state)
{
	(void)state;
	add_range(0xEF010100, 24, 5001, 5001);
	assert_int_equal(load(), 0);
	assert_int_equal(find_v4(0xEF010101, 5001), 0);
	assert_int_equal(find_v4(0xEF020101, 5001), -ENOENT);
	share__init(&share, 8);
	add_range(0xEF030000, 16, 5001, 5001);
	add_range(0xEF020000, 16, 5001, 5001);
	assert_int_equal(load(), 0);
	assert_int_equal(find_v4(0xEF010101, 5001), -ENOENT);
	assert_int_equal(find_v4(0xEF020101, 5001), 1);
}

/* As many as fit, all with keys that are near each other. */
static uint8_t *write_full_share(size_t *count)
{
	struct mcr_share_header header = { .abi = MCR_ABI, .rules = MCR_MAX_RULES };
	struct mcr_rule *rules;
	uint8_t *bytes;

	*count = sizeof(header) + MCR_MAX_RULES * sizeof(*rules);
	bytes = calloc(1, *count);
	must(bytes != NULL);
	memcpy(bytes, &header, sizeof(header));
	rules = (void *)(bytes + sizeof(header));
	for (uint32_t i = 0; i < MCR_MAX_RULES; i++) {
		packet__map_v4(rules[i].group, 0xEF010000u + i / 8);
		rules[i].port = rules[i].last_port = (uint16_t)(5000 + i % 8);
		rules[i].prefix_bits = 128;
		rules[i].slot = i;
	}
	return bytes;
}

static void a_full_table_finds_every_rule_and_no_other(void **state)
{
	size_t count;
	uint8_t *bytes = write_full_share(&count);

	(void)state;
	assert_int_equal(mcr_table__load(table, bytes, count), 0);
	for (uint32_t i = 0; i < MCR_MAX_RULES; i++) {
		const struct mcr_rule *rule = mcr_table__rule(table, i);

		assert_int_equal(mcr_table__find(table, 0, rule->group, rule->port, alice), i);
		assert_int_equal(mcr_table__find(table, 1, rule->group, rule->port, alice),
				 -ENOENT);
		assert_int_equal(mcr_table__find(table, 0, rule->group, (uint16_t)(rule->port + 8),
						 alice),
				 -ENOENT);
	}
	free(bytes);
}

/* ---- contents and digest ---- */

static uint64_t digest(void)
{
	assert_int_equal(load(), 0);
	return mcr_table__digest(table);
}

static void add_first(void)
{
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0)->port = 1;
}

static void add_second(void)
{
	share__add_rule(&share, 1, other_group, 5002);
	share__add_output(&share, MCR_TTL_FIXED, 3)->port = 2;
	share__add_source(&share, alice);
}

static void add_third(void)
{
	add_range(0xEF020000, 16, 5002, 5003);
	share__add_output(&share, MCR_TTL_KEEP, 3)->port = 3;
}

static void the_digest_does_not_depend_on_the_order_of_rules(void **state)
{
	static void (*const orders[][3])(void) = { { add_first, add_second, add_third },
						   { add_second, add_first, add_third },
						   { add_third, add_second, add_first },
						   { add_second, add_third, add_first } };
	uint64_t digests[4];

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		share__init(&share, 7);
		for (uint32_t n = 0; n < 3; n++)
			orders[i][n]();
		digests[i] = digest();
		assert_int_equal(digests[i], digests[0]);
	}
}

#define MOST_DIGESTS 40

static void the_digest_sees_every_change_of_contents(void **state)
{
	struct mcr_rule *rule = share.rules;
	struct mcr_output *to = &share.outputs[1];
	uint64_t seen[MOST_DIGESTS];
	uint32_t count = 0;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_KEEP, 0);
	share__add_source(&share, alice);
	seen[count++] = digest();
#define CHANGE(change)                    \
	do {                              \
		change;                   \
		seen[count++] = digest(); \
	} while (0)
	CHANGE(rule->last_port += 9);
	CHANGE(rule->port++);
	CHANGE(rule->prefix_bits--);
	CHANGE(rule->group[15]++);
	CHANGE(rule->ifindex++);
	CHANGE(rule->excludes = 1);
	CHANGE(memcpy(share.sources[0].address, bob, 16));
	CHANGE(to->address[15]++);
	CHANGE(to->ifindex++);
	CHANGE(to->mtu++);
	CHANGE(to->rate = 1ull << 40);
	CHANGE(to->rate_in_bits = 1);
	CHANGE(to->port++);
	CHANGE(to->port_offset--);
	CHANGE(to->prefix_bits--);
	CHANGE(to->ttl_policy = MCR_TTL_DECREMENT);
	CHANGE(to->ttl++);
	CHANGE(to->dscp_policy = MCR_DSCP_FIXED);
	CHANGE(to->dscp++);
	CHANGE(to->engine = MCR_ENGINE_ETHERNET);
	CHANGE(to->ipv6 = 1);
	CHANGE(to->link_bytes = 14);
	CHANGE(to->link_source[5]++);
	CHANGE(rule->outputs = 1);
	CHANGE(share.header.rules = 0);
#undef CHANGE
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t n = 0; n < i; n++)
			assert_int_not_equal(seen[i], seen[n]);
}

/* The supervisor computes the same from its own values: slots are where, not what. */
static void the_digest_does_not_see_slots(void **state)
{
	uint64_t before;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	before = digest();
	share.rules[0].interface = 9;
	share.rules[0].slot = 100;
	share.outputs[0].slot = 200;
	assert_int_equal(digest(), before);
}

/* ---- shares that contradict themselves ---- */

static void check_is_refused(void)
{
	assert_int_equal(load(), -EINVAL);
	assert_int_equal(mcr_table__generation(table), 0);
	assert_null(mcr_table__rule(table, 0));
	assert_int_equal(mcr_table__find(table, 0, group, 5001, alice), -ENOENT);
}

static void every_wrong_length_is_refused(void **state)
{
	uint8_t bytes[SHARE_MAX_BYTES + 64] = { 0 };
	size_t count;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_source(&share, alice);
	count = share__write(&share, bytes);
	for (size_t length = 0; length < count + 64; length++)
		assert_int_equal(load_bytes(bytes, length), length == count ? 0 : -EINVAL);
}

static void counts_beyond_the_arrays_are_refused(void **state)
{
	static const struct mcr_share_header headers[] = {
		{ .abi = MCR_ABI + 1 },
		{ .abi = MCR_ABI, .rules = MCR_MAX_RULES + 1 },
		{ .abi = MCR_ABI, .outputs = MCR_MAX_OUTPUTS + 1 },
		{ .abi = MCR_ABI, .sources = MCR_MAX_SOURCES + 1 },
		{ .abi = MCR_ABI, .rules = UINT32_MAX },
		{ .abi = MCR_ABI, .outputs = UINT32_MAX },
		{ .abi = MCR_ABI, .sources = UINT32_MAX },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
		const struct mcr_share_header *header = &headers[i];
		/* As long as it says, as far as memory goes. */
		size_t count = sizeof(*header) + header->rules % 10000 * sizeof(struct mcr_rule) +
			       header->outputs % 100000 * sizeof(struct mcr_output) +
			       header->sources % 100000 * sizeof(struct mcr_source);
		uint8_t *bytes = calloc(1, count);

		must(bytes != NULL);
		memcpy(bytes, header, sizeof(*header));
		assert_int_equal(mcr_table__load(table, bytes, count), -EINVAL);
		free(bytes);
	}
}

static void places_outside_the_share_are_refused(void **state)
{
	struct mcr_rule good, *rule;

	(void)state;
	rule = share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_source(&share, alice);
	good = *rule;
	rule->outputs = 2;
	check_is_refused();
	rule->outputs = UINT32_MAX;
	check_is_refused();
	*rule = good;
	rule->first_output = UINT32_MAX;
	check_is_refused();
	*rule = good;
	rule->sources = 2;
	check_is_refused();
	*rule = good;
	rule->first_source = UINT32_MAX;
	check_is_refused();
	*rule = good;
	rule->interface = MCR_MAX_INTERFACES;
	check_is_refused();
	*rule = good;
	rule->slot = MCR_MAX_RULES;
	check_is_refused();
	*rule = good;
	rule->prefix_bits = 129;
	check_is_refused();
	*rule = good;
	rule->last_port = (uint16_t)(rule->port - 1);
	check_is_refused();
	*rule = good;
	assert_int_equal(load(), 0);
}

static void outputs_out_of_range_are_refused(void **state)
{
	struct mcr_output good, *output;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	output = share__add_output(&share, MCR_TTL_AUTO, 0);
	good = *output;
	output->slot = MCR_MAX_OUTPUTS;
	check_is_refused();
	*output = good;
	output->ttl_policy = MCR_TTL_FIXED + 1;
	check_is_refused();
	*output = good;
	output->dscp_policy = MCR_DSCP_FIXED + 1;
	check_is_refused();
	*output = good;
	output->engine = MCR_ENGINE_KEEPING + 1;
	check_is_refused();
	*output = good;
	output->prefix_bits = 129;
	check_is_refused();
	*output = good;
	output->link_bytes = 13;
	check_is_refused();
	*output = good;
	assert_int_equal(load(), 0);
}

/* Two that counted in one place would break the sums of both. */
static void a_rule_slot_named_twice_is_refused(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_rule(&share, 0, other_group, 5001);
	assert_int_equal(load(), 0);
	share.rules[1].slot = share.rules[0].slot;
	check_is_refused();
	share.rules[1].last_port++;
	check_is_refused();
	share.rules[0].slot = share.rules[1].slot = MCR_MAX_RULES - 1;
	check_is_refused();
	share.rules[0].slot = 0;
	assert_int_equal(load(), 0);
}

static void an_output_slot_named_twice_is_refused(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_rule(&share, 0, other_group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(load(), 0);
	share.outputs[1].slot = share.outputs[0].slot;
	check_is_refused();
	share.outputs[1].slot = share.outputs[2].slot = MCR_MAX_OUTPUTS - 1;
	check_is_refused();
	share.outputs[2].slot = 1;
	assert_int_equal(load(), 0);
}

/* What an earlier share named is not named by this one. */
static void slots_may_be_named_again_by_the_next_share(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(load(), 0);
	share.outputs[0].slot = MCR_MAX_OUTPUTS;
	check_is_refused();
	share.outputs[0].slot = 0;
	assert_int_equal(load(), 0);
}

static void an_output_of_two_rules_is_refused(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_rule(&share, 0, other_group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share.rules[1].first_output = 0;
	check_is_refused();
	share.rules[0].first_output = 1; /* each has one, in the other's order */
	assert_int_equal(load(), 0);
	share.rules[0].first_output = 0;
	share.rules[0].outputs = 2;
	share.rules[1].first_output = 1;
	check_is_refused();
}

static void the_same_input_twice_is_refused(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_rule(&share, 0, group, 5001);
	check_is_refused();
}

static void the_same_range_for_any_source_twice_is_refused(void **state)
{
	(void)state;
	add_range(0xEF010100, 24, 5001, 5002);
	add_range(0xEF010100, 24, 5001, 5002);
	check_is_refused();
}

static void rules_of_one_group_must_stand_together(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_source(&share, alice);
	share__add_rule(&share, 0, other_group, 5001);
	share__add_rule(&share, 0, group, 5001);
	check_is_refused();
}

static void a_rule_for_any_source_must_stand_last(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_rule(&share, 0, group, 5001);
	share__add_source(&share, alice);
	check_is_refused();
}

static void a_refused_share_leaves_nothing_of_the_one_before(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	assert_int_equal(load(), 0);
	share.outputs[0].slot = MCR_MAX_OUTPUTS;
	check_is_refused();
	assert_int_equal(table->header.interfaces, 0);
	assert_int_equal(table->range_count, 0);
	assert_int_equal(table->output_used[0], 0);
}

#define TABLE_TEST(test) cmocka_unit_test_setup_teardown(test, make_table, free_table)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TABLE_TEST(an_empty_share_is_a_share),
		TABLE_TEST(a_rule_is_found_by_interface_group_and_port),
		TABLE_TEST(the_most_specific_rule_wins),
		TABLE_TEST(another_source_is_refused_by_name),
		TABLE_TEST(a_prefix_holds_its_groups_and_no_other),
		TABLE_TEST(prefixes_of_every_length_end_where_they_say),
		TABLE_TEST(ports_hold_from_the_first_to_the_last),
		TABLE_TEST(a_single_group_comes_before_every_range),
		TABLE_TEST(ranges_are_tried_in_their_order),
		TABLE_TEST(a_range_that_refuses_the_source_passes_on),
		TABLE_TEST(excluded_sources_are_refused_and_all_others_allowed),
		TABLE_TEST(some_sources_come_before_all_but_some_before_any),
		TABLE_TEST(what_was_found_is_not_mixed_up),
		TABLE_TEST(a_new_share_forgets_what_the_one_before_gave),
		TABLE_TEST(a_full_table_finds_every_rule_and_no_other),
		TABLE_TEST(the_digest_does_not_depend_on_the_order_of_rules),
		TABLE_TEST(the_digest_sees_every_change_of_contents),
		TABLE_TEST(the_digest_does_not_see_slots),
		TABLE_TEST(every_wrong_length_is_refused),
		TABLE_TEST(counts_beyond_the_arrays_are_refused),
		TABLE_TEST(places_outside_the_share_are_refused),
		TABLE_TEST(outputs_out_of_range_are_refused),
		TABLE_TEST(a_rule_slot_named_twice_is_refused),
		TABLE_TEST(an_output_slot_named_twice_is_refused),
		TABLE_TEST(slots_may_be_named_again_by_the_next_share),
		TABLE_TEST(an_output_of_two_rules_is_refused),
		TABLE_TEST(the_same_input_twice_is_refused),
		TABLE_TEST(the_same_range_for_any_source_twice_is_refused),
		TABLE_TEST(rules_of_one_group_must_stand_together),
		TABLE_TEST(a_rule_for_any_source_must_stand_last),
		TABLE_TEST(a_refused_share_leaves_nothing_of_the_one_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

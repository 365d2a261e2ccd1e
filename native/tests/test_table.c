#include "../src/table.h"
#include "must.h"
#include "packet.h"
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

static void the_digest_does_not_depend_on_the_order_of_rules(void **state)
{
	struct mcr_rule first;
	uint64_t before;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_rule(&share, 1, other_group, 5002);
	share__add_output(&share, MCR_TTL_FIXED, 3);
	share__add_source(&share, alice);
	before = digest();
	first = share.rules[0];
	share.rules[0] = share.rules[1];
	share.rules[1] = first;
	assert_int_equal(digest(), before);
}

static void the_digest_sees_every_change_of_contents(void **state)
{
	uint64_t seen[12];
	uint32_t count = 0;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_output(&share, MCR_TTL_AUTO, 0);
	share__add_output(&share, MCR_TTL_KEEP, 0);
	share__add_source(&share, alice);
	seen[count++] = digest();
	share.rules[0].last_port++;
	seen[count++] = digest();
	share.rules[0].port++;
	seen[count++] = digest();
	share.rules[0].prefix_bits--;
	seen[count++] = digest();
	share.rules[0].excludes = 1;
	seen[count++] = digest();
	share.rules[0].group[15]++;
	seen[count++] = digest();
	share.rules[0].ifindex++;
	seen[count++] = digest();
	memcpy(share.sources[0].address, bob, 16);
	seen[count++] = digest();
	share.outputs[1].ttl_policy = MCR_TTL_DECREMENT;
	seen[count++] = digest();
	share.outputs[1].port++;
	seen[count++] = digest();
	share.rules[0].outputs = 1;
	seen[count++] = digest();
	share.header.rules = 0;
	seen[count++] = digest();
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
	assert_int_equal(load(), 0);
}

static void outputs_out_of_range_are_refused(void **state)
{
	struct mcr_output *output;

	(void)state;
	share__add_rule(&share, 0, group, 5001);
	output = share__add_output(&share, MCR_TTL_AUTO, 0);
	output->slot = MCR_MAX_OUTPUTS;
	check_is_refused();
	output->slot = 0;
	output->ttl_policy = MCR_TTL_FIXED + 1;
	check_is_refused();
}

static void the_same_input_twice_is_refused(void **state)
{
	(void)state;
	share__add_rule(&share, 0, group, 5001);
	share__add_rule(&share, 0, group, 5001);
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
		TABLE_TEST(a_full_table_finds_every_rule_and_no_other),
		TABLE_TEST(the_digest_does_not_depend_on_the_order_of_rules),
		TABLE_TEST(the_digest_sees_every_change_of_contents),
		TABLE_TEST(the_digest_does_not_see_slots),
		TABLE_TEST(every_wrong_length_is_refused),
		TABLE_TEST(counts_beyond_the_arrays_are_refused),
		TABLE_TEST(places_outside_the_share_are_refused),
		TABLE_TEST(outputs_out_of_range_are_refused),
		TABLE_TEST(the_same_input_twice_is_refused),
		TABLE_TEST(rules_of_one_group_must_stand_together),
		TABLE_TEST(a_rule_for_any_source_must_stand_last),
		TABLE_TEST(a_refused_share_leaves_nothing_of_the_one_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

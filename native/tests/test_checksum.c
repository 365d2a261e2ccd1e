/* Both ways to sum blocks, against the sum of 16-bit words that RFC 1071 describes. */
#define mcr_checksum__add_blocks tested_add_blocks
#include "../src/checksum.c"

#include "testing.h"

#define LONGEST 700

static uint8_t data[LONGEST + 8];

static int fill(void **state)
{
	uint64_t word = 1;

	(void)state;
	for (uint32_t i = 0; i < sizeof(data); i++) {
		word = word * 6364136223846793005u + 1442695040888963407u;
		/* Long runs of ones carry through every sum. */
		data[i] = i % 100 < 30 ? 0xFF : (uint8_t)(word >> 56);
	}
	return 0;
}

static uint32_t plain_sum(const uint8_t *at, uint32_t bytes)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < bytes; i++) {
		sum += i & 1 ? (uint32_t)at[i] << 8 : at[i];
		sum = (sum & 0xFFFF) + (sum >> 16);
	}
	return sum;
}

static void test_every_length_at_every_alignment_has_the_plain_sum(void **state)
{
	(void)state;
	for (uint32_t offset = 0; offset < 8; offset++)
		for (uint32_t bytes = 0; bytes <= LONGEST; bytes++)
			assert_int_equal(
				mcr_checksum__fold(mcr_checksum__add(0, data + offset, bytes)),
				plain_sum(data + offset, bytes));
}

static void test_both_ways_to_sum_blocks_agree(void **state)
{
	(void)state;
	for (uint32_t offset = 0; offset < 8; offset++)
		for (uint32_t bytes = 0; bytes <= LONGEST; bytes += MCR_CHECKSUM_BLOCK) {
			uint32_t plain = plain_sum(data + offset, bytes);

			assert_int_equal(mcr_checksum__fold(add_words(0, data + offset, bytes)),
					 plain);
#ifdef __x86_64__
			if (__builtin_cpu_supports("avx2"))
				assert_int_equal(
					mcr_checksum__fold(add_halves(0, data + offset, bytes)),
					plain);
#endif
		}
}

static void test_blocks_are_added_to_what_there_is(void **state)
{
	(void)state;
	assert_int_equal(mcr_checksum__fold(mcr_checksum__add(
				 mcr_checksum__add(0, data, 2 * MCR_CHECKSUM_BLOCK),
				 data + 2 * MCR_CHECKSUM_BLOCK, 3 * MCR_CHECKSUM_BLOCK)),
			 plain_sum(data, 5 * MCR_CHECKSUM_BLOCK));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_length_at_every_alignment_has_the_plain_sum),
		cmocka_unit_test(test_both_ways_to_sum_blocks_agree),
		cmocka_unit_test(test_blocks_are_added_to_what_there_is),
	};

	return cmocka_run_group_tests(tests, fill, NULL);
}

#include "checksum.h"

/*
 * Two ways to say the same: halves of 64-bit words for AVX2, where gcc makes three instructions of
 * 32 bytes, and 32-bit words for everything else, where it does that best.  9,000 bytes take 130 ns
 * in the first and 310 ns in the second.
 *
 * The index is as wide as a pointer: one of 32 bits might go round, so that gcc picks up the words
 * one by one, which takes three times as long.
 */

static uint64_t add_words(uint64_t sum, const uint8_t *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 4) {
		uint32_t word;

		memcpy(&word, data + i, 4);
		sum += word;
	}
	return sum;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static uint64_t add_halves(uint64_t sum, const uint8_t *data,
							   size_t bytes)
{
	uint64_t low = 0, high = 0;

	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t word;

		memcpy(&word, data + i, 8);
		low += word & 0xFFFFFFFF;
		high += word >> 32;
	}
	return sum + low + high;
}
#endif

uint64_t mcr_checksum__add_blocks(uint64_t sum, const uint8_t *data, uint32_t blocks)
{
	size_t bytes = (size_t)blocks * MCR_CHECKSUM_BLOCK;

#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return add_halves(sum, data, bytes);
#endif
	return add_words(sum, data, bytes);
}

#include "guard.h"

#include <string.h>

#define WINDOW_NS 1000000000ull
#define GUARDED_NS 10000000000ull
/* A loop through two relays passes a datagram thousands of times a second, an honest repeater
 * rarely a hundred. */
#define TIMES_OF_A_LOOP 100
/* With more datagrams than that in a window, entries would be overwritten before they count. */
#define CROWD 20000
#define CROWD_MASK 63
#define FINGERPRINT_BYTES 64

static uint64_t mix(uint64_t state, uint64_t word)
{
	state = (state ^ word) * 0x9E3779B97F4A7C15ull;
	return state ^ state >> 29;
}

/* Of the length, the beginning and the end of the payload. */
static uint64_t fingerprint_of(const struct mcr_datagram *datagram)
{
	uint32_t bytes = datagram->payload_bytes;
	uint32_t some = bytes < FINGERPRINT_BYTES ? bytes : FINGERPRINT_BYTES;
	uint8_t ends[2 * FINGERPRINT_BYTES] = { 0 };
	uint64_t state = bytes, word;

	memcpy(ends, datagram->payload, some);
	memcpy(ends + FINGERPRINT_BYTES, datagram->payload + bytes - some, some);
	for (uint32_t i = 0; i < sizeof(ends); i += sizeof(word)) {
		memcpy(&word, ends + i, sizeof(word));
		state = mix(state, word);
	}
	return state ? state : 1;
}

static void begin_window(struct mcr_guard *guard, uint64_t now_ns)
{
	guard->sample_mask = guard->datagrams > CROWD ? CROWD_MASK : 0;
	guard->datagrams = 0;
	guard->window_start_ns = now_ns;
	memset(guard->entries, 0, sizeof(guard->entries));
}

bool mcr_guard__found_loop(struct mcr_guard *guard, const struct mcr_datagram *datagram,
			   uint64_t now_ns)
{
	uint64_t fingerprint;
	struct mcr_guard_entry *entry;

	if (now_ns - guard->window_start_ns >= WINDOW_NS)
		begin_window(guard, now_ns);
	guard->datagrams++;
	fingerprint = fingerprint_of(datagram);
	if (fingerprint & guard->sample_mask)
		return false;
	entry = &guard->entries[(fingerprint >> 32) % MCR_GUARD_ENTRIES];
	if (entry->fingerprint != fingerprint) {
		/* The one that comes more often stays. */
		if (entry->times) {
			entry->times--;
			return false;
		}
		entry->fingerprint = fingerprint;
	}
	if (++entry->times < TIMES_OF_A_LOOP || mcr_guard__is_on(guard, now_ns))
		return false;
	guard->guarded_until_ns = now_ns + GUARDED_NS;
	begin_window(guard, now_ns);
	return true;
}

#include "watch.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define PACKETS_OF_ONE_LOOK 256
#define PACKETS_OF_ONE_CALL 32
/* IPv6 and UDP header, or IPv4 with all options: all that is looked at. */
#define HEADER_BYTES 128
#define WAYS 4

static uint64_t realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static bool is_same(const struct mcr_unmatched_entry *entry, uint32_t interface,
		    const struct mcr_datagram *datagram)
{
	return entry->packets && entry->interface == interface && entry->port == datagram->port &&
	       !memcmp(entry->group, datagram->group, 16) &&
	       !memcmp(entry->source, datagram->source, 16);
}

/* Its entry, or the one of the few where it may stand that was not seen for the longest time. */
static struct mcr_unmatched_entry *place(struct mcr_unmatched *table, uint32_t interface,
					 const struct mcr_datagram *datagram)
{
	uint32_t hash = interface * 31u + datagram->port * 131u + datagram->group[15] * 17u +
			datagram->group[14] * 257u + datagram->source[15] * 7u +
			datagram->source[14];
	struct mcr_unmatched_entry *ways =
		&table->entries[hash % (MCR_UNMATCHED_ENTRIES / WAYS) * WAYS];
	struct mcr_unmatched_entry *oldest = ways;

	for (uint32_t i = 0; i < WAYS; i++) {
		if (is_same(&ways[i], interface, datagram))
			return &ways[i];
		if (ways[i].last_seen_ns < oldest->last_seen_ns)
			oldest = &ways[i];
	}
	memset(oldest, 0, sizeof(*oldest));
	memcpy(oldest->group, datagram->group, 16);
	memcpy(oldest->source, datagram->source, 16);
	oldest->interface = interface;
	oldest->port = datagram->port;
	return oldest;
}

static void note(struct mcr_unmatched *table, uint32_t interface, const uint8_t *data,
		 uint32_t bytes, uint16_t protocol, uint64_t now)
{
	/* With a known checksum only the headers are read, which is all there is; the length is the
	 * packet's. */
	struct mcr_packet packet = {
		.data = data, .bytes = bytes, .protocol = protocol, .checksum_known = 1
	};
	struct mcr_datagram datagram;
	struct mcr_unmatched_entry *entry;

	/* Extension headers may reach beyond what was kept; the filter passes none. */
	if (protocol == ETH_P_IPV6 && data[6] != IPPROTO_UDP)
		return;
	if (mcr_parse__packet(&packet, &datagram))
		return;
	entry = place(table, interface, &datagram);
	entry->packets++;
	entry->last_seen_ns = now;
}

static int receive(int fd, uint8_t buffers[][HEADER_BYTES], struct sockaddr_ll *links,
		   struct mmsghdr *messages)
{
	struct iovec parts[PACKETS_OF_ONE_CALL];

	for (uint32_t i = 0; i < PACKETS_OF_ONE_CALL; i++) {
		parts[i] = (struct iovec){ .iov_base = buffers[i], .iov_len = HEADER_BYTES };
		messages[i].msg_hdr = (struct msghdr){ .msg_name = &links[i],
						       .msg_namelen = sizeof(links[i]),
						       .msg_iov = &parts[i],
						       .msg_iovlen = 1 };
		memset(buffers[i], 0, HEADER_BYTES);
	}
	return recvmmsg(fd, messages, PACKETS_OF_ONE_CALL, MSG_DONTWAIT | MSG_TRUNC, NULL);
}

void mcr_watch__look(struct mcr_unmatched *table, int fd, uint32_t interface)
{
	uint8_t buffers[PACKETS_OF_ONE_CALL][HEADER_BYTES];
	struct sockaddr_ll links[PACKETS_OF_ONE_CALL];
	struct mmsghdr messages[PACKETS_OF_ONE_CALL];
	uint64_t now = realtime_ns();

	for (uint32_t looked = 0; looked < PACKETS_OF_ONE_LOOK; looked += PACKETS_OF_ONE_CALL) {
		int count = receive(fd, buffers, links, messages);

		for (int i = 0; i < count; i++)
			note(table, interface, buffers[i], messages[i].msg_len,
			     ntohs(links[i].sll_protocol), now);
		if (count < PACKETS_OF_ONE_CALL)
			return;
	}
}

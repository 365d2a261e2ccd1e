#include "ring.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <arpa/inet.h>

/* In linux/virtio_net.h since Linux 6.2 only. */
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define VLAN_ID_MASK 0x0FFF
#define CACHE_LINE_BYTES 64
/* Asking for more at once slows down 9,000 bytes by 6 %: it pushes out what is worked on. */
#define MOST_AHEAD_BYTES 2048
#define REASON(name) (-(MCR_IGNORED_##name + 1))

static struct tpacket2_hdr *frame_at(const struct mcr_ring *ring, uint32_t index)
{
	return (struct tpacket2_hdr *)(ring->map + (uint64_t)index * ring->frame_bytes);
}

static uint32_t after(const struct mcr_ring *ring, uint32_t index)
{
	return index + 1 == ring->frames ? 0 : index + 1;
}

static uint32_t status_of(const struct tpacket2_hdr *header)
{
	return __atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE);
}

/*
 * A worker that died while it gave a frame back left "releasing" ahead of "cursor".  If the kernel
 * already owns that frame, or has filled it again and so cleared the padding, it was given back,
 * and the next one is where the kernel continues.
 */
static void resume(struct mcr_ring *ring)
{
	uint64_t cursor = ring->shared->cursor;
	const struct tpacket2_hdr *header = frame_at(ring, cursor % ring->frames);

	if (ring->shared->releasing == cursor + 1 &&
	    (!(status_of(header) & TP_STATUS_USER) || !header->tp_padding[0]))
		ring->shared->cursor = ++cursor;
	ring->next = (uint32_t)(cursor % ring->frames);
}

int mcr_ring__map(struct mcr_ring *ring, int fd, uint32_t frame_bytes, uint32_t frames,
		  struct mcr_interface_counters *shared)
{
	uint8_t *map;

	if (!frames || frame_bytes < sizeof(struct tpacket2_hdr))
		return -EINVAL;
	map = mmap(NULL, (uint64_t)frame_bytes * frames, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	*ring = (struct mcr_ring){ .fd = fd,
				   .map = map,
				   .frame_bytes = frame_bytes,
				   .frames = frames,
				   .copies_unsure = true,
				   .shared = shared };
	resume(ring);
	return 0;
}

void mcr_ring__unmap(struct mcr_ring *ring)
{
	if (ring->fd < 0)
		return;
	munmap(ring->map, (uint64_t)ring->frame_bytes * ring->frames);
	close(ring->fd);
	ring->fd = -1;
}

/*
 * The ring kept the beginning of this frame; the whole of it waits in the socket's queue, in the
 * order of the frames.  A worker that died in between may have taken it already: then the head of
 * the queue belongs to a later frame and must stay there.
 */
static bool head_is_copy_of(struct mcr_ring *ring, const struct tpacket2_hdr *header)
{
	uint8_t head[2048];
	const uint8_t *kept = (const uint8_t *)header + header->tp_mac;
	uint32_t compare = header->tp_snaplen;
	ssize_t bytes;

	if (!ring->copies_unsure)
		return true;
	/* An interface that went down is reported once, in the place of a frame. */
	do
		bytes = recv(ring->fd, head, sizeof(head), MSG_PEEK | MSG_DONTWAIT);
	while (bytes < 0 && errno == ENETDOWN);
	if (bytes <= (ssize_t)sizeof(struct virtio_net_hdr))
		return false;
	bytes -= (ssize_t)sizeof(struct virtio_net_hdr);
	if (compare > (uint32_t)bytes)
		compare = (uint32_t)bytes;
	if (memcmp(head + sizeof(struct virtio_net_hdr), kept, compare))
		return false;
	ring->copies_unsure = false;
	return true;
}

static bool fetch_copy(struct mcr_ring *ring, struct mcr_arena *arena,
		       const struct tpacket2_hdr *header, struct mcr_frame *frame)
{
	uint8_t *room = arena->data + arena->used;
	uint32_t skip = sizeof(struct virtio_net_hdr) + header->tp_net - header->tp_mac;
	ssize_t bytes;

	if (!head_is_copy_of(ring, header))
		return false;
	do
		bytes = recv(ring->fd, room, MCR_SUPER_FRAME_BYTES, MSG_DONTWAIT);
	while (bytes < 0 && errno == ENETDOWN);
	if (bytes < (ssize_t)skip)
		return false;
	arena->used += ((uint32_t)bytes + 15) & ~15u;
	frame->packet.data = room + skip;
	frame->packet.bytes = (uint32_t)bytes - skip;
	return true;
}

/*
 * A valid checksum as computed by the NIC (DATA_VALID) need not be computed again, one that a local
 * sender left unfinished (NEEDS_CSUM) cannot be.  TP_STATUS_CSUM_VALID says less: it is also set
 * for sums that nobody has compared yet.
 */
static void read_offloads(const struct tpacket2_hdr *header, struct mcr_frame *frame)
{
	struct virtio_net_hdr offloads;

	memcpy(&offloads, (const uint8_t *)header + header->tp_mac - sizeof(offloads),
	       sizeof(offloads));
	frame->packet.checksum_known =
		offloads.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID) ? 1 :
											       0;
	frame->segment_bytes =
		offloads.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? offloads.gso_size : 0;
}

static const struct sockaddr_ll *link_of(const struct tpacket2_hdr *header)
{
	return (const void *)((const uint8_t *)header + TPACKET_ALIGN(sizeof(*header)));
}

static int reason_to_ignore(const struct tpacket2_hdr *header, uint32_t status)
{
	if (link_of(header)->sll_pkttype == PACKET_OUTGOING)
		return REASON(OWN);
	/* VLAN 0 carries a priority and no VLAN (IEEE 802.1Q section 6.9.1). */
	if (status & TP_STATUS_VLAN_VALID && header->tp_vlan_tci & VLAN_ID_MASK)
		return REASON(VLAN);
	return 0;
}

/* What the ring kept, from the IP header on. */
static uint32_t kept_bytes(const struct tpacket2_hdr *header)
{
	uint32_t link_bytes = header->tp_net - header->tp_mac;

	return header->tp_snaplen > link_bytes ? header->tp_snaplen - link_bytes : 0;
}

/*
 * Another CPU has written the frames, so each of their cache lines comes from afar.  The next
 * frame, which is often as long as this one, is on its way while this one is worked on.
 */
static void fetch_ahead(const struct mcr_ring *ring, uint32_t bytes)
{
	uint32_t index = after(ring, ring->next);
	const struct tpacket2_hdr *following = frame_at(ring, index);

	__builtin_prefetch(frame_at(ring, after(ring, index)));
	if (!(status_of(following) & TP_STATUS_USER))
		return;
	if (bytes > MOST_AHEAD_BYTES)
		bytes = MOST_AHEAD_BYTES;
	for (uint32_t at = CACHE_LINE_BYTES; at < bytes; at += CACHE_LINE_BYTES)
		__builtin_prefetch((const uint8_t *)following + at);
}

bool mcr_ring__read(struct mcr_ring *ring, struct mcr_arena *arena, struct mcr_frame *frame)
{
	const struct tpacket2_hdr *header = frame_at(ring, ring->next);
	uint32_t status = status_of(header);

	if (!(status & TP_STATUS_USER) || ring->unread == ring->frames ||
	    arena->bytes - arena->used < MCR_SUPER_FRAME_BYTES)
		return false;
	read_offloads(header, frame);
	frame->packet.data = (const uint8_t *)header + header->tp_net;
	frame->packet.bytes = kept_bytes(header);
	frame->packet.protocol = ntohs(link_of(header)->sll_protocol);
	frame->received_ns = header->tp_sec * 1000000000ull + header->tp_nsec;
	frame->reason = reason_to_ignore(header, status);
	if (status & TP_STATUS_COPY && !fetch_copy(ring, arena, header, frame))
		frame->reason = REASON(TRUNCATED);
	fetch_ahead(ring, header->tp_mac + header->tp_snaplen);
	ring->next = after(ring, ring->next);
	ring->unread++;
	return true;
}

void mcr_ring__release(struct mcr_ring *ring)
{
	uint64_t cursor = ring->shared->cursor;
	uint32_t index = (uint32_t)(cursor % ring->frames);

	for (; ring->unread; ring->unread--) {
		struct tpacket2_hdr *header = frame_at(ring, index);

		header->tp_padding[0] = 1;
		__atomic_store_n(&ring->shared->releasing, cursor + 1, __ATOMIC_RELEASE);
		__atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		__atomic_store_n(&ring->shared->cursor, ++cursor, __ATOMIC_RELEASE);
		index = after(ring, index);
	}
}

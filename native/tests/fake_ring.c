#include "fake_ring.h"

#include "must.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct fake_ring *rings;

/* ---- life ---- */

void fake_ring__init(struct fake_ring *ring, uint32_t frame_bytes, uint32_t frames)
{
	size_t bytes = (size_t)frame_bytes * frames;

	*ring = (struct fake_ring){ .fd = memfd_create("ring", MFD_CLOEXEC),
				    .frame_bytes = frame_bytes,
				    .frames = frames,
				    .next = rings };
	must(ring->fd >= 0 && !ftruncate(ring->fd, (off_t)bytes));
	ring->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
	must(ring->map != MAP_FAILED);
	rings = ring;
}

static void drop_copy(struct fake_ring *ring)
{
	free(ring->queue[0].bytes);
	memmove(ring->queue, ring->queue + 1, --ring->queued * sizeof(ring->queue[0]));
}

void fake_ring__clear(struct fake_ring *ring)
{
	while (ring->queued)
		drop_copy(ring);
	for (uint32_t i = 0; i < ring->frames; i++)
		fake_ring__frame(ring, i)->tp_status = TP_STATUS_KERNEL;
	ring->head = 0;
	ring->error = 0;
}

void fake_ring__destroy_all(void)
{
	for (; rings; rings = rings->next) {
		fake_ring__clear(rings);
		munmap(rings->map, (size_t)rings->frame_bytes * rings->frames);
		close(rings->fd);
	}
}

int fake_ring__open(struct fake_ring *ring)
{
	return dup(ring->fd);
}

struct tpacket2_hdr *fake_ring__frame(const struct fake_ring *ring, uint32_t index)
{
	return (void *)(ring->map + (size_t)(index % ring->frames) * ring->frame_bytes);
}

uint32_t fake_ring__waiting(const struct fake_ring *ring)
{
	uint32_t waiting = 0;

	for (uint32_t i = 0; i < ring->frames; i++)
		waiting += fake_ring__frame(ring, i)->tp_status & TP_STATUS_USER;
	return waiting;
}

/* ---- the kernel's side ---- */

static void queue_copy(struct fake_ring *ring, const struct fake_frame *frame)
{
	struct fake_copy *copy = &ring->queue[ring->queued++];

	copy->count = (uint32_t)sizeof(frame->offloads) + frame->count;
	copy->bytes = malloc(copy->count);
	must(copy->bytes);
	memcpy(copy->bytes, &frame->offloads, sizeof(frame->offloads));
	memcpy(copy->bytes + sizeof(frame->offloads), frame->bytes, frame->count);
}

/* Give the offset of the link header. */
static uint16_t lay_out(struct tpacket2_hdr *header, const struct fake_frame *frame)
{
	uint32_t link_bytes = frame->link_bytes;
	uint32_t net = TPACKET_ALIGN(TPACKET2_HDRLEN + (link_bytes < 16 ? 16 : link_bytes)) +
		       (uint32_t)sizeof(struct virtio_net_hdr);

	header->tp_len = frame->count;
	header->tp_net = (uint16_t)net;
	header->tp_mac = (uint16_t)(net - link_bytes);
	return header->tp_mac;
}

bool fake_ring__receive(struct fake_ring *ring, const struct fake_frame *frame)
{
	struct tpacket2_hdr *header = fake_ring__frame(ring, ring->head);
	struct sockaddr_ll link = { .sll_family = AF_PACKET,
				    .sll_protocol = htons(frame->protocol),
				    .sll_pkttype = frame->pkttype };
	uint32_t status = TP_STATUS_USER, kept = frame->count, mac;
	uint8_t *slot = (uint8_t *)header;

	if (header->tp_status != TP_STATUS_KERNEL)
		return false;
	mac = lay_out(header, frame);
	must(mac < ring->frame_bytes);
	if (mac + kept > ring->frame_bytes) {
		kept = ring->frame_bytes - mac;
		if (!frame->no_room && ring->queued < FAKE_RING_QUEUE) {
			queue_copy(ring, frame);
			status |= TP_STATUS_COPY;
		}
	}
	header->tp_snaplen = kept;
	header->tp_sec = (uint32_t)(frame->received_ns / 1000000000);
	header->tp_nsec = (uint32_t)(frame->received_ns % 1000000000);
	memset(header->tp_padding, 0, sizeof(header->tp_padding));
	if (frame->has_vlan) {
		status |= TP_STATUS_VLAN_VALID;
		header->tp_vlan_tci = frame->vlan_tci;
	}
	memcpy(slot + TPACKET_ALIGN(sizeof(*header)), &link, sizeof(link));
	memcpy(slot + mac - sizeof(frame->offloads), &frame->offloads, sizeof(frame->offloads));
	memcpy(slot + mac, frame->bytes, kept);
	header->tp_status = status;
	ring->head = (ring->head + 1) % ring->frames;
	return true;
}

/* ---- the socket's side ---- */

static struct fake_ring *ring_of(int fd)
{
	struct stat wanted, have;

	if (!rings || fstat(fd, &wanted))
		return NULL;
	for (struct fake_ring *ring = rings; ring; ring = ring->next)
		if (!fstat(ring->fd, &have) && have.st_dev == wanted.st_dev &&
		    have.st_ino == wanted.st_ino)
			return ring;
	return NULL;
}

static ssize_t fail(int error)
{
	errno = error;
	return -1;
}

ssize_t __real_recv(int fd, void *buffer, size_t bytes, int flags);

/* As packet_recvmsg(): an error that is pending comes first. */
ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags)
{
	struct fake_ring *ring = ring_of(fd);

	if (!ring)
		return __real_recv(fd, buffer, bytes, flags);
	if (ring->error) {
		int error = ring->error;

		ring->error = 0;
		return fail(error);
	}
	if (!ring->queued)
		return fail(EAGAIN);
	if (bytes > ring->queue[0].count)
		bytes = ring->queue[0].count;
	if (bytes)
		memcpy(buffer, ring->queue[0].bytes, bytes);
	if (!(flags & MSG_PEEK))
		drop_copy(ring);
	return (ssize_t)bytes;
}

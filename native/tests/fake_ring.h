/*
 * A TPACKET_V2 receive ring in a memory file, filled as tpacket_rcv() in net/packet/af_packet.c
 * does it for a socket with PACKET_VNET_HDR and PACKET_COPY_THRESH.
 *
 * A program that uses it is linked with --wrap=recv, so that the queue of whole frames can be read
 * from the memory file as from a socket.
 */
#pragma once

#include "../mcr.h"

#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <stdbool.h>

#define FAKE_RING_QUEUE 256

struct fake_frame {
	const uint8_t *bytes; /* from the link header on */
	uint32_t count;
	uint32_t link_bytes;
	uint16_t protocol; /* EtherType, host order */
	uint8_t pkttype;
	bool has_vlan;
	uint16_t vlan_tci;
	bool no_room; /* in the queue of whole frames */
	uint64_t received_ns;
	struct virtio_net_hdr offloads;
};

struct fake_copy {
	uint8_t *bytes; /* struct virtio_net_hdr, then the frame */
	uint32_t count;
};

struct fake_ring {
	int fd;
	uint8_t *map;
	uint32_t frame_bytes;
	uint32_t frames;
	uint32_t head; /* frame that the kernel fills next */
	int error;     /* pending at the socket, reported and forgotten by the next recv() */
	struct fake_copy queue[FAKE_RING_QUEUE];
	uint32_t queued;
	struct fake_ring *next;
};

void fake_ring__init(struct fake_ring *ring, uint32_t frame_bytes, uint32_t frames);
void fake_ring__destroy_all(void);
/* A descriptor to give away; at most one relay at a time may hold one. */
int fake_ring__open(struct fake_ring *ring);
/* Empty it, as the kernel makes it. */
void fake_ring__clear(struct fake_ring *ring);
/* Receive a frame; false: no room, dropped. */
bool fake_ring__receive(struct fake_ring *ring, const struct fake_frame *frame);
struct tpacket2_hdr *fake_ring__frame(const struct fake_ring *ring, uint32_t index);
/* Frames that wait for the reader. */
uint32_t fake_ring__waiting(const struct fake_ring *ring);

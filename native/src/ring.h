/*
 * A TPACKET_V2 receive ring.  The socket belongs to the supervisor; the place to read on from is
 * kept in shared memory, so that a successor continues where a dead worker stopped.
 *
 * Source: linux/if_packet.h; Documentation/networking/packet_mmap.rst.
 */
#pragma once

#include "../mcr.h"

#include <stdbool.h>

struct mcr_ring {
	int fd; /* -1: slot not in use */
	uint8_t *map;
	uint32_t frame_bytes;
	uint32_t frames;
	uint32_t next;	 /* index of the frame to read next */
	uint32_t unread; /* frames read but not yet given back */
	bool copies_unsure;
	struct mcr_interface_counters *shared;
};

/* A frame as the kernel left it. */
struct mcr_frame {
	struct mcr_packet packet;
	uint32_t segment_bytes; /* UDP payload per datagram of a super-frame, else 0 */
	uint64_t received_ns;	/* CLOCK_REALTIME */
	int reason;		/* 0, or why it is to be ignored: -(reason + 1) */
};

/* Room for frames that did not fit into the ring; emptied after every batch. */
struct mcr_arena {
	uint8_t *data;
	uint32_t bytes;
	uint32_t used;
};

#define MCR_ARENA_BYTES (4u << 20)
#define MCR_SUPER_FRAME_BYTES (68u << 10)

int mcr_ring__map(struct mcr_ring *ring, int fd, uint32_t frame_bytes, uint32_t frames,
		  struct mcr_interface_counters *shared);
void mcr_ring__unmap(struct mcr_ring *ring);
/* Read one frame; false if there is none, or no room in the arena for it. */
bool mcr_ring__read(struct mcr_ring *ring, struct mcr_arena *arena, struct mcr_frame *frame);
/* Give all frames read so far back to the kernel. */
void mcr_ring__release(struct mcr_ring *ring);

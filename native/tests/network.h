/* A network namespace of our own with its loopback device or a cable, and sockets in it. */
#pragma once

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NETWORK_FRAME_BYTES 65600

/* Leave the host's network for an empty one with loopback up.  False where that is not allowed. */
bool network__enter(void);
void network__set_loopback(bool up, int mtu);
/* A UDP socket bound to a port of 127.0.0.1 or ::1; 0: the kernel chooses. */
int network__open_receiver(int ip_version, uint16_t *port);
/* A UDP socket connected to it, as the supervisor opens an output. */
int network__open_output(int ip_version, uint16_t port);
/* The same without a destination, as for an output whose destination follows from the datagram. */
int network__open_mapped_output(int ip_version);
/* A packet socket on loopback with a ring, as the supervisor opens it. */
int network__open_ring(uint32_t frame_bytes, uint32_t frames);

/* One message, perhaps of several datagrams. */
struct network_message {
	ssize_t bytes;		/* -1: nothing came within a second */
	uint32_t segment_bytes; /* 0: one datagram */
	int ttl;
	int tos;
	uint8_t payload[65536];
};

void network__receive(int fd, struct network_message *message);
bool network__is_empty(int fd);

/* A veth pair, "left" and "right", both up.  False where the kernel has none. */
bool network__plug_cable(void);
void network__set_left(bool up, bool finishes_checksums);
/* A packet socket that sends whole packets, as the supervisor opens it. */
int network__open_packet_output(void);
/* A packet socket that sees what "right" receives. */
int network__open_capture(void);

/* What came over the cable, from the link header on. */
struct network_frame {
	ssize_t count; /* -1: nothing came in time */
	struct virtio_net_hdr offloads;
	uint8_t bytes[NETWORK_FRAME_BYTES];
};

/* The next one that this link address has sent: the kernel sends some of its own. */
void network__capture(int fd, const uint8_t link_source[6], int wait_ms,
		      struct network_frame *frame);

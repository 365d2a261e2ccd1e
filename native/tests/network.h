/* The loopback device of a network namespace of our own, and sockets in it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Leave the host's network for an empty one with loopback up.  False where that is not allowed. */
bool network__enter(void);
void network__set_loopback(bool up, int mtu);
/* A UDP socket bound to a port of 127.0.0.1 or ::1; 0: the kernel chooses. */
int network__open_receiver(int ip_version, uint16_t *port);
/* A UDP socket connected to it, as the supervisor opens an output. */
int network__open_output(int ip_version, uint16_t port);
/* A packet socket on loopback with a ring, as the supervisor opens it. */
int network__open_ring(uint32_t frame_bytes, uint32_t frames);

/* One message, perhaps of several datagrams. */
struct network_message {
	ssize_t bytes;		/* -1: nothing came within a second */
	uint32_t segment_bytes; /* 0: one datagram */
	int ttl;
	uint8_t payload[65536];
};

void network__receive(int fd, struct network_message *message);
bool network__is_empty(int fd);

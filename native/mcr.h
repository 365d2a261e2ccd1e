/*
 * The C interface of the relay.  The C compiler and cffi read this same file,
 * so it holds only declarations and "#define NAME NUMBER".
 *
 * Ownership: a descriptor handed to mcr_relay__* belongs to the relay from then on, also on
 * failure. Errors: functions return 0, a count, or a negative errno.
 */
#pragma once

#include <stdint.h>

#define MCR_ABI 2
#define MCR_MAX_INTERFACES 64
#define MCR_MAX_RULES 8192
#define MCR_MAX_OUTPUTS 32768
#define MCR_MAX_SOURCES 65536
#define MCR_IGNORED_REASONS 12
#define MCR_NOT_SENT_REASONS 14
#define MCR_RULE_LATENCY_BUCKETS 64
#define MCR_TRACE_ENTRIES 4096
#define MCR_UNMATCHED_ENTRIES 256
#define MCR_MAX_WORKERS 256
#define MCR_MAX_BATCH 512
#define MCR_PRIORITIES 4

/* Why a received datagram was not relayed. */
enum mcr_ignored {
	MCR_IGNORED_NO_RULE,	 /* the kernel filter let it through, the table knows better */
	MCR_IGNORED_SOURCE,	 /* the group has a rule, but not for this sender */
	MCR_IGNORED_VLAN,	 /* tagged: it belongs to the VLAN's own interface */
	MCR_IGNORED_NOT_UDP,	 /* neither IPv4 nor IPv6, or no UDP in it */
	MCR_IGNORED_MALFORMED,	 /* lengths or versions that contradict each other */
	MCR_IGNORED_TRUNCATED,	 /* longer than what the kernel could keep of it */
	MCR_IGNORED_FRAGMENT,	 /* a fragment that was not put together */
	MCR_IGNORED_CHECKSUM,	 /* wrong on the wire */
	MCR_IGNORED_OWN,	 /* sent by this host */
	MCR_IGNORED_INTERRUPTED, /* in hand when the worker died; read again by its successor */
	MCR_IGNORED_EXTENSION,	 /* IPv6 extension headers that must not be skipped */
};

/* Why a matched datagram did not leave by one output. */
enum mcr_not_sent {
	MCR_NOT_SENT_NO_SOCKET,	  /* the output's interface or route is missing */
	MCR_NOT_SENT_BACKING_OFF, /* it failed a moment ago and is left alone for a while */
	MCR_NOT_SENT_NO_BUFFER,	  /* socket or device queue full */
	MCR_NOT_SENT_UNREACHABLE, /* no route, or the network or host is down */
	MCR_NOT_SENT_DOWN,	  /* the interface is down or gone */
	MCR_NOT_SENT_DENIED,	  /* a firewall said no */
	MCR_NOT_SENT_TOO_LONG,	  /* longer than a datagram of that network can be */
	MCR_NOT_SENT_REFUSED,	  /* the destination host answered that nobody listens */
	MCR_NOT_SENT_RATE,	  /* above the output's rate limit */
	MCR_NOT_SENT_TTL,	  /* arrived with a time to live of 1, under ttl: decrement */
	MCR_NOT_SENT_INTERRUPTED, /* in hand when the worker died */
	MCR_NOT_SENT_OTHER,
};

/* Where the DSCP of what leaves comes from (RFC 2474). */
enum mcr_dscp_policy {
	MCR_DSCP_KEEP, /* as it arrived */
	MCR_DSCP_FIXED,
};

/* How what leaves is made.  The last two write whole packets, past the IP stack of this host. */
enum mcr_engine {
	MCR_ENGINE_UDP,	     /* connected UDP socket: kernel-routed, this host's address */
	MCR_ENGINE_MAPPED,   /* UDP socket whose destination follows from each datagram */
	MCR_ENGINE_ETHERNET, /* packet socket: address and port of the output's UDP socket */
	MCR_ENGINE_KEEPING,  /* packet socket: the original source address and port */
};

enum mcr_ttl_policy {
	MCR_TTL_AUTO,	   /* one less, never below 1 */
	MCR_TTL_KEEP,	   /* as it arrived */
	MCR_TTL_DECREMENT, /* one less, what arrives with 1 is dropped */
	MCR_TTL_FIXED,	   /* the number beside it */
};

/* ---- shared memory: written by one worker, read by the supervisor ---- */

/* received == matched + sum(ignored) */
struct mcr_interface_counters {
	uint64_t received;
	uint64_t matched;
	uint64_t ignored[MCR_IGNORED_REASONS];
	uint64_t cursor;    /* frames of the ring given back to the kernel so far */
	uint64_t releasing; /* cursor + 1 while a frame is being given back */
};

struct mcr_rule_counters {
	uint64_t matched;
	uint64_t bytes; /* UDP payload */
};

/* rule.matched == sent + sum(not_sent), for each output of the rule */
struct mcr_output_counters {
	uint64_t sent;
	uint64_t bytes; /* UDP payload */
	uint64_t not_sent[MCR_NOT_SENT_REASONS];
};

/*
 * Times from the kernel's receipt to the send call, per rule: bucket 0 holds what took less than 1
 * us, then four equal buckets for each doubling, so that bucket 1 + 4 * octave + quarter begins at
 * 2^octave * (4 + quarter) / 4 us.  The last one holds all that took longer.
 */
struct mcr_latency {
	uint64_t buckets[MCR_RULE_LATENCY_BUCKETS];
};

/* One output of one datagram. */
struct mcr_trace_entry {
	uint64_t number;      /* of the entry, plus one; 0 while it is being written */
	uint64_t received_ns; /* CLOCK_REALTIME */
	uint64_t sent_ns;
	uint32_t output;  /* slot */
	uint32_t verdict; /* 0: sent; else enum mcr_not_sent plus one */
	uint32_t bytes;	  /* UDP payload */
	uint16_t source_port;
	uint8_t ttl; /* as it arrived */
	uint8_t reserved;
	uint8_t source[16];
};

/* The supervisor writes rule and every, the worker all else. */
struct mcr_trace {
	uint64_t rule;	/* slot plus one; 0: off */
	uint64_t every; /* nth datagram */
	uint64_t written;
	struct mcr_trace_entry entries[MCR_TRACE_ENTRIES];
};

/* UDP multicast that matches no rule; packets is 0 for an entry not in use. */
struct mcr_unmatched_entry {
	uint8_t group[16];
	uint8_t source[16];
	uint32_t interface; /* slot */
	uint16_t port;
	uint16_t reserved;
	uint64_t packets;      /* that were looked at */
	uint64_t last_seen_ns; /* CLOCK_REALTIME */
};

struct mcr_unmatched {
	struct mcr_unmatched_entry entries[MCR_UNMATCHED_ENTRIES];
};

struct mcr_shared {
	uint64_t abi;
	uint64_t sequence;     /* odd while counters are being changed */
	uint64_t heartbeat_ns; /* CLOCK_MONOTONIC */
	uint64_t generation;   /* of the installed share */
	uint64_t digest;       /* of the installed table, computed anew every second */
	uint64_t batches;
	uint64_t sleeps;      /* waits on purpose, to let a batch gather */
	uint64_t polls;	      /* waits for the next packet */
	uint64_t coalesce_ns; /* how long a wait on purpose is at present; 0: there is none */
	struct mcr_interface_counters interfaces[MCR_MAX_INTERFACES];
	struct mcr_rule_counters rules[MCR_MAX_RULES];
	struct mcr_output_counters outputs[MCR_MAX_OUTPUTS];
	struct mcr_latency latencies[MCR_MAX_RULES];
	struct mcr_trace trace;
	struct mcr_unmatched unmatched;
};

/* ---- a share, as the supervisor writes it: header, rules, outputs, sources ---- */

struct mcr_share_header {
	uint32_t abi;
	uint32_t rules;
	uint32_t outputs;
	uint32_t sources;
	uint64_t generation;
	uint64_t interfaces; /* slots whose rings are to be read, one bit each */
};

/* Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d; numbers are in host order. */
struct mcr_rule {
	uint8_t group[16];  /* of a range: its first address */
	uint32_t interface; /* slot of the ring */
	uint32_t ifindex;
	uint16_t port; /* of a range: its first port */
	uint16_t last_port;
	uint8_t prefix_bits; /* of the 128: 128 for a single group */
	uint8_t excludes;    /* the sources are those that are not meant */
	uint16_t reserved;
	uint32_t slot; /* of the counters */
	uint32_t first_output;
	uint32_t outputs;
	uint32_t first_source;
	uint32_t sources; /* 0: any */
};

struct mcr_output {
	uint8_t address[16];
	uint32_t ifindex; /* 0: the routing table decides */
	uint32_t mtu;	  /* of the link, for what the kernel does not fragment for us */
	uint64_t rate;	  /* 0: no limit; else datagrams or bits of IP packet per second */
	uint16_t port;	  /* 0: that of the datagram plus port_offset */
	int16_t port_offset;
	uint8_t prefix_bits; /* of the 128 that come from address; the rest from the datagram's
				group */
	uint8_t rate_in_bits;
	uint8_t ttl_policy;
	uint8_t ttl;
	uint8_t dscp_policy;
	uint8_t dscp;
	uint8_t engine;
	uint8_t link_bytes; /* of link_source: 0 on links without a header */
	uint8_t link_source[6];
	uint8_t ipv6;
	uint8_t reserved;
	uint32_t slot; /* of the counters and of the socket; not part of the digest */
};

struct mcr_source {
	uint8_t address[16];
};

/* ---- table ---- */

struct mcr_table;

struct mcr_table *mcr_table__new(void);
void mcr_table__free(struct mcr_table *table);
/* Replace the contents by a share.  -EINVAL: the share contradicts itself; the table is then empty.
 */
int mcr_table__load(struct mcr_table *table, const uint8_t *share, uint64_t bytes);
/* Index of the rule that fits best: a single group before a range, a longer prefix before a shorter
 * one, a rule with that source before one for any.  -ENOENT, or -EACCES where only the source is
 * not allowed. */
int mcr_table__find(struct mcr_table *table, uint32_t interface, const uint8_t group[16],
		    uint16_t port, const uint8_t source[16]);
const struct mcr_rule *mcr_table__rule(const struct mcr_table *table, uint32_t index);
uint64_t mcr_table__generation(const struct mcr_table *table);
/* Hash of the contents, equal for equal contents in whatever order they were loaded. */
uint64_t mcr_table__digest(const struct mcr_table *table);

/* ---- parse ---- */

/* One UDP datagram, or a super-frame of several, inside a packet that begins with its IP header. */
struct mcr_datagram {
	uint8_t source[16];
	uint8_t group[16];
	uint16_t source_port;
	uint16_t port;
	uint8_t ttl;
	uint8_t dscp;
	uint8_t guarded; /* the loop guard turns ttl: auto into decrement */
	const uint8_t *payload;
	uint32_t payload_bytes;
};

/* What the kernel says about a packet. */
struct mcr_packet {
	const uint8_t *data;	/* first byte of the IP header */
	uint32_t bytes;		/* captured */
	uint16_t protocol;	/* EtherType, host order */
	uint8_t checksum_known; /* verified by the NIC, or unfinished by a local sender */
	uint8_t reserved;
};

/* 0, or a negative "enum mcr_ignored" minus one: -(reason + 1). */
int mcr_parse__packet(const struct mcr_packet *packet, struct mcr_datagram *datagram);

/* ---- relay ---- */

struct mcr_relay;

/* Map the shared memory (a memfd of sizeof(struct mcr_shared)) and allocate everything that will
 * ever be needed.  NULL with errno set on failure. */
struct mcr_relay *mcr_relay__new(int shared_fd);
void mcr_relay__free(struct mcr_relay *relay);
/* Map the receive ring of a TPACKET_V2 socket and read on from the shared cursor. */
int mcr_relay__attach_ring(struct mcr_relay *relay, uint32_t slot, int fd, uint32_t frame_bytes,
			   uint32_t frames);
/* Look at the packets of an interface that match no rule, from a cooked packet socket. */
int mcr_relay__attach_watch(struct mcr_relay *relay, uint32_t slot, int fd);
/* Give the packet sockets, with PACKET_VNET_HDR, by which whole packets leave on all interfaces:
 * one for each priority that an IPv4 socket gives packets by the two bits of their DSCP above the
 * lowest, TC_PRIO_BESTEFFORT, _BULK, _INTERACTIVE and _INTERACTIVE_BULK.  Once only. */
void mcr_relay__attach_packets(struct mcr_relay *relay, const int fds[MCR_PRIORITIES]);
/* Give an output slot its UDP socket, and the address and port that it sends from; an older one is
 * closed. */
int mcr_relay__attach_output(struct mcr_relay *relay, uint32_t slot, int fd,
			     const uint8_t source[16], uint16_t source_port);
/* Build the table of a share aside, swap it in, and close rings and outputs that it does not name.
 */
int mcr_relay__install(struct mcr_relay *relay, int share_fd, uint64_t bytes);
uint64_t mcr_relay__digest(const struct mcr_relay *relay);
uint64_t mcr_relay__generation(const struct mcr_relay *relay);
/* The bucket of struct mcr_latency for a time. */
uint32_t mcr_relay__latency_bucket(uint64_t elapsed_ns);
/* Which one of how many workers of the daemon this is, at most MCR_MAX_WORKERS: what several of
 * them send as one source to one destination they number differently.  Before outputs are attached.
 */
int mcr_relay__set_number(struct mcr_relay *relay, uint32_t worker, uint32_t workers);
/* How long to let a batch gather at high rates (0: not at all; -1: by what waiting costs), whether
 * to never sleep, and how many frames of one ring to send together: 1 to MCR_MAX_BATCH, which it is
 * to begin with. */
void mcr_relay__set_pace(struct mcr_relay *relay, int32_t coalesce_us, int busy_poll,
			 uint32_t batch);
/* Relay until control_fd is readable (0), a loop was found (1), or the kernel refuses to wait
 * (negative errno). */
int mcr_relay__run(struct mcr_relay *relay, int control_fd);

/* A loop that the guard has broken. */
struct mcr_loop {
	uint32_t rule; /* slot */
	uint8_t group[16];
	uint8_t source[16];
};

/* The loop that the last run was ended for. */
struct mcr_loop mcr_relay__loop(const struct mcr_relay *relay);

/* ---- bypass ---- */

/* Run a program (an array of struct bpf_insn, of type BPF_PROG_TYPE_SCHED_CLS) on what arrives at
 * an interface, behind the programs that are there, for as long as the descriptor that this gives
 * is open.  Needs Linux 6.6 (tcx), CAP_BPF and CAP_NET_ADMIN. */
int mcr_bypass__attach(uint32_t ifindex, const uint8_t *program, uint32_t bytes);
/* Replace the program of a descriptor in one step. */
int mcr_bypass__replace(int link_fd, const uint8_t *program, uint32_t bytes);

/* ---- confinement ---- */

/* Allow only the named system calls from now on, mmap and mprotect only without PROT_EXEC; all
 * others fail with EPERM.  -EINVAL: a name that libseccomp does not know. */
int mcr_confine__system_calls(const char *const *names, uint32_t count);

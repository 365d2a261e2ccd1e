#include "counters.h"
#include "guard.h"
#include "latency.h"
#include "pace.h"
#include "ring.h"
#include "standby.h"
#include "table.h"
#include "transmit.h"
#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* More than any ring holds: beyond that, only new frames can come, where a rule stays. */
#define DRAIN_BATCHES 64
#define CONTROL_NS 1000000ull
#define HEARTBEAT_NS 100000000ull
/* The digest of 8,192 rules takes 2 ms: too much for every heartbeat. */
#define DIGEST_NS 1000000000ull
#define NS_PER_S 1000000000ull

/* What a worker waits for. */
enum {
	CONTROL,
	HEARTBEAT,
	FIRST_RING
};

struct mcr_relay {
	struct mcr_shared *shared;
	struct mcr_table *table;
	struct mcr_table *spare;
	struct mcr_transmit transmit;
	struct mcr_arena arena;
	struct mcr_pace pace;
	struct mcr_standby standby;
	struct mcr_guard *guards; /* MCR_MAX_RULES */
	struct mcr_loop loop;
	bool loop_found;
	struct mcr_stamps stamps;
	uint64_t next_control_ns;
	uint64_t next_heartbeat_ns;
	uint64_t next_digest_ns;
	struct mcr_ring rings[MCR_MAX_INTERFACES];
	int watches[MCR_MAX_INTERFACES];		      /* -1: none */
	struct pollfd waits[FIRST_RING + MCR_MAX_INTERFACES]; /* then the rings in use */
	uint32_t ring_slots[MCR_MAX_INTERFACES];	      /* of the rings in use */
	uint32_t rings_in_use;
	uint32_t turn; /* whose it is to be read first: the last may find no room in the arena */
};

static uint64_t time_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
	return time_ns(CLOCK_MONOTONIC);
}

static int start_heartbeat(struct mcr_relay *relay)
{
	const struct itimerspec beat = { .it_interval.tv_nsec = HEARTBEAT_NS,
					 .it_value.tv_nsec = HEARTBEAT_NS };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	relay->waits[HEARTBEAT] = (struct pollfd){ .fd = fd, .events = POLLIN };
	return fd < 0 || timerfd_settime(fd, 0, &beat, NULL) ? -errno : 0;
}

static int allocate(struct mcr_relay *relay)
{
	int error;

	relay->table = mcr_table__new();
	relay->spare = mcr_table__new();
	relay->pace.batch = MCR_MAX_BATCH;
	relay->arena.bytes = MCR_ARENA_BYTES;
	relay->arena.data = malloc(MCR_ARENA_BYTES);
	relay->stamps.all =
		calloc((size_t)MCR_MAX_BATCH * MCR_MAX_INTERFACES, sizeof(struct mcr_stamp));
	relay->guards = calloc(MCR_MAX_RULES, sizeof(struct mcr_guard));
	if (!relay->table || !relay->spare || !relay->arena.data || !relay->stamps.all ||
	    !relay->guards)
		return -ENOMEM;
	error = start_heartbeat(relay);
	if (!error)
		error = mcr_standby__open(&relay->standby);
	return error ? error : mcr_transmit__init(&relay->transmit, relay->shared);
}

/* The memory of a supervisor of another build may be shorter. */
static int map_shared(struct mcr_relay *relay, int shared_fd)
{
	struct stat file;

	if (fstat(shared_fd, &file))
		return -errno;
	if ((uint64_t)file.st_size < sizeof(struct mcr_shared))
		return -EINVAL;
	relay->shared = mmap(NULL, sizeof(struct mcr_shared), PROT_READ | PROT_WRITE, MAP_SHARED,
			     shared_fd, 0);
	return relay->shared == MAP_FAILED ? -errno : 0;
}

struct mcr_relay *mcr_relay__new(int shared_fd)
{
	struct mcr_relay *relay = calloc(1, sizeof(*relay));
	int error;

	if (!relay)
		return NULL;
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++)
		relay->rings[slot].fd = relay->watches[slot] = -1;
	relay->waits[HEARTBEAT].fd = relay->standby.fd = -1;
	error = map_shared(relay, shared_fd);
	if (!error)
		error = allocate(relay);
	close(shared_fd);
	if (!error) {
		relay->shared->abi = MCR_ABI;
		return relay;
	}
	mcr_relay__free(relay);
	errno = -error;
	return NULL;
}

static void close_watch(struct mcr_relay *relay, uint32_t slot)
{
	if (relay->watches[slot] >= 0)
		close(relay->watches[slot]);
	relay->watches[slot] = -1;
}

static void close_interface(struct mcr_relay *relay, uint32_t slot)
{
	mcr_ring__unmap(&relay->rings[slot]);
	close_watch(relay, slot);
}

void mcr_relay__free(struct mcr_relay *relay)
{
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++)
		close_interface(relay, slot);
	if (relay->waits[HEARTBEAT].fd >= 0)
		close(relay->waits[HEARTBEAT].fd);
	mcr_standby__close(&relay->standby);
	mcr_transmit__free(&relay->transmit);
	mcr_table__free(relay->table);
	mcr_table__free(relay->spare);
	free(relay->arena.data);
	free(relay->stamps.all);
	free(relay->guards);
	if (relay->shared && relay->shared != MAP_FAILED)
		munmap(relay->shared, sizeof(struct mcr_shared));
	free(relay);
}

static bool is_read(const struct mcr_relay *relay, uint32_t slot)
{
	return relay->table->header.interfaces >> slot & 1;
}

/* A ring that the table does not name yet waits: its frames are meant for the table to come. */
static void list_rings(struct mcr_relay *relay)
{
	relay->rings_in_use = 0;
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++) {
		if (relay->rings[slot].fd < 0 || !is_read(relay, slot))
			continue;
		relay->waits[FIRST_RING + relay->rings_in_use] =
			(struct pollfd){ .fd = relay->rings[slot].fd, .events = POLLIN };
		relay->ring_slots[relay->rings_in_use++] = slot;
	}
}

int mcr_relay__attach_ring(struct mcr_relay *relay, uint32_t slot, int fd, uint32_t frame_bytes,
			   uint32_t frames)
{
	int error = -EINVAL;

	if (slot < MCR_MAX_INTERFACES) {
		mcr_ring__unmap(&relay->rings[slot]);
		error = mcr_ring__map(&relay->rings[slot], fd, frame_bytes, frames,
				      &relay->shared->interfaces[slot]);
	}
	if (error)
		close(fd);
	list_rings(relay);
	return error;
}

void mcr_relay__attach_packets(struct mcr_relay *relay, const int fds[MCR_PRIORITIES])
{
	memcpy(relay->transmit.packet_fds, fds, sizeof(relay->transmit.packet_fds));
}

int mcr_relay__attach_output(struct mcr_relay *relay, uint32_t slot, int fd,
			     const uint8_t source[16], uint16_t source_port)
{
	if (slot >= MCR_MAX_OUTPUTS) {
		close(fd);
		return -EINVAL;
	}
	mcr_transmit__attach(&relay->transmit, slot, fd, source, source_port);
	return 0;
}

/* A slot that no rule has any more will belong to another one, which has not looped. */
static void forget_loops(struct mcr_relay *relay, const struct mcr_table *previous)
{
	for (uint32_t slot = 0; slot < MCR_MAX_RULES; slot++) {
		if (!previous->rule_used[slot] || relay->table->rule_used[slot])
			continue;
		/* Only what was written takes memory, and this is zero until then. */
		if (relay->guards[slot].window_start_ns)
			memset(&relay->guards[slot], 0, sizeof(relay->guards[slot]));
		if (relay->loop.rule == slot)
			relay->loop_found = false;
	}
}

/* Also one without a socket has a past that the next one in its slot must not have. */
static bool was_used(const struct mcr_sender *sender)
{
	return sender->fd >= 0 || sender->output;
}

static void close_unused(struct mcr_relay *relay)
{
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++)
		if (!is_read(relay, slot))
			close_interface(relay, slot);
	for (uint32_t slot = 0; slot < MCR_MAX_OUTPUTS; slot++)
		if (!relay->table->output_used[slot] && was_used(&relay->transmit.senders[slot]))
			mcr_transmit__detach(&relay->transmit, slot);
	list_rings(relay);
}

int mcr_relay__attach_watch(struct mcr_relay *relay, uint32_t slot, int fd)
{
	if (slot >= MCR_MAX_INTERFACES) {
		close(fd);
		return -EINVAL;
	}
	close_watch(relay, slot);
	relay->watches[slot] = fd;
	return 0;
}

static void look_at_unmatched(struct mcr_relay *relay)
{
	struct mcr_shared *shared = relay->shared;

	mcr_counters__toggle(shared);
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++)
		if (relay->watches[slot] >= 0)
			mcr_watch__look(&shared->unmatched, relay->watches[slot], slot);
	mcr_counters__toggle(shared);
}

static void beat(struct mcr_relay *relay, uint64_t now)
{
	struct mcr_shared *shared = relay->shared;

	if (now >= relay->next_digest_ns) {
		shared->digest = mcr_table__digest(relay->table);
		relay->next_digest_ns = now + DIGEST_NS;
	}
	shared->generation = relay->table->header.generation;
	__atomic_store_n(&shared->heartbeat_ns, now, __ATOMIC_RELEASE);
	relay->next_heartbeat_ns = now + HEARTBEAT_NS;
}

uint64_t mcr_relay__digest(const struct mcr_relay *relay)
{
	return mcr_table__digest(relay->table);
}

uint64_t mcr_relay__generation(const struct mcr_relay *relay)
{
	return relay->table->header.generation;
}

static uint32_t relay_datagrams(struct mcr_relay *relay, const struct mcr_rule *rule,
				const struct mcr_datagram *datagram, uint32_t segment_bytes)
{
	uint32_t count = 1;
	struct mcr_rule_counters *counters = &relay->shared->rules[rule->slot];

	if (segment_bytes && datagram->payload_bytes > segment_bytes)
		count = (datagram->payload_bytes + segment_bytes - 1) / segment_bytes;
	counters->matched += count;
	counters->bytes += datagram->payload_bytes;
	for (uint32_t i = 0; i < rule->outputs; i++)
		mcr_transmit__add(&relay->transmit, &relay->table->outputs[rule->first_output + i],
				  datagram, segment_bytes);
	return count;
}

/* Only a datagram whose time to live has run out can loop for ever. */
static void watch_for_loop(struct mcr_relay *relay, const struct mcr_rule *rule,
			   struct mcr_datagram *datagram)
{
	struct mcr_guard *guard = &relay->guards[rule->slot];
	uint64_t now = relay->transmit.now_ns;

	datagram->guarded = 0;
	if (datagram->ttl > 1)
		return;
	if (mcr_guard__found_loop(guard, datagram, now)) {
		relay->loop_found = true;
		relay->loop.rule = rule->slot;
		memcpy(relay->loop.group, datagram->group, 16);
		memcpy(relay->loop.source, datagram->source, 16);
	}
	datagram->guarded = mcr_guard__is_on(guard, now);
}

/* Give the number of datagrams to send. */
static uint32_t relay_frame(struct mcr_relay *relay, uint32_t slot, const struct mcr_frame *frame)
{
	struct mcr_interface_counters *counters = &relay->shared->interfaces[slot];
	struct mcr_datagram datagram;
	const struct mcr_rule *rule;
	uint32_t count;
	int found, reason = frame->reason;

	if (!reason)
		reason = mcr_parse__packet(&frame->packet, &datagram);
	if (reason) {
		counters->received++;
		counters->ignored[-reason - 1]++;
		return 0;
	}
	found = mcr_table__find(relay->table, slot, datagram.group, datagram.port, datagram.source);
	if (found < 0) {
		counters->received++;
		counters->ignored[found == -EACCES ? MCR_IGNORED_SOURCE : MCR_IGNORED_NO_RULE]++;
		return 0;
	}
	rule = &relay->table->rules[found];
	watch_for_loop(relay, rule, &datagram);
	relay->transmit.tracer.on = mcr_tracer__wants(&relay->transmit.tracer, rule->slot);
	if (relay->transmit.tracer.on)
		relay->transmit.tracer.received_ns = frame->received_ns;
	count = relay_datagrams(relay, rule, &datagram, frame->segment_bytes);
	counters->received += count;
	counters->matched += count;
	mcr_stamps__note(&relay->stamps, rule->slot, count, frame->received_ns);
	return count * rule->outputs;
}

struct batch {
	uint32_t frames;
	uint32_t datagrams; /* to send */
	bool full;	    /* there may be more at once */
};

static void read_ring(struct mcr_relay *relay, uint32_t slot, struct batch *batch)
{
	struct mcr_ring *ring = &relay->rings[slot];
	struct mcr_frame frame;
	uint32_t frames = 0;

	while (frames < relay->pace.batch && mcr_ring__read(ring, &relay->arena, &frame)) {
		if (!batch->frames && !frames)
			mcr_counters__toggle(relay->shared);
		batch->datagrams += relay_frame(relay, slot, &frame);
		frames++;
	}
	batch->frames += frames;
	batch->full |= frames == relay->pace.batch || relay->arena.used > relay->arena.bytes / 2;
}

/* Read every ring, send what that gave, and only then give the frames back: the payloads lie in
 * them. */
static struct batch relay_batch(struct mcr_relay *relay, uint64_t now)
{
	struct mcr_shared *shared = relay->shared;
	struct batch batch = { 0 };

	relay->transmit.now_ns = now;
	for (uint32_t i = 0; i < relay->rings_in_use; i++)
		read_ring(relay, relay->ring_slots[(relay->turn + i) % relay->rings_in_use],
			  &batch);
	relay->turn++;
	mcr_transmit__flush(&relay->transmit);
	mcr_stamps__measure(&relay->stamps, shared->latencies);
	if (batch.frames)
		mcr_counters__toggle(shared);
	for (uint32_t i = 0; i < relay->rings_in_use; i++)
		mcr_ring__release(&relay->rings[relay->ring_slots[i]]);
	relay->arena.used = 0;
	shared->batches += batch.frames ? 1 : 0;
	return batch;
}

int mcr_relay__install(struct mcr_relay *relay, int share_fd, uint64_t bytes)
{
	struct stat file;
	uint8_t *share = fstat(share_fd, &file) || (uint64_t)file.st_size < bytes ?
				 MAP_FAILED :
				 mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, share_fd, 0);
	struct mcr_table *previous = relay->table;
	int error = share == MAP_FAILED ? -EINVAL : mcr_table__load(relay->spare, share, bytes);

	close(share_fd);
	if (share != MAP_FAILED)
		munmap(share, bytes);
	if (error)
		return error;
	/* What arrived under the old rules leaves under them: a ring that is closed here must be
	 * empty. */
	for (uint32_t i = 0; i < DRAIN_BATCHES && relay_batch(relay, now_ns()).full; i++)
		;
	relay->table = relay->spare;
	relay->spare = previous;
	mcr_counters__settle(relay->shared, relay->table);
	forget_loops(relay, previous);
	close_unused(relay);
	relay->next_digest_ns = 0;
	beat(relay, now_ns());
	return 0;
}

int mcr_relay__set_number(struct mcr_relay *relay, uint32_t worker, uint32_t workers)
{
	if (workers > MCR_MAX_WORKERS || worker >= workers)
		return -EINVAL;
	mcr_transmit__set_number(&relay->transmit, worker, workers);
	return 0;
}

void mcr_relay__set_pace(struct mcr_relay *relay, int32_t coalesce_us, int busy_poll,
			 uint32_t batch)
{
	mcr_pace__set_gather(&relay->pace, busy_poll ? 0 : coalesce_us);
	relay->shared->coalesce_ns = relay->pace.gather_ns;
	relay->pace.busy_poll = busy_poll;
	relay->pace.batch = batch;
}

static int poll_control(struct mcr_relay *relay, uint64_t now)
{
	if (now < relay->next_control_ns)
		return 0;
	relay->next_control_ns = now + CONTROL_NS;
	return poll(relay->waits, 1, 0);
}

/*
 * Realtime, nothing of the same priority would run before the ring is empty. In the fair class to
 * yield gives away the rest of a slice, which the scheduler shares out better.
 */
static int give_way(struct mcr_relay *relay, uint64_t now)
{
	if (now >= relay->next_control_ns && sched_getscheduler(0) == SCHED_FIFO)
		sched_yield();
	return poll_control(relay, now);
}

/* An interface that went down leaves an error at its socket, which would end every wait until it is
 * read. */
static void take_errors(struct mcr_relay *relay)
{
	for (uint32_t i = FIRST_RING; i < FIRST_RING + relay->rings_in_use; i++)
		if (relay->waits[i].revents & POLLERR)
			recv(relay->waits[i].fd, NULL, 0, MSG_PEEK | MSG_DONTWAIT);
}

/* The heartbeat is a timer of its own: a timeout would be set up and taken down for each packet. */
static int wait_for_packets(struct mcr_relay *relay, uint64_t now)
{
	uint64_t expirations;
	int ready;

	mcr_standby__prepare(&relay->standby, now);
	ready = poll(relay->waits, FIRST_RING + relay->rings_in_use, -1);
	relay->shared->polls++;
	if (ready < 0)
		return ready;
	if (relay->waits[HEARTBEAT].revents &&
	    read(relay->waits[HEARTBEAT].fd, &expirations, sizeof(expirations)) > 0)
		relay->next_heartbeat_ns = 0;
	take_errors(relay);
	return relay->waits[CONTROL].revents ? 1 : 0;
}

static int wait_for_more(struct mcr_relay *relay, uint64_t now)
{
	const struct timespec wait = { .tv_nsec = relay->pace.gather_ns };
	bool is_measured = mcr_pace__measures(&relay->pace);
	uint64_t began_ns = is_measured ? time_ns(CLOCK_THREAD_CPUTIME_ID) : 0;

	relay->shared->sleeps++;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
	if (is_measured) {
		mcr_pace__note_wait(&relay->pace, time_ns(CLOCK_THREAD_CPUTIME_ID) - began_ns);
		relay->shared->coalesce_ns = relay->pace.gather_ns;
	}
	return poll_control(relay, now);
}

struct mcr_loop mcr_relay__loop(const struct mcr_relay *relay)
{
	return relay->loop;
}

int mcr_relay__run(struct mcr_relay *relay, int control_fd)
{
	struct timespec used;
	int ready = 0;

	/* Unlike the other clocks this one is a system call, which may be forbidden. */
	if (relay->pace.adapts && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used))
		return -errno;
	relay->waits[CONTROL] = (struct pollfd){ .fd = control_fd, .events = POLLIN };
	while (ready == 0 || (ready < 0 && errno == EINTR)) {
		uint64_t now = now_ns();
		struct batch batch = relay_batch(relay, now);

		mcr_pace__note(&relay->pace, batch.datagrams, now);
		if (now >= relay->next_heartbeat_ns) {
			look_at_unmatched(relay);
			beat(relay, now);
		}
		/* Perhaps while a table was installed. */
		if (relay->loop_found) {
			relay->loop_found = false;
			return 1;
		}
		if (relay->pace.busy_poll)
			ready = poll_control(relay, now);
		else if (batch.full)
			ready = give_way(relay, now);
		else if (relay->pace.gathering)
			ready = wait_for_more(relay, now);
		else
			ready = wait_for_packets(relay, now);
	}
	return ready < 0 ? -errno : 0;
}

#include "../src/ring.h"
#include "fake_ring.h"
#include "must.h"
#include "network.h"
#include "packet.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "testing.h"

#define FRAMES 4
#define FRAME_BYTES 512
/* A payload beyond this does not fit the ring. */
#define KEPT_BYTES (FRAME_BYTES - 80 - 28)
#define LINK_BYTES 14

static struct fake_ring kernel;
static struct mcr_ring ring;
static struct mcr_interface_counters shared;
static struct mcr_arena arena;

static void map(void)
{
	assert_int_equal(
		mcr_ring__map(&ring, fake_ring__open(&kernel), FRAME_BYTES, FRAMES, &shared), 0);
}

static int make_ring(void **state)
{
	(void)state;
	memset(&shared, 0, sizeof(shared));
	fake_ring__init(&kernel, FRAME_BYTES, FRAMES);
	arena = (struct mcr_arena){ .bytes = MCR_ARENA_BYTES, .data = malloc(MCR_ARENA_BYTES) };
	must(arena.data != NULL);
	map();
	return 0;
}

static int free_ring(void **state)
{
	(void)state;
	mcr_ring__unmap(&ring);
	fake_ring__destroy_all();
	free(arena.data);
	return 0;
}

/* What the next worker does: it knows nothing but the shared memory. */
static void die_and_return(void)
{
	mcr_ring__unmap(&ring);
	map();
}

/* A frame whose payload begins with a number. */
static bool receive_frame(uint8_t number, uint32_t payload_bytes, const struct fake_frame *like)
{
	static uint8_t payload[65507], bytes[LINK_BYTES + PACKET_MAX_BYTES];
	struct test_packet packet = {
		.port = 5001, .ttl = 1, .payload = payload, .payload_bytes = payload_bytes
	};
	struct fake_frame frame = like ? *like : (struct fake_frame){ .pkttype = PACKET_MULTICAST };

	memset(payload, number, payload_bytes);
	packet__map_v4(packet.group, 0xEF010101);
	frame.bytes = bytes;
	frame.link_bytes = LINK_BYTES;
	frame.count = LINK_BYTES + packet__write(bytes + LINK_BYTES, &packet);
	frame.protocol = ETH_P_IP;
	return fake_ring__receive(&kernel, &frame);
}

static bool receive(uint8_t number)
{
	return receive_frame(number, 100, NULL);
}

/* The number of the next frame, -1 for none, or the reason to ignore it minus 100. */
static int read_number(void)
{
	struct mcr_datagram datagram;
	struct mcr_frame frame;
	int reason;

	if (!mcr_ring__read(&ring, &arena, &frame))
		return -1;
	reason = frame.reason ? frame.reason : mcr_parse__packet(&frame.packet, &datagram);
	if (reason)
		return reason - 100;
	for (uint32_t i = 1; i < datagram.payload_bytes; i++)
		assert_int_equal(datagram.payload[i], datagram.payload[0]);
	return datagram.payload[0];
}

static void release(void)
{
	mcr_ring__release(&ring);
	arena.used = 0;
}

/* ---- order ---- */

static void frames_are_read_in_order_round_and_round(void **state)
{
	uint8_t sent = 0, read = 0;

	(void)state;
	for (uint32_t round = 0; round < 50; round++) {
		uint32_t count = 1 + round % FRAMES;

		for (uint32_t i = 0; i < count; i++)
			assert_true(receive(sent++));
		for (uint32_t i = 0; i < count; i++)
			assert_int_equal(read_number(), read++);
		assert_int_equal(read_number(), -1);
		release();
		assert_int_equal(shared.cursor, read);
		assert_int_equal(fake_ring__waiting(&kernel), 0);
	}
}

static void a_full_ring_is_read_once_before_it_is_given_back(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < FRAMES; i++)
		assert_true(receive(i));
	assert_false(receive(9));
	for (uint8_t i = 0; i < FRAMES; i++)
		assert_int_equal(read_number(), i);
	assert_int_equal(read_number(), -1);
	release();
	assert_true(receive(4));
	assert_int_equal(read_number(), 4);
}

/* ---- successors ---- */

static void a_successor_reads_on_where_the_cursor_stands(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < 3; i++)
		receive(i);
	assert_int_equal(read_number(), 0);
	release();
	die_and_return();
	assert_int_equal(read_number(), 1);
	assert_int_equal(read_number(), 2);
	assert_int_equal(read_number(), -1);
}

static void frames_that_were_read_but_not_given_back_are_read_again(void **state)
{
	(void)state;
	receive(0);
	receive(1);
	assert_int_equal(read_number(), 0);
	assert_int_equal(read_number(), 1);
	die_and_return();
	assert_int_equal(read_number(), 0);
	assert_int_equal(read_number(), 1);
}

/* Give the only frame that was read back, and die at once: before or after the kernel could see it.
 */
static void start_giving_back(struct tpacket2_hdr *header, bool given_back)
{
	uint32_t status = header->tp_status;

	mcr_ring__release(&ring);
	shared.cursor--;
	if (!given_back)
		header->tp_status = status;
}

static void die_while_giving_back(bool given_back)
{
	start_giving_back(fake_ring__frame(&kernel, (uint32_t)shared.cursor), given_back);
	die_and_return();
}

static void a_frame_that_was_about_to_be_given_back_is_read_again(void **state)
{
	(void)state;
	receive(0);
	receive(1);
	assert_int_equal(read_number(), 0);
	die_while_giving_back(false);
	assert_int_equal(shared.cursor, 0);
	assert_int_equal(read_number(), 0);
	assert_int_equal(read_number(), 1);
	release();
	assert_int_equal(shared.cursor, 2);
}

static void a_frame_that_was_given_back_is_not_waited_for(void **state)
{
	(void)state;
	receive(0);
	receive(1);
	assert_int_equal(read_number(), 0);
	die_while_giving_back(true);
	assert_int_equal(shared.cursor, 1);
	assert_int_equal(read_number(), 1);
	release();
	assert_int_equal(shared.cursor, 2);
	receive(2);
	assert_int_equal(read_number(), 2);
}

static void the_last_frame_of_the_ring_that_was_given_back_is_not_waited_for(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < FRAMES; i++)
		receive(i);
	for (uint8_t i = 0; i < FRAMES - 1; i++)
		assert_int_equal(read_number(), i);
	release();
	receive(FRAMES);
	assert_int_equal(read_number(), FRAMES - 1);
	die_while_giving_back(true);
	assert_int_equal(read_number(), FRAMES);
}

/* The kernel had waited for this very frame.  A reader that waits there too would see nothing until
 * the ring is full, for ever. */
static void a_frame_given_back_and_filled_again_keeps_the_ring_in_step(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < FRAMES; i++)
		receive(i);
	assert_int_equal(read_number(), 0);
	start_giving_back(fake_ring__frame(&kernel, 0), true);
	assert_true(receive(FRAMES));
	die_and_return();
	for (uint8_t i = 1; i <= FRAMES; i++)
		assert_int_equal(read_number(), i);
	assert_int_equal(read_number(), -1);
	release();
	for (uint8_t i = 10; i < 10 + 3 * FRAMES; i++) {
		assert_true(receive(i));
		assert_int_equal(read_number(), i);
		release();
	}
}

static void a_cursor_far_on_is_taken_round_the_ring(void **state)
{
	(void)state;
	shared.cursor = shared.releasing = 3 + FRAMES * (UINT64_C(1) << 40);
	kernel.head = 3;
	die_and_return();
	receive(0);
	receive(1);
	assert_int_equal(read_number(), 0);
	assert_int_equal(read_number(), 1);
}

static void a_ring_without_room_for_a_header_is_refused(void **state)
{
	struct mcr_ring none;
	int fd = fake_ring__open(&kernel);

	(void)state;
	assert_int_equal(mcr_ring__map(&none, fd, FRAME_BYTES, 0, &shared), -EINVAL);
	assert_int_equal(mcr_ring__map(&none, fd, 16, FRAMES, &shared), -EINVAL);
	assert_int_equal(mcr_ring__map(&none, -1, FRAME_BYTES, FRAMES, &shared), -EBADF);
	close(fd);
}

/* ---- what the kernel says about a frame ---- */

static void check_frame(const struct fake_frame *like, int want)
{
	assert_true(receive_frame(7, 100, like));
	assert_int_equal(read_number(), want);
	release();
}

static void frames_that_are_not_meant_for_us_have_their_reason(void **state)
{
	struct fake_frame frame = { .pkttype = PACKET_OUTGOING };

	(void)state;
	check_frame(&frame, -(MCR_IGNORED_OWN + 1) - 100);
	frame = (struct fake_frame){ .has_vlan = true, .vlan_tci = 0xE00A };
	check_frame(&frame, -(MCR_IGNORED_VLAN + 1) - 100);
	frame.vlan_tci = 0xE000; /* a priority, but no VLAN */
	check_frame(&frame, 7);
	frame = (struct fake_frame){ .vlan_tci = 10 }; /* left over from another frame */
	check_frame(&frame, 7);
	frame = (struct fake_frame){ .pkttype = PACKET_HOST };
	check_frame(&frame, 7);
}

static void offloads_tell_checksum_and_segments(void **state)
{
	static const struct {
		struct virtio_net_hdr offloads;
		bool checksum_known;
		uint32_t segment_bytes;
	} cases[] = {
		{ { 0 }, false, 0 },
		{ { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM }, true, 0 },
		{ { .flags = VIRTIO_NET_HDR_F_DATA_VALID }, true, 0 },
		{ { .gso_type = 5, .gso_size = 1000 }, false, 1000 },
		{ { .gso_type = 5, .gso_size = 0 }, false, 0 },
		{ { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000 }, false, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake_frame like = { .offloads = cases[i].offloads };
		struct mcr_frame frame;

		assert_true(receive_frame(1, 100, &like));
		assert_true(mcr_ring__read(&ring, &arena, &frame));
		assert_int_equal(frame.packet.checksum_known, cases[i].checksum_known);
		assert_int_equal(frame.segment_bytes, cases[i].segment_bytes);
		release();
	}
}

static void a_frame_without_link_header_is_read(void **state)
{
	static const uint8_t payload[] = { 5, 5, 5 };
	struct test_packet packet = {
		.port = 5001, .ttl = 1, .payload = payload, .payload_bytes = 3
	};
	uint8_t bytes[128];
	struct fake_frame frame = { .bytes = bytes, .protocol = ETH_P_IP };

	(void)state;
	frame.count = packet__write(bytes, &packet);
	assert_true(fake_ring__receive(&kernel, &frame));
	assert_int_equal(read_number(), 5);
}

/* ---- frames that do not fit the ring ---- */

static void long_frames_come_whole_from_the_queue(void **state)
{
	(void)state;
	receive_frame(1, KEPT_BYTES + 1, NULL);
	receive_frame(2, 100, NULL);
	receive_frame(3, 65507, NULL);
	assert_int_equal(read_number(), 1);
	assert_int_equal(read_number(), 2);
	assert_int_equal(read_number(), 3);
	assert_int_equal(kernel.queued, 0);
}

static void a_long_frame_that_found_no_room_is_truncated(void **state)
{
	struct fake_frame cut = { .no_room = true };

	(void)state;
	receive_frame(1, 1000, NULL);
	receive_frame(2, 1000, &cut);
	receive_frame(3, 1000, NULL);
	assert_int_equal(read_number(), 1);
	assert_int_equal(read_number(), -(MCR_IGNORED_TRUNCATED + 1) - 100);
	assert_int_equal(read_number(), 3);
}

static void a_long_frame_that_is_ignored_leaves_nothing_in_the_queue(void **state)
{
	struct fake_frame tagged = { .has_vlan = true, .vlan_tci = 10 };

	(void)state;
	receive_frame(1, 1000, &tagged);
	receive_frame(2, 1000, NULL);
	assert_int_equal(read_number(), -(MCR_IGNORED_VLAN + 1) - 100);
	assert_int_equal(read_number(), 2);
}

/* Its predecessor had taken the whole frames of the first two and died before it gave them back. */
static void a_successor_does_not_take_whole_frames_for_earlier_ones(void **state)
{
	(void)state;
	for (uint8_t i = 0; i < FRAMES; i++)
		receive_frame(i, 1000, NULL);
	assert_int_equal(read_number(), 0);
	assert_int_equal(read_number(), 1);
	die_and_return();
	assert_int_equal(read_number(), -(MCR_IGNORED_TRUNCATED + 1) - 100);
	assert_int_equal(read_number(), -(MCR_IGNORED_TRUNCATED + 1) - 100);
	assert_int_equal(read_number(), 2);
	assert_int_equal(read_number(), 3);
	assert_int_equal(kernel.queued, 0);
}

static void a_full_arena_leaves_frames_where_they_are(void **state)
{
	(void)state;
	receive_frame(1, 1000, NULL);
	arena.used = MCR_ARENA_BYTES - MCR_SUPER_FRAME_BYTES + 1;
	assert_int_equal(read_number(), -1);
	assert_int_equal(kernel.queued, 1);
	release();
	assert_int_equal(read_number(), 1);
}

/* Else the next long frame gets this one's bytes, and so on for ever. */
static void an_interface_going_down_does_not_shift_whole_frames(void **state)
{
	(void)state;
	for (uint32_t known = 0; known < 2; known++) {
		receive_frame(1, 1000, NULL);
		receive_frame(2, 1000, NULL);
		kernel.error = ENETDOWN;
		assert_int_equal(read_number(), 1);
		assert_int_equal(read_number(), 2);
		assert_int_equal(kernel.queued, 0);
		release();
	}
}

/* ---- the real kernel ---- */

static int enter_network(void **state)
{
	uint16_t port = 0;

	*state = NULL;
	if (!network__enter())
		return 0;
	*state = calloc(3, sizeof(int));
	must(*state != NULL);
	((int *)*state)[0] = network__open_ring(2048, 64);
	((int *)*state)[1] = network__open_receiver(4, &port);
	((int *)*state)[2] = network__open_output(4, port);
	memset(&shared, 0, sizeof(shared));
	arena = (struct mcr_arena){ .bytes = MCR_ARENA_BYTES, .data = malloc(MCR_ARENA_BYTES) };
	must(arena.data != NULL);
	must(!mcr_ring__map(&ring, ((int *)*state)[0], 2048, 64, &shared));
	return 0;
}

static int leave_network(void **state)
{
	if (!*state)
		return 0;
	mcr_ring__unmap(&ring);
	close(((int *)*state)[1]);
	close(((int *)*state)[2]);
	free(arena.data);
	free(*state);
	return 0;
}

static void send_number(void **state, uint8_t number, size_t bytes)
{
	static uint8_t payload[65507];

	if (!*state)
		skip();
	memset(payload, number, bytes);
	assert_int_equal(send(((int *)*state)[2], payload, bytes, 0), bytes);
}

static void the_kernels_frames_are_read_round_and_round(void **state)
{
	for (uint8_t i = 0; i < 200; i++) {
		send_number(state, i, 1 + i * 20u);
		assert_int_equal(read_number(), i);
		assert_int_equal(read_number(), -1);
		release();
	}
	assert_int_equal(shared.cursor, 200);
}

static void the_kernels_whole_frames_survive_a_link_that_flaps(void **state)
{
	for (uint32_t round = 0; round < 2; round++) {
		send_number(state, 1, 5000);
		send_number(state, 2, 9000);
		network__set_loopback(false, 65536);
		network__set_loopback(true, 65536);
		send_number(state, 3, 65507);
		assert_int_equal(read_number(), 1);
		assert_int_equal(read_number(), 2);
		assert_int_equal(read_number(), 3);
		assert_int_equal(read_number(), -1);
		release();
	}
	assert_true(network__is_empty(ring.fd));
}

static struct tpacket2_hdr *kernels_frame(uint64_t cursor)
{
	return (void *)(ring.map + cursor % 64 * 2048);
}

static void remap(void)
{
	int fd = dup(ring.fd);

	mcr_ring__unmap(&ring);
	assert_int_equal(mcr_ring__map(&ring, fd, 2048, 64, &shared), 0);
}

static void the_kernel_fills_a_frame_again_before_the_successor_comes(void **state)
{
	for (uint8_t i = 0; i < 64; i++)
		send_number(state, i, 100);
	send_number(state, 255, 100); /* no room */
	assert_int_equal(read_number(), 0);
	start_giving_back(kernels_frame(0), true);
	send_number(state, 64, 100);
	remap();
	for (uint8_t i = 1; i <= 64; i++)
		assert_int_equal(read_number(), i);
	assert_int_equal(read_number(), -1);
	release();
	for (uint8_t i = 100; i < 250; i++) {
		send_number(state, i, 100);
		assert_int_equal(read_number(), i);
		release();
	}
}

static void the_kernel_fills_on_where_a_successor_reads(void **state)
{
	for (uint8_t i = 0; i < 100; i++) {
		send_number(state, i, 100);
		send_number(state, (uint8_t)(i + 100), 100);
		assert_int_equal(read_number(), i);
		/* It dies before, while or after it gives the frame back. */
		if (i % 3 == 1)
			start_giving_back(kernels_frame(shared.cursor), true);
		else if (i % 3 == 2)
			release();
		remap();
		if (i % 3 == 0)
			assert_int_equal(read_number(), i);
		assert_int_equal(read_number(), i + 100);
		assert_int_equal(read_number(), -1);
		release();
		assert_int_equal(shared.cursor, 2 * (i + 1));
	}
}

#define RING_TEST(test) cmocka_unit_test_setup_teardown(test, make_ring, free_ring)
#define KERNEL_TEST(test) cmocka_unit_test_setup_teardown(test, enter_network, leave_network)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RING_TEST(frames_are_read_in_order_round_and_round),
		RING_TEST(a_full_ring_is_read_once_before_it_is_given_back),
		RING_TEST(a_successor_reads_on_where_the_cursor_stands),
		RING_TEST(frames_that_were_read_but_not_given_back_are_read_again),
		RING_TEST(a_frame_that_was_about_to_be_given_back_is_read_again),
		RING_TEST(a_frame_that_was_given_back_is_not_waited_for),
		RING_TEST(the_last_frame_of_the_ring_that_was_given_back_is_not_waited_for),
		RING_TEST(a_frame_given_back_and_filled_again_keeps_the_ring_in_step),
		RING_TEST(a_cursor_far_on_is_taken_round_the_ring),
		RING_TEST(a_ring_without_room_for_a_header_is_refused),
		RING_TEST(frames_that_are_not_meant_for_us_have_their_reason),
		RING_TEST(offloads_tell_checksum_and_segments),
		RING_TEST(a_frame_without_link_header_is_read),
		RING_TEST(long_frames_come_whole_from_the_queue),
		RING_TEST(a_long_frame_that_found_no_room_is_truncated),
		RING_TEST(a_long_frame_that_is_ignored_leaves_nothing_in_the_queue),
		RING_TEST(a_successor_does_not_take_whole_frames_for_earlier_ones),
		RING_TEST(a_full_arena_leaves_frames_where_they_are),
		RING_TEST(an_interface_going_down_does_not_shift_whole_frames),
		KERNEL_TEST(the_kernels_frames_are_read_round_and_round),
		KERNEL_TEST(the_kernels_whole_frames_survive_a_link_that_flaps),
		KERNEL_TEST(the_kernel_fills_a_frame_again_before_the_successor_comes),
		KERNEL_TEST(the_kernel_fills_on_where_a_successor_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

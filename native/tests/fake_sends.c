#include "fake_sends.h"

#include "must.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

static struct expected *expected;
static uint8_t (*take_outcome)(void);
static struct {
	int fd;
	int ip_version;
} outputs[EXPECTED_OUTPUTS];

void fake_sends__init(struct expected *payloads, uint8_t (*outcome)(void))
{
	expected = payloads;
	take_outcome = outcome;
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		outputs[i].fd = -1;
}

void fake_sends__attach(uint32_t output, int fd, int ip_version)
{
	/* A number that an output had before it was closed may come again. */
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		if (outputs[i].fd == fd)
			outputs[i].fd = -1;
	outputs[output].fd = fd;
	outputs[output].ip_version = ip_version;
}

static uint32_t output_of(int fd)
{
	for (uint32_t i = 0; i < EXPECTED_OUTPUTS; i++)
		if (outputs[i].fd == fd)
			return i;
	abort();
}

static int error_of(uint8_t outcome)
{
	static const uint8_t errors[] = { EAGAIN,	 ENOBUFS,   ENETUNREACH, EHOSTUNREACH,
					  ENETDOWN,	 EPERM,	    EMSGSIZE,	 ECONNREFUSED,
					  EINVAL,	 EIO,	    EOPNOTSUPP,	 ENODEV,
					  EADDRNOTAVAIL, EHOSTDOWN, ENOMEM,	 EBADF };

	return errors[outcome % sizeof(errors)];
}

static uint8_t ttl_in(const struct cmsghdr *header, uint32_t output)
{
	bool ipv6 = outputs[output].ip_version == 6;
	int ttl;

	must(header && header->cmsg_len == CMSG_LEN(sizeof(ttl)));
	must(header->cmsg_level == (ipv6 ? IPPROTO_IPV6 : IPPROTO_IP));
	must(header->cmsg_type == (ipv6 ? IPV6_HOPLIMIT : IP_TTL));
	memcpy(&ttl, CMSG_DATA(header), sizeof(ttl));
	must(ttl >= 1 && ttl <= 255);
	return (uint8_t)ttl;
}

static uint8_t dscp_in(const struct cmsghdr *header, uint32_t output)
{
	bool ipv6 = outputs[output].ip_version == 6;
	int tos;

	must(header && header->cmsg_len == CMSG_LEN(sizeof(tos)));
	must(header->cmsg_level == (ipv6 ? IPPROTO_IPV6 : IPPROTO_IP));
	must(header->cmsg_type == (ipv6 ? IPV6_TCLASS : IP_TOS));
	memcpy(&tos, CMSG_DATA(header), sizeof(tos));
	must(tos >= 0 && tos <= 255 && !(tos & 3));
	return (uint8_t)(tos >> 2);
}

static uint16_t segment_in(const struct cmsghdr *header)
{
	uint16_t bytes;

	must(header && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_SEGMENT);
	must(header->cmsg_len == CMSG_LEN(sizeof(bytes)));
	memcpy(&bytes, CMSG_DATA(header), sizeof(bytes));
	must(bytes);
	return bytes;
}

/* What udp_sendmsg() demands of UDP_SEGMENT: all as long as the first but the last, 64 of them. */
static void check_segments(const struct msghdr *message, uint16_t segment)
{
	size_t total = 0;

	must(message->msg_iovlen > 1 && message->msg_iovlen <= 64);
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		size_t bytes = message->msg_iov[i].iov_len;

		must(i + 1 < message->msg_iovlen ? bytes == segment : bytes && bytes <= segment);
		total += bytes;
	}
	must(total <= 65507);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct msghdr copy = *message;
	struct cmsghdr *control = CMSG_FIRSTHDR(&copy);
	uint32_t output = output_of(fd);
	struct cmsghdr *tos = CMSG_NXTHDR(&copy, control);
	uint8_t ttl = ttl_in(control, output), dscp = dscp_in(tos, output),
		outcome = take_outcome();

	must(flags == MSG_DONTWAIT);
	check_segments(message, segment_in(CMSG_NXTHDR(&copy, tos)));
	if (outcome >= 128) {
		errno = error_of(outcome);
		return -1;
	}
	for (size_t i = 0; i < message->msg_iovlen; i++)
		expected__take(expected, output, message->msg_iov[i].iov_base,
			       (uint32_t)message->msg_iov[i].iov_len, ttl, dscp);
	return 0;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	uint32_t output = output_of(fd), taken = count;
	uint8_t outcome = take_outcome();

	must(flags == MSG_DONTWAIT && count && count <= 64);
	if (outcome >= 192) {
		errno = error_of(outcome);
		return -1;
	}
	if (outcome >= 128)
		taken = 1 + outcome % count;
	for (uint32_t i = 0; i < count; i++)
		must(messages[i].msg_hdr.msg_iovlen == 1);
	for (uint32_t i = 0; i < taken; i++) {
		struct msghdr *message = &messages[i].msg_hdr;
		struct cmsghdr *control = CMSG_FIRSTHDR(message);

		expected__take(expected, output, message->msg_iov->iov_base,
			       (uint32_t)message->msg_iov->iov_len, ttl_in(control, output),
			       dscp_in(CMSG_NXTHDR(message, control), output));
	}
	return (int)taken;
}

#include "network.h"

#include "must.h"

#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ETH_P_ALL 0x0003
#define WAIT_MS 1000

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static void set(int fd, int level, int option, int value)
{
	must(!setsockopt(fd, level, option, &value, sizeof(value)));
}

/* ---- namespace ---- */

static int open_control(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	must(fd >= 0);
	return fd;
}

static struct ifreq request_for(const char *device)
{
	struct ifreq request = { 0 };

	strncpy(request.ifr_name, device, sizeof(request.ifr_name) - 1);
	return request;
}

static void set_up(const char *device, bool up)
{
	struct ifreq request = request_for(device);
	int fd = open_control();

	must(!ioctl(fd, SIOCGIFFLAGS, &request));
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	must(!ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

void network__set_loopback(bool up, int mtu)
{
	struct ifreq request = request_for("lo");
	int fd = open_control();

	request.ifr_mtu = mtu;
	must(!ioctl(fd, SIOCSIFMTU, &request));
	close(fd);
	set_up("lo", up);
}

bool network__enter(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	network__set_loopback(true, 65536);
	return true;
}

/* ---- UDP ---- */

static socklen_t loopback(union address *address, int ip_version, uint16_t port)
{
	memset(address, 0, sizeof(*address));
	if (ip_version == 6) {
		address->v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
						     .sin6_port = htons(port),
						     .sin6_addr = IN6ADDR_LOOPBACK_INIT };
		return sizeof(address->v6);
	}
	address->v4 = (struct sockaddr_in){ .sin_family = AF_INET,
					    .sin_port = htons(port),
					    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return sizeof(address->v4);
}

static int open_udp(int ip_version)
{
	int fd = socket(ip_version == 6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	must(fd >= 0);
	return fd;
}

int network__open_receiver(int ip_version, uint16_t *port)
{
	union address address;
	socklen_t bytes = loopback(&address, ip_version, *port);
	int fd = open_udp(ip_version);

	set(fd, SOL_SOCKET, SO_RCVBUF, 4 << 20);
	/* Several datagrams that were sent in one call come in one message. */
	set(fd, IPPROTO_UDP, UDP_GRO, 1);
	if (ip_version == 6) {
		set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
		set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
	} else {
		set(fd, IPPROTO_IP, IP_RECVTTL, 1);
		set(fd, IPPROTO_IP, IP_RECVTOS, 1);
	}
	must(!bind(fd, &address.any, bytes));
	must(!getsockname(fd, &address.any, &bytes));
	*port = ntohs(ip_version == 6 ? address.v6.sin6_port : address.v4.sin_port);
	return fd;
}

int network__open_mapped_output(int ip_version)
{
	int fd = open_udp(ip_version);

	set(fd, SOL_SOCKET, SO_BINDTOIFINDEX, (int)if_nametoindex("lo"));
	if (ip_version == 6) {
		set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
		set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
	} else {
		set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
		set(fd, IPPROTO_IP, IP_RECVERR, 1);
	}
	return fd;
}

int network__open_output(int ip_version, uint16_t port)
{
	union address address;
	socklen_t bytes = loopback(&address, ip_version, port);
	int fd = network__open_mapped_output(ip_version);

	must(!connect(fd, &address.any, bytes));
	return fd;
}

bool network__is_empty(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	return !poll(&wait, 1, 0);
}

static void read_control(struct cmsghdr *header, struct network_message *message)
{
	int value = 0;

	/* IP_TOS alone comes as one byte. */
	if (header->cmsg_len == CMSG_LEN(1))
		value = *CMSG_DATA(header);
	else
		memcpy(&value, CMSG_DATA(header), sizeof(value));
	if (header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO)
		message->segment_bytes = (uint32_t)value;
	else if ((header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TTL) ||
		 (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_HOPLIMIT))
		message->ttl = value;
	else if ((header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TOS) ||
		 (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_TCLASS))
		message->tos = value;
}

void network__receive(int fd, struct network_message *message)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	struct iovec vector = { message->payload, sizeof(message->payload) };
	_Alignas(struct cmsghdr) uint8_t control[128];
	struct msghdr header = { .msg_iov = &vector,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control) };

	message->bytes = -1;
	message->segment_bytes = 0;
	message->ttl = message->tos = -1;
	if (poll(&wait, 1, WAIT_MS) != 1)
		return;
	message->bytes = recvmsg(fd, &header, MSG_DONTWAIT);
	if (message->bytes < 0)
		return;
	for (struct cmsghdr *one = CMSG_FIRSTHDR(&header); one; one = CMSG_NXTHDR(&header, one))
		read_control(one, message);
}

/* ---- packets ---- */

int network__open_ring(uint32_t frame_bytes, uint32_t frames)
{
	struct tpacket_req request = { .tp_block_size = frame_bytes * frames,
				       .tp_block_nr = 1,
				       .tp_frame_size = frame_bytes,
				       .tp_frame_nr = frames };
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_protocol = htons(ETH_P_ALL),
				       .sll_ifindex = (int)if_nametoindex("lo") };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	must(fd >= 0);
	set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2);
	set(fd, SOL_PACKET, PACKET_VNET_HDR, 1);
	set(fd, SOL_PACKET, PACKET_COPY_THRESH, 1);
	set(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
	set(fd, SOL_SOCKET, SO_RCVBUF, 4 << 20);
	must(!setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)));
	must(!bind(fd, (void *)&address, sizeof(address)));
	return fd;
}

/* ---- a cable ---- */

struct link_request {
	struct nlmsghdr header;
	struct ifinfomsg link;
	uint8_t attributes[256];
};

static struct rtattr *add_attribute(struct link_request *request, uint16_t type, const void *value,
				    size_t bytes)
{
	struct rtattr *attribute =
		(void *)((uint8_t *)request + NLMSG_ALIGN(request->header.nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = (uint16_t)RTA_LENGTH(bytes);
	if (bytes)
		memcpy(RTA_DATA(attribute), value, bytes);
	request->header.nlmsg_len =
		NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)RTA_SPACE(bytes);
	return attribute;
}

static void end_attribute(struct link_request *request, struct rtattr *attribute)
{
	attribute->rta_len =
		(uint16_t)((uint8_t *)request + request->header.nlmsg_len - (uint8_t *)attribute);
}

static struct link_request veth_request(void)
{
	const struct ifinfomsg peer_link = { 0 };
	struct link_request request = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(request.link)),
			    .nlmsg_type = RTM_NEWLINK,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL },
	};
	struct rtattr *info, *data, *peer;

	add_attribute(&request, IFLA_IFNAME, "left", sizeof("left"));
	info = add_attribute(&request, IFLA_LINKINFO, NULL, 0);
	add_attribute(&request, IFLA_INFO_KIND, "veth", sizeof("veth"));
	data = add_attribute(&request, IFLA_INFO_DATA, NULL, 0);
	peer = add_attribute(&request, VETH_INFO_PEER, &peer_link, sizeof(peer_link));
	add_attribute(&request, IFLA_IFNAME, "right", sizeof("right"));
	end_attribute(&request, peer);
	end_attribute(&request, data);
	end_attribute(&request, info);
	return request;
}

bool network__plug_cable(void)
{
	struct link_request request = veth_request();
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	must(fd >= 0);
	must(send(fd, &request, request.header.nlmsg_len, 0) == request.header.nlmsg_len);
	must(recv(fd, &answer, sizeof(answer), 0) >= (ssize_t)sizeof(answer));
	close(fd);
	if (answer.header.nlmsg_type != NLMSG_ERROR || answer.error.error)
		return false;
	set_up("left", true);
	set_up("right", true);
	return true;
}

void network__set_left(bool up, bool finishes_checksums)
{
	struct ethtool_value value = { .cmd = ETHTOOL_STXCSUM, .data = finishes_checksums };
	struct ifreq request = request_for("left");
	int fd = open_control();

	request.ifr_data = (void *)&value;
	must(!ioctl(fd, SIOCETHTOOL, &request));
	close(fd);
	set_up("left", up);
}

int network__open_packet_output(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	must(fd >= 0);
	set(fd, SOL_PACKET, PACKET_VNET_HDR, 1);
	set(fd, SOL_SOCKET, SO_SNDBUF, 4 << 20);
	return fd;
}

int network__open_capture(void)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_protocol = htons(ETH_P_ALL),
				       .sll_ifindex = (int)if_nametoindex("right") };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	must(fd >= 0);
	set(fd, SOL_PACKET, PACKET_VNET_HDR, 1);
	set(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
	set(fd, SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20);
	must(!bind(fd, (void *)&address, sizeof(address)));
	return fd;
}

void network__capture(int fd, const uint8_t link_source[6], int wait_ms,
		      struct network_frame *frame)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	struct iovec parts[] = { { &frame->offloads, sizeof(frame->offloads) },
				 { frame->bytes, sizeof(frame->bytes) } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	do {
		frame->count = -1;
		if (poll(&wait, 1, wait_ms) != 1)
			return;
		frame->count = recvmsg(fd, &message, MSG_DONTWAIT | MSG_TRUNC);
		must(frame->count <= (ssize_t)(sizeof(frame->offloads) + sizeof(frame->bytes)));
		frame->count -= (ssize_t)sizeof(frame->offloads);
	} while (frame->count < 12 || memcmp(frame->bytes + 6, link_source, 6));
}

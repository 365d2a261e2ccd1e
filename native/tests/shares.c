#include "shares.h"

#include "must.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void share__init(struct test_share *share, uint64_t generation)
{
	*share = (struct test_share){ .header = { .abi = MCR_ABI, .generation = generation } };
}

struct mcr_rule *share__add_rule(struct test_share *share, uint32_t interface,
				 const uint8_t group[16], uint16_t port)
{
	struct mcr_rule *rule = &share->rules[share->header.rules];

	must(share->header.rules < SHARE_MAX_RULES);
	*rule = (struct mcr_rule){ .interface = interface,
				   .ifindex = interface + 1,
				   .port = port,
				   .last_port = port,
				   .prefix_bits = 128,
				   .slot = share->header.rules++,
				   .first_output = share->header.outputs,
				   .first_source = share->header.sources };
	memcpy(rule->group, group, 16);
	share->header.interfaces |= 1ull << interface;
	return rule;
}

struct mcr_output *share__add_output(struct test_share *share, enum mcr_ttl_policy policy,
				     uint8_t ttl)
{
	struct mcr_output *output = &share->outputs[share->header.outputs];

	must(share->header.outputs < SHARE_MAX_OUTPUTS);
	*output = (struct mcr_output){ .address = { [15] = 1 },
				       .port = (uint16_t)(6000 + share->header.outputs),
				       .prefix_bits = 128,
				       .mtu = 1500,
				       .ttl_policy = (uint8_t)policy,
				       .ttl = ttl,
				       .slot = share->header.outputs++ };
	share->rules[share->header.rules - 1].outputs++;
	return output;
}

void share__add_source(struct test_share *share, const uint8_t source[16])
{
	must(share->header.sources < SHARE_MAX_SOURCES);
	memcpy(share->sources[share->header.sources++].address, source, 16);
	share->rules[share->header.rules - 1].sources++;
}

static uint8_t *append(uint8_t *at, const void *from, size_t bytes)
{
	memcpy(at, from, bytes);
	return at + bytes;
}

size_t share__write(const struct test_share *share, uint8_t *at)
{
	const struct mcr_share_header *header = &share->header;
	uint8_t *end = append(at, header, sizeof(*header));

	end = append(end, share->rules, header->rules * sizeof(struct mcr_rule));
	end = append(end, share->outputs, header->outputs * sizeof(struct mcr_output));
	end = append(end, share->sources, header->sources * sizeof(struct mcr_source));
	return (size_t)(end - at);
}

int share__file(const struct test_share *share, uint64_t *bytes)
{
	uint8_t content[SHARE_MAX_BYTES];
	int fd = memfd_create("share", MFD_CLOEXEC);

	*bytes = share__write(share, content);
	must(fd >= 0 && write(fd, content, *bytes) == (ssize_t)*bytes);
	return fd;
}

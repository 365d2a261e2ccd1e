/*
 * Programs at the ingress of interfaces (mcr/model/ebpf.py).
 *
 * Source: linux/bpf.h; Documentation/bpf/syscall_api.rst.
 */
#include "../mcr.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In linux/bpf.h since Linux 6.6 only. */
#define TCX_INGRESS 46

static int bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
	long result = syscall(SYS_bpf, command, attributes, sizeof(*attributes));

	return result < 0 ? -errno : (int)result;
}

static int load(const uint8_t *program, uint32_t bytes)
{
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attributes.insns = (uintptr_t)program;
	attributes.insn_cnt = bytes / sizeof(struct bpf_insn);
	attributes.license = (uintptr_t)"Apache-2.0";
	memcpy(attributes.prog_name, "mcr_bypass", sizeof("mcr_bypass"));
	return bpf(BPF_PROG_LOAD, &attributes);
}

int mcr_bypass__attach(uint32_t ifindex, const uint8_t *program, uint32_t bytes)
{
	int loaded = load(program, bytes), link;
	union bpf_attr attributes;

	if (loaded < 0)
		return loaded;
	memset(&attributes, 0, sizeof(attributes));
	attributes.link_create.prog_fd = (uint32_t)loaded;
	attributes.link_create.target_ifindex = ifindex;
	attributes.link_create.attach_type = (enum bpf_attach_type)TCX_INGRESS;
	link = bpf(BPF_LINK_CREATE, &attributes);
	close(loaded);
	return link;
}

int mcr_bypass__replace(int link_fd, const uint8_t *program, uint32_t bytes)
{
	int loaded = load(program, bytes), error;
	union bpf_attr attributes;

	if (loaded < 0)
		return loaded;
	memset(&attributes, 0, sizeof(attributes));
	attributes.link_update.link_fd = (uint32_t)link_fd;
	attributes.link_update.new_prog_fd = (uint32_t)loaded;
	error = bpf(BPF_LINK_UPDATE, &attributes);
	close(loaded);
	return error;
}

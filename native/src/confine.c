#include "../mcr.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Memory may be mapped or its protection changed, but never so that it can be executed; signals go
 * to the process itself only, as abort() needs it.
 */
static int allow(scmp_filter_ctx filter, const char *name)
{
	int number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR)
		return -EINVAL;
	if (number == SCMP_SYS(mmap) || number == SCMP_SYS(mprotect))
		return seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
					SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (number == SCMP_SYS(tgkill))
		return seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
					SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
}

int mcr_confine__system_calls(const char *const *names, uint32_t count)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int error = filter ? 0 : -ENOMEM;

	for (uint32_t i = 0; !error && i < count; i++)
		error = allow(filter, names[i]);
	if (!error)
		error = seccomp_load(filter);
	seccomp_release(filter);
	return error;
}

"""
The roles of mcr's processes, and what each may do: the one table from which confinement, its proof, the
supervisor's check and ``developer_docs/privileges.md`` are made.
"""

from dataclasses import dataclass

SECCOMP_OFF, SECCOMP_FILTER = "0", "2"  # "Seccomp" in /proc/PID/status, proc(5)


@dataclass(frozen=True, slots=True)
class Role:
    """
    One row of the table.

    Attributes:
        package: where the process's main.py is.
        user: name in the password database; its group and no supplementary groups come with it.
        capabilities: effective, permitted and bounding alike, names without CAP_; inheritable and ambient
            stay empty.
        optional: capabilities that it does its work without, if it has not got them.
        no_new_privs: nothing that it executes can gain privileges.
        system_calls: the only ones allowed; empty means no filter.
        distrusts: the inputs that it must not believe.
    """

    name: str
    package: str
    user: str
    capabilities: frozenset[str]
    no_new_privs: bool
    system_calls: tuple[str, ...]
    distrusts: str
    optional: frozenset[str] = frozenset()


SUPERVISOR = Role(
    name="supervisor",
    package="mcr.supervisor",
    user="root",
    capabilities=frozenset(
        {"net_raw", "net_admin", "bpf", "setuid", "setgid", "setpcap", "kill", "sys_nice"}
    ),
    no_new_privs=False,
    system_calls=(),
    distrusts="control clients, configuration, netlink, worker messages",
    optional=frozenset({"bpf"}),  # without it nothing bypasses the IP stack
)

WORKER = Role(
    name="worker",
    package="mcr.worker",
    user="nobody",
    capabilities=frozenset(),
    no_new_privs=True,
    system_calls=(
        # packets
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "sendmsg",
        "sendmmsg",
        "sendto",
        "poll",
        "ppoll",
        "clock_nanosleep",
        "clock_gettime",
        "timerfd_settime",
        # descriptors it was given
        "close",
        "mmap",
        "munmap",
        "read",
        "lseek",
        "pread64",
        "fstat",
        "newfstatat",
        # memory, threads and the end of an interpreter
        "brk",
        "mprotect",
        "madvise",
        "mremap",
        "futex",
        "getrandom",
        "gettid",
        "getpid",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sigaltstack",
        "restart_syscall",
        "sched_getscheduler",
        "sched_yield",
        "tgkill",
        "write",
        "exit",
        "exit_group",
    ),
    distrusts="every packet",
)

ROLES = {role.name: role for role in (SUPERVISOR, WORKER)}

"""
A process that becomes what a worker is, and then tries what a worker must not do.

Run with the pid of another process of the same user.  It writes a JSON document on standard output: its
proof, and for each attempt the error's name, or null where nothing stopped it.  Then it waits for the end of
its standard input, so that it can be looked at.  With a second argument it tries the harmless ones only, and
without becoming anything.
"""

import ctypes
import errno
import json
import mmap
import os
import select
import socket
import sys
import threading
from collections.abc import Callable

from mcr.runtime import confine
from mcr.runtime.roles import WORKER
from mcr.worker.dataplane import allow_system_calls

PTRACE_TRACEME, PTRACE_ATTACH = 0, 16
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
MAP_FAILED = ctypes.c_void_p(-1).value
PROT_ALL = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library that gives -1 for failure."""
    if getattr(LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def map_executable() -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if LIBC.mmap(None, mmap.PAGESIZE, PROT_ALL, flags, -1, 0) == MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")


def make_executable(page: mmap.mmap) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    call("mprotect", ctypes.c_void_p(address), mmap.PAGESIZE, PROT_ALL)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def start_thread() -> None:
    """Python turns the refusal into a RuntimeError without a number."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise OSError(errno.EPERM, str(error)) from error


def attempts(given: socket.socket, other: int) -> dict[str, Callable[[], object]]:
    """Give everything to be tried."""
    page, cpus = mmap.mmap(-1, mmap.PAGESIZE), os.sched_getaffinity(0)
    return {
        "open a file": lambda: os.open("/etc/hostname", os.O_RDONLY),
        "make a file": lambda: os.open("/tmp/mcr-confined", os.O_CREAT | os.O_WRONLY),  # noqa: S108 - never made
        "read a directory": lambda: os.listdir("/"),  # noqa: PTH208 - the call itself
        "read a link": lambda: os.readlink("/proc/self/exe"),  # noqa: PTH115 - the call itself
        "remove a file": lambda: os.unlink("/tmp/mcr-confined"),  # noqa: S108, PTH108 - the call itself
        "change the directory": lambda: os.chdir("/"),
        "change the root": lambda: os.chroot("/"),
        "open a udp socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "open a unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "open a pair of sockets": socket.socketpair,
        "set a socket option": lambda: given.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16),
        "bind a socket": lambda: given.bind(b"\0mcr-confined"),
        "connect a socket": lambda: given.connect(b"\0mcr-confined"),
        "listen on a socket": lambda: given.listen(1),
        "duplicate a descriptor": lambda: os.dup(given.fileno()),
        "open a pipe": os.pipe,
        "execute a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - the call itself
        "fork": fork,
        "start a thread": start_thread,
        "trace another process": lambda: call("ptrace", PTRACE_ATTACH, other, None, None),
        "be traced": lambda: call("ptrace", PTRACE_TRACEME, 0, None, None),
        "read another's memory": lambda: call("process_vm_readv", other, None, 0, None, 0, 0),
        "signal another process": lambda: os.kill(other, 0),
        "signal a thread of another process": lambda: call("tgkill", other, other, 0),
        "become root": lambda: os.setuid(0),
        "move to another cpu": lambda: os.sched_setaffinity(0, cpus),
        "map memory to execute": map_executable,
        "make memory executable": lambda: make_executable(page),
        "enter another namespace": lambda: call("unshare", CLONE_NEWNET),
    }


def needs(given: socket.socket, far: socket.socket) -> dict[str, Callable[[], object]]:
    """Give what a worker lives on."""
    waiting = select.poll()
    waiting.register(given)
    return {
        "send": lambda: given.send(b"one"),
        "send a message": lambda: given.sendmsg([b"t", b"wo"]),
        "receive": lambda: far.recv(8),
        "receive a message": lambda: far.recvmsg(8),
        "wait": lambda: waiting.poll(0),
        "map memory": lambda: mmap.mmap(-1, 1 << 20).close(),
        "see its scheduling policy": lambda: os.sched_getscheduler(0),
        "give way": os.sched_yield,
        "signal itself": lambda: call("tgkill", os.getpid(), os.getpid(), 0),
        "close": far.close,
    }


def result_of(attempt: Callable[[], object]) -> str | None:
    """Try; give the name of the error, None if there is none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]
    return None


HARMLESS = {
    *(
        "open a file",
        "read a directory",
        "open a packet socket",
        "set a socket option",
        "fork",
        "become root",
    ),
    *(
        "start a thread",
        "signal another process",
        "signal a thread of another process",
        "move to another cpu",
    ),
    *("map memory to execute", "make memory executable", "duplicate a descriptor"),
}


def main(other: int, *, is_confined: bool) -> None:
    given, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    allowed, forbidden = needs(given, far), attempts(given, other)
    status = confine.StatusFile()
    if is_confined:
        confine.give_up(WORKER)
        allow_system_calls(WORKER.system_calls)
    else:
        forbidden = {name: attempt for name, attempt in forbidden.items() if name in HARMLESS}
    document = {
        "proof": status.proof(),
        "needs": {name: result_of(attempt) for name, attempt in allowed.items()},
        "attempts": {name: result_of(attempt) for name, attempt in forbidden.items()},
    }
    os.write(sys.stdout.fileno(), json.dumps(document).encode() + b"\n")
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), is_confined=len(sys.argv) == 2)

"""
The supervisor process, `mcrd`.

User root, with the few capabilities of its row in `runtime.roles`; all others are dropped at start.
Distrusts control clients, the configuration, netlink and worker messages.  It opens every socket, joins
groups, starts and watches workers; it never sees a packet.
"""

import argparse
import asyncio
import os
import resource
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

import uvloop

import mcr
from mcr import __version__
from mcr.config.compile import Configuration
from mcr.config.load import load_configuration
from mcr.config.schema import MAX_WORKERS
from mcr.errors import ConfigError, McrError, UsageError
from mcr.runtime import confine
from mcr.runtime.logs import LEVELS, Logger, make_logger
from mcr.runtime.roles import SUPERVISOR
from mcr.supervisor.control.handlers import Handlers
from mcr.supervisor.control.server import ControlServer
from mcr.supervisor.core import Supervisor
from mcr.supervisor.counters import CounterFile
from mcr.supervisor.layout import Wishes
from mcr.supervisor.memberships import Memberships, read_limits
from mcr.supervisor.sockets import default_ring_bytes
from mcr.supervisor.sources.netlink import drain, watch_links
from mcr.supervisor.state import State, Worker

DEFAULT_CONFIG = Path("/etc/mcr/mcr.json5")
DEFAULT_CONTROL = Path("/run/mcr/control.sock")
STOP_DEADLINE_S = 1.0
RING_LOOK_S = 1.0
EXIT_FAILED, EXIT_USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mcrd` until SIGTERM or SIGINT; give the exit status."""
    options = build_parser().parse_args(arguments)
    log = make_logger(options.log_level)
    try:
        configuration = _load(options.config, log)
        if options.check:
            sys.stdout.write(
                f"{options.config or DEFAULT_CONFIG}: {len(configuration.rules)} rules, no problems\n"
            )
            return 0
        confine.require_capabilities(SUPERVISOR)
        _run(_serve(options.control, options.workers, configuration, log))
    except ConfigError as error:
        return _fail(EXIT_USAGE, *error.problems)
    except UsageError as error:
        return _fail(EXIT_USAGE, f"mcrd: {error}")
    except McrError as error:
        return _fail(EXIT_FAILED, f"mcrd: {error}")
    return 0


def _run(service: Coroutine[object, object, None]) -> None:
    """Run to the end; of a group of failures only the first one of our own is for the user."""
    try:
        uvloop.run(service)
    except ExceptionGroup as group:
        raise _first(group) from None


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Give the first failure of our own, or the whole group if there is none."""
    for error in group.exceptions:
        found = _first(error) if isinstance(error, ExceptionGroup) else error
        if isinstance(found, McrError):
            return found
    return group


def _fail(status: int, *lines: str) -> int:
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return status


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="mcrd",
        description="Relay multicast UDP between networks.",
        epilog="SIGTERM and SIGINT stop it. Exit status: 0 stopped, 1 failed, 2 bad usage or configuration.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration (default: {DEFAULT_CONFIG}, which may be absent)",
    )
    parser.add_argument(
        "--control",
        type=Path,
        metavar="PATH",
        default=DEFAULT_CONTROL,
        help="control socket (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=_worker_count,
        metavar="N",
        help="worker processes (default: one per CPU it may use)",
    )
    parser.add_argument(
        "--check", action="store_true", help="validate the configuration and exit; needs no root"
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="(default: %(default)s)")
    parser.add_argument("--version", action="version", version=f"mcrd {__version__}")
    return parser


def _worker_count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 1 to {MAX_WORKERS}")
    return int(text)


def _load(path: Path | None, log: Logger) -> Configuration:
    if path is None and not DEFAULT_CONFIG.exists():
        log.info("no configuration, starting without rules", looked_at=str(DEFAULT_CONFIG))
        return Configuration()
    return load_configuration(path or DEFAULT_CONFIG)


async def _serve(control: Path, workers: int | None, configuration: Configuration, log: Logger) -> None:
    """Run until a signal; the control socket is bound while its group can still be set."""
    _raise_descriptor_limit()
    state = _make_state(workers or configuration.workers, configuration)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with asyncio.TaskGroup() as tasks:
        supervisor = Supervisor(state, log, tasks)
        supervisor.load(configuration.rules)
        async with ControlServer(control, Handlers(supervisor).table(), log):
            _confine(log)
            running = [tasks.create_task(_follow(supervisor)), tasks.create_task(_watch_rings(supervisor))]
            log.info(
                "started",
                pid=os.getpid(),
                control=str(control),
                workers=len(state.workers),
                rules=len(state.rules),
            )
            await stopped.wait()
        for task in running:
            task.cancel()
        await supervisor.stop(STOP_DEADLINE_S)
    log.info("stopped")


def _confine(log: Logger) -> None:
    """
    Keep what the role needs, and what workers need to be started from where mcr is installed.

    A checkout in a home directory of mode 0750, Ubuntu's default, is closed to root once it has given up
    CAP_DAC_*; workers give up everything later, but must be read from there first.
    """
    closed = confine.closed_directory(Path(mcr.__file__)) or confine.closed_directory(Path(sys.executable))
    if closed is None:
        confine.keep_capabilities(SUPERVISOR)
        return
    log.warning("keeping CAP_DAC_READ_SEARCH: mcr lies in a closed directory", directory=str(closed))
    confine.keep_capabilities(SUPERVISOR, "dac_read_search")


async def _follow(supervisor: Supervisor) -> None:
    """Reconcile on every change of links, and whatever else happens."""
    loop = asyncio.get_running_loop()
    with watch_links() as watcher:

        def links_changed() -> None:
            drain(watcher)
            supervisor.look_at_links()

        loop.add_reader(watcher, links_changed)
        try:
            await supervisor.run()
        finally:
            loop.remove_reader(watcher)


async def _watch_rings(supervisor: Supervisor) -> None:
    while True:
        await asyncio.sleep(RING_LOOK_S)
        supervisor.look_at_rings()


def _make_state(workers: int | None, configuration: Configuration) -> State:
    """Pin worker N to the Nth usable CPU; more workers than CPUs begin again with the first."""
    cpus = sorted(os.sched_getaffinity(0))
    count = workers or min(len(cpus), MAX_WORKERS)
    return State(
        wishes=Wishes(
            count,
            configuration.steering,
            configuration.coalesce_us,
            configuration.busy_poll,
            configuration.realtime and not configuration.busy_poll,
            configuration.batch,
            configuration.ring_bytes or default_ring_bytes(count),
            configuration.watch_unmatched,
            configuration.bypass_stack,
        ),
        workers=[Worker(number, cpus[number % len(cpus)], CounterFile(number)) for number in range(count)],
        memberships=Memberships(read_limits()),
    )


def _raise_descriptor_limit() -> None:
    """Every output is a descriptor here and in its workers; the usual soft limit of 1,024 is soon reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

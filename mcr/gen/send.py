"""``mcrgen send``: numbered datagrams at a steady rate."""

import errno
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from mcr._native import ffi, lib
from mcr.gen import counters, sockets
from mcr.gen.options import SendOptions
from mcr.gen.outlet import Outlet, open_outlet
from mcr.gen.report import SendReport

SLICE_NS = 200_000_000
FINISH_S = 2.0  # for the last datagrams of all flows, at the rate asked for


def send(options: SendOptions, is_stopped: Callable[[], bool]) -> SendReport:
    """
    Send until everything has been sent or *is_stopped*.

    Raises:
        UsageError: no such interface, or the engine that was asked for cannot do it.
        KernelError: a socket could not be made.
    """
    with ExitStack() as stack:
        outlet = open_outlet(options, stack)
        dropped_before = counters.interface_drops(options.to.interface)
        native = _new_native(options, outlet, stack)
        _run(native, options, is_stopped)
        tally = lib.mcr_send__tally(native)
        return SendReport(
            to=str(options.to),
            engine=str(outlet.engine),
            flows=options.flows,
            payload_bytes=options.payload_bytes,
            wanted=options.count,
            wanted_rate_pps=options.rate_pps,
            sent=tally.sent,
            not_sent=tally.not_sent,
            errors={errno.errorcode.get(n, str(n)): c for n, c in enumerate(tally.errors) if c},
            retries=tally.retries,
            bytes=tally.bytes,
            seconds=(tally.last_ns - tally.first_ns) / 1e9,
            worst_lag_us=tally.worst_lag_ns / 1e3,
            interface_dropped=_difference(counters.interface_drops(options.to.interface), dropped_before),
        )


def _run(native: Any, options: SendOptions, is_stopped: Callable[[], bool]) -> None:  # noqa: ANN401 - a C pointer
    """Call the C loop slice by slice, so that signals are seen between."""
    if options.duration_s is None:
        while not is_stopped() and lib.mcr_send__run(native, SLICE_NS):
            pass
        return
    _run_until(native, time.monotonic() + options.duration_s, is_stopped)
    # The receiver learns from one more datagram of each flow how many there were.
    lib.mcr_send__finish(native)
    _run_until(native, time.monotonic() + FINISH_S, lambda: False)


def _run_until(native: Any, ends_at: float, is_stopped: Callable[[], bool]) -> None:  # noqa: ANN401 - a C pointer
    """Send until a time on the monotonic clock, in seconds."""
    while not is_stopped() and (left_s := ends_at - time.monotonic()) > 0:
        if not lib.mcr_send__run(native, min(SLICE_NS, int(left_s * 1e9))):
            return


def _new_native(options: SendOptions, outlet: Outlet, stack: ExitStack) -> Any:  # noqa: ANN401 - a C pointer
    flows = ffi.new("struct mcr_send_flow[]", options.flows)
    for index, (name, head) in enumerate(zip(outlet.names, outlet.heads, strict=True)):
        flows[index].total = options.total_of(index)
        flows[index].name_bytes = len(name)
        flows[index].head_bytes = len(head)
        ffi.memmove(flows[index].name, name, len(name))
        ffi.memmove(flows[index].head, head, len(head))
    plan = ffi.new("struct mcr_send_plan *")
    plan.fd = outlet.fd
    plan.rate_pps = options.rate_pps
    plan.flows = options.flows
    plan.payload_bytes = options.payload_bytes
    plan.segments = options.segments
    native = lib.mcr_send__new(plan, flows)
    if native == ffi.NULL:
        raise sockets.kernel_error("prepare", f"{options.flows} flows", OSError(ffi.errno, ""))
    stack.callback(lib.mcr_send__free, native)
    return native


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before

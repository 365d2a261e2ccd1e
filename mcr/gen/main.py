"""
``mcrgen``: make traffic and measure what became of it.

Runs as the caller, with the caller's capabilities; distrusts every datagram that it receives.
Exit status: 0 all is well, 1 something was not sent, not received or refused by the kernel, 2 usage.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

from mcr.errors import McrError, UsageError
from mcr.gen import quantity, sockets
from mcr.gen.options import Engine, ReceiveOptions, SendOptions
from mcr.gen.receive import receive
from mcr.gen.report import ReceiveReport, SendReport, render
from mcr.gen.send import send
from mcr.model.endpoint import parse_endpoint

Value = TypeVar("Value")


class Stop:
    """Notes that the user has had enough; the loops look at it between slices."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Say whether it is time to stop."""
        return self.requested

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self.requested = True


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command; give the exit status.

    Raises:
        SystemExit: with status 2, by argparse, after saying what is wrong with the command line.
    """
    stop = Stop()
    try:
        options = build_parser().parse_args(arguments)
        prepared = prepare(options)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop.request)
        if options.cpu is not None:
            sockets.pin_to_cpu(options.cpu)
        report: SendReport | ReceiveReport
        report = send(prepared, stop) if isinstance(prepared, SendOptions) else receive(prepared, stop)
    except UsageError as error:
        print(f"mcrgen: {error}", file=sys.stderr)
        return 2
    except McrError as error:
        print(f"mcrgen: {error}", file=sys.stderr)
        return 1
    print(render(report, as_json=options.json), flush=True)
    for problem in report.problems():
        print(f"mcrgen: {problem}", file=sys.stderr)
    return 1 if report.problems() else 0


def prepare(options: argparse.Namespace) -> SendOptions | ReceiveOptions:
    """
    Turn the command line into what *send* or *receive* takes.

    Raises:
        UsageError: values that do not fit together.
    """
    if options.command == "send":
        return SendOptions(
            to=options.to,
            rate_pps=options.rate,
            payload_bytes=options.size,
            count=options.count,
            duration_s=options.duration,
            flows=options.flows,
            segments=options.segment,
            ttl=options.ttl,
            engine=Engine(options.engine),
        )
    return ReceiveOptions(
        source=options.source,
        count=options.count,
        duration_s=options.duration,
        flows=options.flows,
        by_flow=options.by == "flow",
        idle_s=options.idle,
        wait_s=options.wait,
        linger_s=options.linger,
        max_loss=options.max_loss,
        progress=options.progress,
        as_json=options.json,
    )


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="mcrgen", description="Make UDP traffic and measure what became of it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="send | receive")
    sender = commands.add_parser("send", help="send numbered datagrams at a steady rate")
    receiver = commands.add_parser("receive", help="account for every datagram that should have come")
    sender.add_argument(
        "--to", required=True, type=_type(parse_endpoint), metavar="ENDPOINT", help="where to"
    )
    receiver.add_argument(
        "--from",
        required=True,
        dest="source",
        type=_type(parse_endpoint),
        metavar="ENDPOINT",
        help="what to join",
    )
    for command in (sender, receiver):
        _add_common(command)
    _add_send(sender)
    _add_receive(receiver)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    until = command.add_mutually_exclusive_group(required=True)
    count, seconds = _type(quantity.parse_count), _type(quantity.parse_seconds)
    until.add_argument("--count", type=count, metavar="N", help="end after N datagrams, over all flows")
    until.add_argument("--duration", type=seconds, metavar="S", help="end after S seconds")
    command.add_argument("--flows", type=count, default=1, metavar="N", help="N consecutive addresses (1)")
    command.add_argument("--cpu", type=int, metavar="N", help="run on this CPU only")
    command.add_argument("--json", action="store_true", help="report one JSON document")


def _add_send(command: argparse.ArgumentParser) -> None:
    rate, count = _type(quantity.parse_rate), _type(quantity.parse_count)
    command.add_argument("--rate", required=True, type=rate, metavar="PPS", help="500, 10k, 1.5M or max")
    command.add_argument(
        "--size", required=True, type=count, metavar="BYTES", help="UDP payload, at least 40"
    )
    command.add_argument("--ttl", type=int, metavar="N", help="time to live (the kernel's: 1 for multicast)")
    command.add_argument(
        "--segment", type=count, default=1, metavar="N", help="N datagrams per super-frame (1)"
    )
    command.add_argument(
        "--engine",
        choices=list(Engine),
        default=Engine.AUTO,
        help="ethernet if permitted and possible, else udp",
    )


def _add_receive(command: argparse.ArgumentParser) -> None:
    seconds, loss = _type(quantity.parse_seconds), _type(quantity.parse_loss)
    command.add_argument("--max-loss", type=loss, metavar="N", help="exit 1 if more are lost or corrupted")
    command.add_argument(
        "--idle", type=seconds, default=2.0, metavar="S", help="end --count when idle so long (2)"
    )
    command.add_argument(
        "--wait", type=seconds, default=10.0, metavar="S", help="for the first datagram (10)"
    )
    command.add_argument(
        "--linger", type=seconds, default=0.0, metavar="S", help="go on after --count so long (0)"
    )
    command.add_argument(
        "--by", choices=("address", "flow"), default="address", help="tell flows by destination or by number"
    )
    command.add_argument("--progress", action="store_true", help="a line per second on standard error")


def _type(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Let argparse name the option in front of what is wrong with its value."""

    def convert(text: str) -> Value:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


if __name__ == "__main__":
    sys.exit(main())

"""
mcrctl: ask the daemon, or tell it.

User: whoever calls it. Capabilities: the caller's. Distrusts: its command line, and answers that are not of
the control protocol.

Heavy modules stay out of here: ``mcrctl ping`` as a whole process takes less than 150 ms.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from mcr import __version__
from mcr.cli.commands import COMMANDS, GROUPS, Command
from mcr.client import DEFAULT_PATH, Client
from mcr.errors import PeerError, Refused, UsageError

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

ENDPOINTS = """\
endpoints:
  239.1.1.1%eth0:5001                 a group on an interface
  10.0.0.9@232.1.1.1%eth0:5001        a group, only from that source
  [ff35::8000:1%eth0]:5001            IPv6
  192.0.2.7:6000                      a host; as an output the routing table decides
"""

EPILOG = f"""\
{ENDPOINTS}
examples:
  mcrctl rule add camera-1 --from 239.1.1.1%eth0:5001 --to 239.2.2.2%eth1:6000
  mcrctl rule list
  mcrctl stats camera-1
  mcrctl --json worker list

exit status: 0 done; 1 refused by the daemon; 2 wrong usage; 3 daemon not reachable
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit status; *arguments* are those of the process unless given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _report(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain when it flushes again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def run(options: argparse.Namespace) -> int:
    """
    Ask the daemon for what *options* say and print its answer.

    Raises:
        McrError: as `Client.call`; or the arguments do not make a request.
    """
    command = cast("Command", options.command)
    params = command.params(options)
    with Client(_control_path(options)) as client:
        answer = command.ask(client, params)
        as_json = getattr(options, "json", False)
        if isinstance(answer, Iterator):
            for document in answer:
                _print(json.dumps(document) if as_json else command.show(document))
        else:
            _print(json.dumps(answer, indent=2) if as_json else command.show(answer))
    return EXIT_OK


def _print(text: str) -> None:
    if text:
        print(text, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser from the table of commands."""
    shared = _shared_options()
    parser = argparse.ArgumentParser(
        prog="mcrctl",
        description="Show and change what the relay daemon mcrd does.",
        epilog=EPILOG,
        parents=[shared],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mcrctl {__version__}")
    places = {"": parser.add_subparsers(title="commands", metavar="COMMAND", required=True)}
    for group, summary in GROUPS.items():
        place = places[""].add_parser(
            group, help=summary, description=summary, parents=[shared], allow_abbrev=False
        )
        places[group] = place.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for words, command in COMMANDS.items():
        group, _, name = words.rpartition(" ")
        place = places[group].add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=_epilog(command, ENDPOINTS if group == "rule" else ""),
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(place)
        place.set_defaults(command=command)
    return parser


def _report(given: list[str]) -> int:
    """Run one command; turn errors into a line on stderr and an exit status."""
    parser = build_parser()
    if not given:
        parser.print_help()
        return EXIT_OK
    try:
        return run(parser.parse_args(given))
    except UsageError as error:
        return _complain(error, EXIT_USAGE)
    except Refused as error:
        return _complain(error, EXIT_REFUSED)
    except PeerError as error:
        return _complain(error, EXIT_UNREACHABLE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _epilog(command: Command, syntax: str) -> str:
    examples = "\n".join(f"  {line}" for line in command.examples)
    return f"{syntax}\nexamples:\n{examples}".lstrip()


def _shared_options() -> argparse.ArgumentParser:
    """Make the options that may stand anywhere; SUPPRESS keeps a default from undoing an earlier option."""
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared.add_argument(
        "--control",
        metavar="PATH",
        type=Path,
        default=argparse.SUPPRESS,
        help=f"control socket of the daemon (environment: MCR_CONTROL; default: {DEFAULT_PATH})",
    )
    shared.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print one JSON document and nothing else",
    )
    return shared


def _control_path(options: argparse.Namespace) -> Path:
    path = getattr(options, "control", None) or os.environ.get("MCR_CONTROL") or DEFAULT_PATH
    return Path(path)


def _complain(error: Exception, status: int) -> int:
    print(f"mcrctl: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""
``just soak``: rules that come and go, workers that are killed, traffic that must not notice.

User: root. It starts and stops only processes and namespaces of its own.

Exit status: 0 everything held; 1 something did not; 2 it cannot run here.
"""

import argparse
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from tests.soak.play import Extent, Failed, soak
from tests.soak.report import summary

EXIT_HELD, EXIT_FAILED, EXIT_CANNOT_RUN = 0, 1, 2
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
SEEDS = 1 << 32
LEAST_MINUTES = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak for as long as the command line says."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        sys.stderr.write("soak: needs root, to make network namespaces and to start mcrd\n")
        return EXIT_CANNOT_RUN
    for number in ENDING_SIGNALS:
        signal.signal(number, _end)
    seed = secrets.randbelow(SEEDS) if options.seed is None else options.seed
    try:
        with TemporaryDirectory(prefix="mcr-soak-") as directory:
            seen = soak(Extent(60 * options.minutes, seed, options.first_round), Path(directory), say)
    except Failed as error:
        sys.stderr.write(f"soak: FAILED in {error}\n")
        return EXIT_FAILED
    say(f"\n{summary(seen.figures(), seen.watch.first, seen.watch.last)}\n\nseed {seed}: everything held")
    return EXIT_HELD


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="just soak", description=__doc__.splitlines()[1])
    parser.add_argument("minutes", type=_minutes, metavar="MINUTES")
    parser.add_argument("--seed", type=int, help="of all choices; default: another one each time")
    parser.add_argument(
        "--first-round", type=int, default=0, metavar="N", help="begin with round N, to see one again"
    )
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not LEAST_MINUTES <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of minutes from {LEAST_MINUTES}")
    return minutes


def _end(number: int, _frame: object) -> NoReturn:
    """End as if by Ctrl-C, so that everything that was started is stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

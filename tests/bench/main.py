"""
``just bench``: measure mcrd beside its peers, in network namespaces of its own.

User: root. It starts and stops only processes and namespaces of its own.

Exit status: 0 every target is met; 1 one was missed, or a scenario failed; 2 it cannot run here.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from tests.bench.machine import describe_machine, describe_versions, is_installed
from tests.bench.play import Extent, Outcome, play
from tests.bench.relays import RELAYS
from tests.bench.report import FEWEST_ROUNDS, document_of, table, verdict_table, write
from tests.bench.scenarios import SCENARIOS, Scenario
from tests.bench.stage import CannotRun, choose_cpus
from tests.support.lab import TREE

RESULTS = TREE / "developer_docs" / "benchmarks"
SECONDS = 3.0
START_AND_STOP_S = 5.0  # of each trial, about
EXIT_MET, EXIT_MISSED, EXIT_CANNOT_RUN = 0, 1, 2
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenarios that the command line names, or all."""
    options = _parser().parse_args(arguments)
    if options.list:
        for scenario in SCENARIOS.values():
            say(f"{scenario.name:<16} {scenario.question}")
        return EXIT_MET
    for number in ENDING_SIGNALS:
        signal.signal(number, _end)
    scenarios = options.scenarios or list(SCENARIOS.values())
    try:
        return _run(scenarios, Extent(options.rounds, options.seconds), options.out)
    except CannotRun as error:
        sys.stderr.write(f"bench: {error}\n")
        return EXIT_CANNOT_RUN


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="just bench", description="Measure mcrd beside its peers.")
    parser.add_argument(
        "scenarios", nargs="*", type=_scenario, metavar="SCENARIO", help="default: all of --list"
    )
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each trial; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: developer_docs/benchmarks")
    return parser


def _scenario(name: str) -> Scenario:
    if name not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"got {name!r}, expected one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def _run(scenarios: Sequence[Scenario], extent: Extent, directory: Path) -> int:
    _check_host(scenarios)
    cpus, machine, versions = choose_cpus(), describe_machine(), describe_versions()
    say(f"{machine}\n{versions}\nabout {_minutes(scenarios, extent):.0f} minutes")
    has_failed = False
    for scenario in scenarios:
        say(f"\n== {scenario.name}: {scenario.question}")
        outcome = play(scenario, cpus, extent, say)
        document = document_of(outcome, extent, machine, versions)
        write(document, directory)
        say(f"\n{table(document)}\n\n{verdict_table(document)}")
        for name, reason in outcome.refused.items():
            say(f"{name} is not measured: mcrd refuses {reason}")
        if outcome.skipped:
            say(f"not measured: {outcome.skipped}")
        has_failed |= _failed(outcome)
    return EXIT_MISSED if has_failed else EXIT_MET


def _failed(outcome: Outcome) -> bool:
    missed = any(verdict.met is False for verdict in outcome.verdicts())
    return missed or outcome.skipped.startswith("failed")


def _check_host(scenarios: Iterable[Scenario]) -> None:
    """Say what is missing before anything is measured."""
    if os.geteuid() != 0:
        raise CannotRun("needs root, to make network namespaces and to start mcrd")
    relays = {contender.relay for scenario in scenarios for contender in scenario.contenders}
    packages = sorted({RELAYS[name].package for name in relays} - {""})
    if missing := [package for package in packages if not is_installed(package)]:
        raise CannotRun(f"missing packages: {', '.join(missing)}; scripts/setup-bench installs them")
    if not shutil.which("taskset"):
        raise CannotRun("missing command: taskset, of util-linux")


def _minutes(scenarios: Iterable[Scenario], extent: Extent) -> float:
    trials = extent.rounds * sum(scenario.repeats * len(scenario.contenders) for scenario in scenarios)
    return trials * (extent.seconds + START_AND_STOP_S) / 60


def _end(number: int, _frame: object) -> NoReturn:
    """End as if by Ctrl-C, so that everything that was started is stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

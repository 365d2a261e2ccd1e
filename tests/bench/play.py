"""Play a scenario: its contenders take turns, round by round, on the same hosts."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.metrics import METRICS, Sample
from tests.bench.relays import mcr_config
from tests.bench.rest import rest
from tests.bench.scenarios import Contender, Scenario
from tests.bench.stage import Cpus, Stage, staged
from tests.bench.targets import Verdict
from tests.bench.trial import relay_traffic
from tests.support.daemon import BIN

CHECK_DEADLINE_S = 20
NOISE = "others_percent"  # shown with every trial

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: rounds, and for how many seconds each contender is watched in each."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a scenario gave.

    Attributes:
        rounds: by contender.
        refused: by contender, why mcrd does not take its configuration.
        skipped: why the scenario was not played, or not to its end.
    """

    scenario: Scenario
    rounds: Mapping[str, Sequence[Sample]]
    refused: Mapping[str, str]
    skipped: str = ""

    def verdicts(self) -> list[Verdict]:
        """Judge all targets."""
        return [target.judge(self.rounds) for target in self.scenario.targets]


def play(scenario: Scenario, cpus: Cpus, extent: Extent, say: Say) -> Outcome:
    """Measure all contenders in all rounds; without the first one, whom it is about, there is no scenario."""
    rounds: dict[str, list[Sample]] = {contender.name: [] for contender in scenario.contenders}
    with staged(cpus, hops=scenario.hops, mtu=scenario.mtu) as stage:
        reasons = {contender.name: _why_refused(stage, contender) for contender in scenario.contenders}
        refused = {name: reason for name, reason in reasons.items() if reason}
        playing = tuple(one for one in scenario.contenders if one.name not in refused)
        if scenario.contenders[0] not in playing:
            return Outcome(scenario, rounds, refused, f"mcrd refuses {refused[scenario.contenders[0].name]}")
        try:
            for number in range(extent.rounds * scenario.repeats):
                for contender in turns(playing, number):
                    sample = _measure(stage, scenario, contender, extent.seconds)
                    rounds[contender.name].append(sample)
                    say(f"  round {number + 1}: {contender.name}: {_line(scenario, sample)}")
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            return Outcome(scenario, rounds, refused, f"failed: {error}")
    return Outcome(scenario, rounds, refused)


def turns(contenders: tuple[Contender, ...], number: int) -> tuple[Contender, ...]:
    """Let another one begin in each round, so that none always follows the same."""
    first = number % len(contenders)
    return contenders[first:] + contenders[:first]


def _measure(stage: Stage, scenario: Scenario, contender: Contender, seconds: float) -> Sample:
    if scenario.is_quiet:
        return rest(stage, contender.job, contender.settings, seconds)
    return relay_traffic(stage, contender, seconds)


def _line(scenario: Scenario, sample: Sample) -> str:
    shown = (
        f"{METRICS[name].title} {METRICS[name].text(sample.get(name))}" for name in (*scenario.columns, NOISE)
    )
    return ", ".join(shown)


def _why_refused(stage: Stage, contender: Contender) -> str:
    """Ask mcrd whether it accepts the configuration; give its first complaint."""
    if contender.relay != "mcr":
        return ""
    with tempfile.TemporaryDirectory() as directory:
        config = mcr_config(stage, 0, contender.job, contender.settings)
        Path(directory, "mcr.json5").write_text(json.dumps(config), encoding="utf-8")
        checked = subprocess.run(
            [str(BIN / "mcrd"), "--config", "mcr.json5", "--check"],
            cwd=directory,
            check=False,
            capture_output=True,
            text=True,
            timeout=CHECK_DEADLINE_S,
        )
    return "" if checked.returncode == 0 else (checked.stderr or checked.stdout).strip().splitlines()[0]

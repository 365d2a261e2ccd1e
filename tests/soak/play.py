"""Rounds of a soak: steady flows all along, passing rules that come and go, workers that are killed."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

from mcr.wire.documents import StatsDocument
from tests.soak.catalogue import (
    BURST,
    KILL_BURST,
    STEADY,
    choose_burst,
    choose_round,
    choose_rule,
    choose_settings,
    dice_of,
)
from tests.soak.model import Datagram
from tests.soak.passing import Burst, Passing
from tests.soak.report import Figures
from tests.soak.stage import Stage, build
from tests.soak.starvation import Starvation
from tests.soak.steady import BATCH, Circumstances, Flow, evidence, flowing, rules, verdicts
from tests.soak.watch import Watch
from tests.support.daemon import Daemon
from tests.support.lab import Lab
from tests.support.wait import wait_for

ROUND_S = 30.0
TELL_S = 10.0
KILL_EVERY_S = 5.0
MOST_RULES = 30


@dataclass(frozen=True, slots=True)
class Extent:
    """How long, and from which choices on."""

    seconds: float
    seed: int
    first_round: int = 0

    @property
    def rounds(self) -> int:
        """Give how many rounds there are: at least one with kills, and one without."""
        return max(2, round(self.seconds / ROUND_S))

    @property
    def round_s(self) -> float:
        """Give how long each of them takes."""
        return self.seconds / self.rounds


@dataclass
class Soak:
    """A daemon in its laboratory, and everything that watches it."""

    stage: Stage
    daemon: Daemon
    watch: Watch
    passing: Passing
    workers: int
    say: Callable[[str], None]
    started_at: float = field(default_factory=monotonic)
    told_at: float = field(default_factory=monotonic)
    kills: int = 0
    steady_sent: int = 0
    steady_received: int = 0
    repeated: int = 0
    overflowed: int = 0
    truncated: int = 0
    starved_rounds: int = 0
    slowest_install_s: float = 0.0
    slowest_restart_s: float = 0.0

    def figures(self) -> Figures:
        """Give what there is to tell."""
        passing = self.passing
        return Figures(
            seconds=monotonic() - self.started_at,
            rules=len(STEADY) + len(passing.rules),
            adds=passing.adds,
            removes=passing.removes,
            kills=self.kills,
            steady_sent=self.steady_sent,
            steady_received=self.steady_received,
            passing_sent=passing.sent,
            passing_received=passing.received,
            repeated=self.repeated + sum(passing.ledger.repeated.values()),
            overflowed=self.overflowed,
            truncated=self.truncated,
            starved_rounds=self.starved_rounds,
            looks=self.watch.looks,
            slowest_install_s=self.slowest_install_s,
            slowest_restart_s=self.slowest_restart_s,
        )

    def tell(self) -> None:
        """Say how it goes, every now and then."""
        if monotonic() - self.told_at >= TELL_S:
            self.told_at = monotonic()
            self.say(self.figures().line())

    def check_drift(self) -> None:
        """Wait until the daemon has what it was told, and note how long that took."""
        began = monotonic()
        self.watch.check_rules([*STEADY, *self.passing.rules])
        self.slowest_install_s = max(self.slowest_install_s, monotonic() - began)


class Round:
    """One round, whose choices follow from its number and the seed alone."""

    def __init__(self, soak: Soak, dice: Random, number: int, ends_at: float) -> None:
        self._soak, self._dice, self._number = soak, dice, number
        self._began, self._ends_at = monotonic(), ends_at
        kills = max(1, round((ends_at - self._began) / KILL_EVERY_S)) if number % 2 else 0
        self._plan = choose_round(dice, workers=soak.workers, kills=kills)
        self._names = (f"p{number}-{index}" for index in range(1 << 30))
        self._kills = 0
        self._starvation = Starvation()

    def play(self) -> None:
        """Let steady flows go, and rules come and go meanwhile; judge what arrived."""
        soak = self._soak
        soak.passing.start_round()
        missed = _missed(soak.watch.check_counters())
        with flowing(soak.stage, self._plan.steady) as flows:
            while monotonic() < self._ends_at or self._is_kill_due():
                self._step()
                self._starvation.look(worker["pid"] for worker in soak.daemon.workers() if worker["pid"])
                soak.tell()
            self._finish(flows, missed)
        self._rest()

    def _step(self) -> None:
        steps: list[tuple[Callable[[], None], int]] = [(self._add, 3), (self._burst, 5), (self._remove, 2)]
        if self._is_kill_due():
            steps = [(self._kill, 1)]
        (step,) = self._dice.choices([one for one, _ in steps], [weight for _, weight in steps])
        step()

    def _is_kill_due(self) -> bool:
        if self._kills == len(self._plan.kills):
            return False
        length_s = max(0.0, self._ends_at - self._began)
        return monotonic() >= self._began + length_s * self._plan.kills[self._kills]

    def _add(self) -> None:
        passing = self._soak.passing
        taken = {rule.place for rule in passing.rules.values()}
        rule = choose_rule(self._dice, next(self._names), taken)
        if rule is None or len(passing.rules) >= MOST_RULES:
            return
        passing.add(rule)
        self._soak.check_drift()

    def _remove(self) -> None:
        passing = self._soak.passing
        if passing.rules:
            passing.remove(self._dice.choice(sorted(passing.rules)))
            self._soak.check_drift()

    def _burst(self) -> None:
        burst = self._soak.passing.prepare(self._choose(BURST))
        self._soak.passing.send(burst)
        self._settle(burst)

    def _kill(self) -> None:
        """
        Kill a worker in the middle of a burst, and change a rule while it is gone.

        It is stopped while the burst is sent, so that it finds all of it at once, and killed when the first
        datagram comes out.
        Only a rule is added, to a block without any: what was in hand is sent again under the rules that
        stand by then, so they must mean the same for it.
        """
        soak, number = self._soak, self._plan.victims[self._kills]
        victim = soak.daemon.workers()[number]["pid"]
        assert victim is not None
        burst = soak.passing.prepare(self._choose(KILL_BURST), is_lethal=True)
        soak.watch.killed.add(victim)
        os.kill(victim, signal.SIGSTOP)
        soak.passing.send(burst)
        os.kill(victim, signal.SIGCONT)
        soak.passing.await_first()
        os.kill(victim, signal.SIGKILL)
        killed_at = monotonic()
        self._kills += 1
        soak.kills += 1
        self._add_elsewhere(burst)
        self._settle(burst)
        wait_for("the death to be noticed", lambda: soak.daemon.workers()[number]["pid"] != victim)
        soak.check_drift()
        soak.slowest_restart_s = max(soak.slowest_restart_s, monotonic() - killed_at)

    def _add_elsewhere(self, burst: Burst) -> None:
        """Add a rule to a block that has none and that nothing was sent to."""
        passing = self._soak.passing
        blocks = {(one.place.version, one.place.block) for one in passing.rules.values()}
        blocks |= {(one.version, one.block) for one in burst.datagrams}
        rule = choose_rule(self._dice, next(self._names), set())
        if rule is not None and (rule.place.version, rule.place.block) not in blocks:
            passing.add(rule)

    def _choose(self, counts: range) -> list[Datagram]:
        places = [rule.place for rule in self._soak.passing.rules.values()]
        return choose_burst(self._dice, places, counts)

    def _settle(self, burst: Burst) -> None:
        self._soak.passing.settle(burst, most_repeated=self._kills * BATCH)

    def _finish(self, flows: list[Flow], missed: tuple[int, int]) -> None:
        """End the senders, wait until all is through, and judge each receiver."""
        soak = self._soak
        sent = [flow.sender.stop() for flow in flows]
        stats = self._wait_until_through()
        overflowed, truncated = (now - was for now, was in zip(_missed(stats), missed, strict=True))
        circumstances = Circumstances(self._kills, overflowed, truncated, self._starvation.is_found)
        soak.overflowed += overflowed
        soak.truncated += truncated
        soak.starved_rounds += self._starvation.is_found
        failures = []
        for flow, report in zip(flows, sent, strict=True):
            soak.steady_sent += report["sent"]
            for receiver in flow.receivers:
                got = receiver.stop()
                soak.steady_received += got["received"]
                soak.repeated += got["duplicated"]
                wrong = verdicts(flow.choice, report, got, circumstances)
                failures += [f"{wrong}\n{evidence(flow.choice, report, got, stats)}"] if wrong else []
        assert not failures, "\n".join(failures)

    def _wait_until_through(self) -> StatsDocument:
        """Nothing is on its way any more when two looks at the counters in a row see the same."""
        earlier: list[StatsDocument] = []

        def is_settled(stats: StatsDocument) -> bool:
            settled = earlier[-1:] == [stats]
            earlier.append(stats)
            return settled

        return self._soak.daemon.wait_for_stats("all that was sent to be through", is_settled)

    def _rest(self) -> None:
        """Remove all rules but the steady ones, and see what is left of the others."""
        soak = self._soak
        for name in sorted(soak.passing.rules):
            soak.passing.remove(name)
        soak.check_drift()
        soak.passing.drain()
        problems = soak.passing.ledger.problems(self._kills * BATCH)
        assert not problems, "\n".join(problems)
        soak.repeated += sum(soak.passing.ledger.repeated.values())
        soak.passing.ledger.repeated.clear()
        soak.watch.check_counters()
        soak.watch.check_holdings()
        soak.watch.check_log()


class Failed(Exception):
    """What must hold did not; says in which round, what, and what the daemon logged last."""


def soak(extent: Extent, directory: Path, say: Callable[[str], None]) -> Soak:
    """
    Play all rounds; give what was seen.

    Raises:
        Failed: something was lost, misdirected or corrupted, a law was broken, or something grew.
    """
    with _staged(extent, directory, say) as soaked:
        for number in range(extent.first_round, extent.first_round + extent.rounds):
            played = number - extent.first_round + 1
            ends_at = soaked.started_at + played * extent.round_s
            try:
                Round(soaked, dice_of(extent.seed, number), number, ends_at).play()
            except Exception as error:
                log = "\n".join(soaked.daemon.log().splitlines()[-20:])
                raise Failed(f"round {number} of seed {extent.seed}: {error!r}\n{log}") from error
        return soaked


@contextmanager
def _staged(extent: Extent, directory: Path, say: Callable[[str], None]) -> Iterator[Soak]:
    settings = choose_settings(Random(extent.seed))
    say(f"seed {extent.seed}, {extent.rounds} rounds of {extent.round_s:.0f} s, settings {settings}")
    with Lab() as lab, ExitStack() as stack:
        stage = build(lab)
        daemon = stack.enter_context(Daemon(stage.relay, directory, {**settings, "rules": rules()}))
        daemon.logs_errors = True  # where workers are killed; Watch.check_log() looks at each error
        watch = Watch(daemon)
        passing = Passing.on(stage, daemon, watch, stack)
        yield Soak(stage, daemon, watch, passing, len(daemon.workers()), say)


def _missed(stats: StatsDocument) -> tuple[int, int]:
    """Count frames of steady flows that found no room, and those whose copy was gone."""
    (steady,) = (one for one in stats["interfaces"] if one["name"] == "r0")
    return steady["kernel_dropped"], steady["ignored"].get("truncated", 0)

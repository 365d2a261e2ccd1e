"""Targets: what a scenario's figures must be, and whether they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.metrics import METRICS, Sample

Rounds = Mapping[str, Sequence[Sample]]  # by contender, in the order of the rounds


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, the figure that it is about, and whether it is met; None if there was nothing to compare."""

    target: str
    value: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Target:
    """
    A bound on one figure of one contender.

    Attributes:
        subject: the contender.
        metric: the figure, a key of `METRICS`.
        least, most: the bounds, both included.
        against: the contender by whose figure it is divided, round by round; empty: by none.
        every_round: it must hold in each round; otherwise for the median of the rounds.
    """

    subject: str
    metric: str
    least: float | None = None
    most: float | None = None
    against: str = ""
    every_round: bool = False

    def judge(self, rounds: Rounds) -> Verdict:
        """Look whether the rounds fulfil it."""
        values = self._values(rounds)
        if not values:
            return Verdict(self.text(), "not measured", None)
        deciding = values if self.every_round else [median(values)]
        met = all(self._holds(value) for value in deciding)
        shown = max(values) if self.every_round else median(values)
        return Verdict(self.text(), self._write(shown), met)

    def text(self) -> str:
        """Say what is demanded."""
        title = METRICS[self.metric].title
        bounds = [
            f"{sign} {self._write(bound)}"
            for sign, bound in ((">=", self.least), ("<=", self.most))
            if bound is not None
        ]
        if self.least == self.most:
            bounds = [f"= {self._write(self.most or 0.0)}"]
        compared = f" {self.against}'s" if self.against else ""
        rounds = " in every round" if self.every_round else ""
        return f"{self.subject}: {title} {' and '.join(bounds)}{compared}{rounds}"

    def _values(self, rounds: Rounds) -> list[float]:
        own = [sample.get(self.metric) for sample in rounds.get(self.subject, ())]
        if not self.against:
            return [value for value in own if value is not None]
        others = [sample.get(self.metric) for sample in rounds.get(self.against, ())]
        pairs = zip(own, others, strict=False)
        return [value / other for value, other in pairs if value is not None and other]

    def _holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def _write(self, value: float) -> str:
        return f"{value:.2f} x" if self.against else METRICS[self.metric].text(value)


def no_loss(subject: str) -> tuple[Target, ...]:
    """Demand that everything arrived, once and whole, in every round."""
    return tuple(Target(subject, metric, least=0, most=0, every_round=True) for metric in ("lost", "wrong"))

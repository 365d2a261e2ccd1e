"""Steady flows: mcrgen on both sides of rules that stand from the beginning to the end."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from mcr.config.schema import MAX_BATCH
from mcr.wire.documents import StatsDocument
from tests.soak.catalogue import STEADY, SteadyChoice
from tests.soak.stage import Stage
from tests.support.laws import WRONG, where_lost
from tests.support.traffic import Receiver, Sender, receiving, sending

LONGEST_S = 3600
BATCH = MAX_BATCH  # frames of each ring that a worker may have in hand


@dataclass(frozen=True, slots=True)
class Circumstances:
    """
    What a verdict depends on.

    Attributes:
        kills: how many workers were killed.
        kernel_dropped: frames that found no room in the rings.
        truncated: frames longer than a ring frame whose copy a killed worker had taken.
        is_starved: a worker waited long for its CPU.
    """

    kills: int
    kernel_dropped: int
    truncated: int = 0
    is_starved: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """One steady flow under way."""

    choice: SteadyChoice
    sender: Sender
    receivers: tuple[Receiver, ...]


def rules() -> list[dict[str, object]]:
    """Give the rules of all kinds of steady flows, for the configuration."""
    return [
        {
            "name": name,
            "from": kind.given.format("r0"),
            "to": [{**output, "to": str(output["to"]).format(f"r{sink + 1}")} for sink, output in kind.to],
        }
        for name, kind in STEADY.items()
    ]


@contextmanager
def flowing(stage: Stage, choices: Sequence[SteadyChoice]) -> Iterator[list[Flow]]:
    """Let flows go from source to sinks; receivers listen before anything is sent."""
    with ExitStack() as stack:
        listening = [_receivers(stack, stage, choice) for choice in choices]
        yield [
            Flow(choice, _sender(stack, stage, choice), receivers)
            for choice, receivers in zip(choices, listening, strict=True)
        ]


def _receivers(stack: ExitStack, stage: Stage, choice: SteadyChoice) -> tuple[Receiver, ...]:
    kind = STEADY[choice.kind]
    return tuple(
        stack.enter_context(
            receiving(
                stage.line.sinks[sink], arrives.format(f"b{sink}"), duration=LONGEST_S, flows=kind.flows
            )
        )
        for (sink, _), arrives in zip(kind.to, kind.arrives, strict=True)
    )


def _sender(stack: ExitStack, stage: Stage, choice: SteadyChoice) -> Sender:
    kind = STEADY[choice.kind]
    to = (kind.sent_to or kind.given).format("a0")
    options: dict[str, object] = {"rate": choice.rate_pps, "size": choice.size, "flows": kind.flows, "ttl": 8}
    if kind.segments > 1:
        options["segment"] = kind.segments
    source = f"10.1.0.{kind.source}@" if kind.source else ""
    return stack.enter_context(sending(stage.line.source, f"{source}{to}", duration=LONGEST_S, **options))


def verdicts(choice: SteadyChoice, sent: Any, got: Any, circumstances: Circumstances) -> list[str]:
    """
    Say what is wrong with what one receiver got.

    A killed worker's successor sends again what was in hand, so datagrams may come twice, and none is lost
    unless the ring overflows meanwhile, or a frame is longer than one of the ring
    (developer_docs/decisions/0004-counters-and-crash.md).  A ring that overflows for another reason than a
    kill or a busy machine is a failure.
    """
    kills, segments = circumstances.kills, STEADY[choice.kind].segments
    most = dict.fromkeys(WRONG, 0)
    most["lost"] = circumstances.kernel_dropped if kills or circumstances.is_starved else 0
    most["lost"] += segments * min(circumstances.truncated, kills * BATCH)
    most["duplicated"] = kills * BATCH * segments
    wrong = [
        f"{name} {got[name]}, expected at most {limit}" for name, limit in most.items() if got[name] > limit
    ]
    if sent["sent"] != got["distinct"] + got["lost"]:
        wrong.append(f"sent {sent['sent']} but received {got['distinct']} and lost {got['lost']}")
    if sent["not_sent"]:
        wrong.append(f"not sent {sent['not_sent']}")
    return wrong


def evidence(choice: SteadyChoice, sent: Any, got: Any, stats: StatsDocument) -> str:
    """Say what every station has counted for a flow."""
    rule = [one for one in stats["rules"] if one["name"] == choice.kind]
    return f"{choice}\n{where_lost(sent, got, {**stats, 'rules': rule})}"

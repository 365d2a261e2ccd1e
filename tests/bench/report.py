"""What is printed and written about the outcome of a scenario."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tests.bench.chart import Bar, Panel, draw
from tests.bench.metrics import METRICS, Sample, medians
from tests.bench.play import NOISE, Extent, Outcome
from tests.bench.relays import RELAYS
from tests.bench.scenarios import SCENARIOS, Contender

FEWEST_ROUNDS = 5  # with fewer, a result is preliminary
RESULTS = "results.md"
_MET = {True: "met", False: "MISSED", None: "-"}

Document = dict[str, Any]


def document_of(
    outcome: Outcome, extent: Extent, machine: Mapping[str, str], versions: Mapping[str, str]
) -> Document:
    """Give everything that is known about an outcome."""
    scenario = outcome.scenario
    return {
        "scenario": scenario.name,
        "question": scenario.question,
        "preliminary": extent.rounds < FEWEST_ROUNDS,
        "rounds": extent.rounds * scenario.repeats,
        "seconds": extent.seconds,
        "machine": machine,
        "versions": versions,
        "skipped": outcome.skipped,
        "refused": dict(outcome.refused),
        "contenders": [_contender(one, outcome.rounds[one.name]) for one in scenario.contenders],
        "targets": [
            {"target": verdict.target, "value": verdict.value, "met": verdict.met}
            for verdict in outcome.verdicts()
        ],
    }


def _contender(contender: Contender, samples: Sequence[Sample]) -> Document:
    relay = RELAYS[contender.relay]
    return {
        "name": contender.name,
        "relay": contender.relay,
        "settings": dict(contender.settings),
        "does": relay.does,
        "translates": relay.translates,
        "fans_out": relay.fans_out,
        "median": _rounded(medians(samples)),
        "rounds": [_rounded(sample) for sample in samples],
    }


def _rounded(sample: Sample) -> Sample:
    return {name: round(value, 3) for name, value in sample.items()}


def table(document: Document, *, style: str = "simple") -> str:
    """Write the medians of all contenders, and what each of them does."""
    columns = (*SCENARIOS[document["scenario"]].columns, NOISE)
    head = ["", *(METRICS[name].title for name in columns), "translates", "fans out", "how"]
    rows = [
        [
            one["name"],
            *(METRICS[name].text(one["median"].get(name)) for name in columns),
            "yes" if one["translates"] else "no",
            "yes" if one["fans_out"] else "no",
            one["does"],
        ]
        for one in document["contenders"]
    ]
    align = ["left", *("right" for _ in columns), "left", "left", "left"]
    return tabulate(rows, head, tablefmt=style, disable_numparse=True, colalign=align)


def verdict_table(document: Document, *, style: str = "plain") -> str:
    """Write the targets, the figures that decide about them, and whether they are met."""
    rows = [[one["target"], one["value"], _MET[one["met"]]] for one in document["targets"]]
    return tabulate(rows, ["target", "measured", ""], tablefmt=style, disable_numparse=True)


def write(document: Document, directory: Path) -> None:
    """Write an outcome as JSON and as a chart, and the page with all outcomes anew."""
    directory.mkdir(parents=True, exist_ok=True)
    name = document["scenario"]
    (directory / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not document["skipped"]:
        (directory / f"{name}.svg").write_text(chart(document), encoding="utf-8")
    known = (directory / f"{name}.json" for name in SCENARIOS)
    documents = [json.loads(path.read_text("utf-8")) for path in known if path.exists()]
    (directory / RESULTS).write_text(page(documents), encoding="utf-8")


def chart(document: Document) -> str:
    """Draw the figures that the scenario wants drawn."""
    panels = [_panel(name, document["contenders"]) for name in SCENARIOS[document["scenario"]].charts]
    return draw(f"{document['scenario']}{_caveat(document)}", panels)


def _panel(metric: str, contenders: Iterable[Document]) -> Panel:
    shown = METRICS[metric]
    bars = [
        Bar(
            one["name"],
            one["median"][metric],
            shown.text(one["median"][metric]),
            [sample[metric] for sample in one["rounds"]],
        )
        for one in contenders
        if metric in one["median"]
    ]
    return Panel(f"{shown.title}: {shown.meaning}", bars)


def page(documents: Iterable[Document]) -> str:
    """Write the page that shows all outcomes."""
    parts = [
        "# Results",
        "Written by `just bench`; [how to read them](README.md).",
        *map(_section, documents),
    ]
    return "\n\n".join(parts) + "\n"


def _section(document: Document) -> str:
    name = document["scenario"]
    parts = [f"## {name}{_caveat(document)}", document["question"]]
    if document["skipped"]:
        return "\n\n".join([*parts, f"Not measured: {document['skipped']}."])
    facts = {**document["machine"], **document["versions"]}
    extent = f"Medians of {document['rounds']} rounds, {document['seconds']:g} s of each contender in each."
    measured_on = ", ".join(f"{key}: {value}" for key, value in facts.items())
    refused = [f"{who} is not measured: mcrd refuses {why}." for who, why in document["refused"].items()]
    return "\n\n".join(
        [
            *parts,
            *refused,
            table(document, style="github"),
            verdict_table(document, style="github"),
            f"![{name}]({name}.svg)",
            f"{extent}\nMeasured on {measured_on}.",
        ]
    )


def _caveat(document: Document) -> str:
    return " (preliminary)" if document["preliminary"] else ""

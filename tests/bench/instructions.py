"""
``just count``: what features of the data plane cost a packet, in instructions.

Where the clock is too noisy, callgrind counts: batches go through the relay's own code, on a ring in
memory, to send calls that do nothing (native/tests/count_batch.c).

Exit status: 0 every target is met; 1 one was missed; 2 it cannot run here.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tabulate import tabulate

from tests.bench.callgrind import OPTIONS, Profile, parse, statements
from tests.bench.cpu import NS_PER_S
from tests.bench.machine import describe_versions
from tests.support.lab import TREE

RESULTS = TREE / "developer_docs" / "benchmarks"
PROGRAM = TREE / "build" / "count" / "count_batch"
SOURCES = TREE / "native" / "src"
BATCHES, FRAMES = 200, 60
SIZES = (1400, 64)
TIMEOUT_S = 120
TIMED_BATCHES, TIMED_ROUNDS = 20_000, 5
PLAIN = "plain"
EXIT_MET, EXIT_MISSED, EXIT_CANNOT_RUN = 0, 1, 2

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of count_batch.c, and the one that it differs from in one thing."""

    name: str
    meaning: str
    against: str = PLAIN


VARIANTS = (
    Variant(PLAIN, "one rule for a single group, one flow, trace off"),
    Variant("trace-other", "another rule is traced"),
    Variant("trace-100th", "every 100th datagram is traced"),
    Variant("trace-all", "every datagram is traced"),
    Variant("range", "the rule is for a range of 65,536 groups"),
    Variant("ranges-50", "one flow, in a range that is tried behind 49 other ranges"),
    Variant("range-flows", "one range, 1,000 groups of it take turns"),
    Variant("ranges-50-flows", "the same, tried behind 49 other ranges"),
    Variant("sources-1", "the rule has one allowed source"),
    Variant("sources-16", "the rule has 16 allowed sources, the sender is the last"),
    Variant("checksum", "nobody has checked the UDP checksum before"),
    Variant("rules-1000", "1,000 rules, one flow"),
    Variant("flows-100", "100 rules, whose flows take turns: a packet for each datagram"),
    Variant("flows-1000", "1,000 rules, whose flows take turns", against="flows-100"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a share of a worker's time; the figure is a part of the plain variant, or a variant."""

    figure: str
    meaning: str
    most: float


TARGETS = (
    Target("latency", "latency histograms", 3.0),
    Target("trace", "trace, while it is off", 1.0),
    Target("trace-other", "trace of another rule, beside off", 1.0),
    Target("range", "a range, beside a single group", 2.0),
    Target("range-flows", "1,000 groups of a range, beside a single group", 2.0),
    Target("ranges-50-flows", "1,000 groups behind 49 ranges, beside a single group", 2.0),
)

MOST_PER_BYTE = 0.4  # of the checksum; a loop that the compiler has not vectorised takes 0.6


def parts_of(profile: Profile, packets: int) -> dict[str, float]:
    """Give instructions per packet that the plain variant spends on what is always there."""
    latency = statements((SOURCES / "relay.c").read_text("utf-8"), r"mcr_stamps__note\(")
    trace = {
        file: statements((SOURCES / file).read_text("utf-8"), r"\btracer\b|mcr_tracer__|\btrace\(")
        for file in ("relay.c", "transmit.c", "depart.c")
    }
    counted = {
        "latency": profile.function("mcr_stamps__measure")
        + _header(profile, "latency.h")
        + profile.lines("relay.c", latency),
        "trace": _header(profile, "trace.h")
        + sum(profile.lines(file, numbers) for file, numbers in trace.items()),
    }
    return {name: count / packets for name, count in counted.items()}


def _header(profile: Profile, file: str) -> int:
    """Give the instructions of a header's inline functions."""
    return profile.lines(file, range(len((SOURCES / file).read_text("utf-8").splitlines()) + 1))


def document_of(
    profiles: Mapping[int, Mapping[str, Profile]], versions: Mapping[str, str], times: Mapping[str, float]
) -> Document:
    """
    Give everything that was counted; profiles are by payload size and variant.

    *times* are what the plain variant takes without callgrind, ``counted_ns``, and what a worker takes with
    the kernel's work, ``relay_ns``, both for a packet.
    """
    packets = BATCHES * FRAMES
    return {
        "batches": BATCHES,
        "frames": FRAMES,
        "versions": versions,
        **times,
        "sizes": [
            {
                "payload_bytes": size,
                "parts": {name: round(count, 2) for name, count in parts_of(of_size[PLAIN], packets).items()},
                "variants": [_variant(one, of_size[one.name], packets) for one in VARIANTS],
            }
            for size, of_size in profiles.items()
        ],
    }


def _variant(variant: Variant, profile: Profile, packets: int) -> Document:
    functions = {name: round(count / packets, 2) for name, count in profile.own_by_function().items()}
    return {
        **asdict(variant),
        "instructions": round(profile.total / packets, 2),
        "functions": dict(sorted(functions.items(), key=lambda item: -item[1])),
    }


def percent(size: Document, figure: str) -> float:
    """Give a part's share of the plain variant, or how much more a variant takes than what it is beside."""
    instructions = {one["name"]: one["instructions"] for one in size["variants"]}
    if figure in size["parts"]:
        return float(100 * size["parts"][figure] / instructions[PLAIN])
    against = next(one["against"] for one in size["variants"] if one["name"] == figure)
    return float(100 * (instructions[figure] / instructions[against] - 1))


def percent_of_worker(document: Document, size: Document, figure: str) -> float:
    """Give the same as a share of a worker's time, of which the counted instructions take a part."""
    return percent(size, figure) * float(document["counted_ns"] / document["relay_ns"])


def is_met(document: Document, target: Target) -> bool:
    """Say whether a target is met with every size."""
    return all(percent_of_worker(document, size, target.figure) <= target.most for size in document["sizes"])


def per_byte(document: Document, name: str) -> float:
    """Give the instructions that a variant takes for each byte by which one size exceeds the other."""
    least, most = sorted(document["sizes"], key=lambda size: size["payload_bytes"])
    bytes_more = most["payload_bytes"] - least["payload_bytes"]
    return float((_added(most, name) - _added(least, name)) / bytes_more)


def _added(size: Document, name: str) -> float:
    instructions = {one["name"]: float(one["instructions"]) for one in size["variants"]}
    return instructions[name] - instructions[PLAIN]


def all_met(document: Document) -> bool:
    """Say whether every target is met, and the checksum's."""
    return all(is_met(document, one) for one in TARGETS) and per_byte(document, "checksum") <= MOST_PER_BYTE


def variant_table(size: Document, *, style: str = "simple") -> str:
    """Write what each variant takes."""
    instructions = {one["name"]: one["instructions"] for one in size["variants"]}
    rows = [
        [
            one["name"],
            f"{one['instructions']:.1f}",
            f"{one['instructions'] - instructions[one['against']]:+.1f}",
            f"{percent(size, one['name']):+.1f}",
            one["against"],
            one["meaning"],
        ]
        for one in size["variants"]
    ]
    head = ["variant", "instructions", "difference", "%", "beside", "what it is"]
    align = ("left", "right", "right", "right", "left", "left")
    return tabulate(rows, head, tablefmt=style, disable_numparse=True, colalign=align)


def target_table(document: Document, *, style: str = "simple") -> str:
    """Write the targets, what decides about them, and whether they are met."""
    sizes = document["sizes"]
    rows = [
        [
            f"{target.meaning} <= {target.most:g} %",
            *(f"{percent_of_worker(document, size, target.figure):.2f} %" for size in sizes),
            "met" if is_met(document, target) else "MISSED",
        ]
        for target in TARGETS
    ]
    added = per_byte(document, "checksum")
    rows.append(
        [
            f"instructions per byte of the checksum <= {MOST_PER_BYTE:g}",
            *(f"{added:.2f}" for _ in sizes),
            "met" if added <= MOST_PER_BYTE else "MISSED",
        ]
    )
    head = ["target", *(f"{size['payload_bytes']:,} bytes" for size in sizes), ""]
    return tabulate(rows, head, tablefmt=style, disable_numparse=True)


def part_table(document: Document, *, style: str = "simple") -> str:
    """Write where the instructions of the plain variant are."""
    sizes = document["sizes"]
    plain = [next(one for one in size["variants"] if one["name"] == PLAIN) for size in sizes]
    rows = [
        [f"`{name}`", *(f"{one['functions'].get(name, 0.0):.1f}" for one in plain)]
        for name, count in plain[0]["functions"].items()
        if count >= 1
    ]
    rows += [
        [f"of all these: {name}", *(f"{size['parts'][name]:.1f}" for size in sizes)]
        for name in sizes[0]["parts"]
    ]
    head = ["plain", *(f"{size['payload_bytes']:,} bytes" for size in sizes)]
    return tabulate(
        rows, head, tablefmt=style, disable_numparse=True, colalign=("left", *("right",) * len(sizes))
    )


def page(document: Document) -> str:
    """Write the page about a count."""
    versions = ", ".join(f"{key}: {value}" for key, value in document["versions"].items())
    parts = [
        "# Instructions per packet",
        "Written by `just count`; [how to read it](README.md#instructions).",
        (
            "The kernel's part of the work is not counted: what is takes"
            f" {document['counted_ns']:.0f} ns of the {document['relay_ns']:.0f} ns that a packet of"
            " `one-flow-1400` costs a worker.  Targets are about the whole."
        ),
        target_table(document, style="github"),
    ]
    for size in document["sizes"]:
        parts += [f"## {size['payload_bytes']:,} bytes", variant_table(size, style="github")]
    parts += [
        "## Where they are",
        part_table(document, style="github"),
        f"{document['batches']} batches of {document['frames']} frames of each variant.",
        f"Counted with {versions}.",
    ]
    return "\n\n".join(parts) + "\n"


def write(document: Document, directory: Path) -> None:
    """Write the count as JSON and as a page."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    (directory / "instructions.json").write_text(text, encoding="utf-8")
    (directory / "instructions.md").write_text(page(document), encoding="utf-8")


# ---- running it ----


def count(variant: str, payload_bytes: int) -> Profile:
    """Run a variant under callgrind."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        options = ("--collect-atstart=no", "--toggle-collect=counted_batch", f"--callgrind-out-file={out}")
        numbers = (str(payload_bytes), str(BATCHES), str(FRAMES))
        subprocess.run(
            ("valgrind", "--quiet", "--tool=callgrind", *OPTIONS, *options, PROGRAM, variant, *numbers),
            check=True,
            timeout=TIMEOUT_S,
        )
        return parse(out.read_text("utf-8").splitlines())


def counted_ns() -> float:
    """Give what a packet of the plain variant takes without callgrind: what more batches take more time."""

    def seconds(batches: int) -> float:
        began = time.perf_counter()
        numbers = (str(SIZES[0]), str(batches), str(FRAMES))
        subprocess.run((PROGRAM, PLAIN, *numbers), check=True, timeout=TIMEOUT_S)
        return time.perf_counter() - began

    more = [seconds(BATCHES + TIMED_BATCHES) - seconds(BATCHES) for _ in range(TIMED_ROUNDS)]
    return median(more) * NS_PER_S / (TIMED_BATCHES * FRAMES)


def relay_ns(directory: Path) -> float:
    """Read what the benchmark of one flow has found."""
    results = json.loads((directory / "one-flow-1400.json").read_text("utf-8"))
    own = next(one for one in results["contenders"] if one["name"] == "mcr")
    return float(own["median"]["relay_ns"])


def _versions() -> dict[str, str]:
    def first_line(*command: str) -> str:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
        return done.stdout.splitlines()[0]

    return {
        "mcr": describe_versions()["mcr"],
        "gcc": first_line("gcc", "-dumpfullversion"),
        "libc": platform.libc_ver()[1],
        "valgrind": first_line("valgrind", "--version").removeprefix("valgrind-"),
        "machine": platform.machine(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Count all variants, and write what was found."""
    parser = argparse.ArgumentParser(
        prog="just count", description="Count what features cost a packet, in instructions."
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: developer_docs/benchmarks")
    options = parser.parse_args(arguments)
    if not shutil.which("valgrind") or not PROGRAM.exists():
        sys.stderr.write(
            "count: needs valgrind (scripts/setup-bench) and count_batch (scripts/build-count)\n"
        )
        return EXIT_CANNOT_RUN
    profiles = {size: {one.name: count(one.name, size) for one in VARIANTS} for size in SIZES}
    times = {"counted_ns": counted_ns(), "relay_ns": relay_ns(RESULTS)}
    document = document_of(profiles, _versions(), times)
    write(document, options.out)
    for size in document["sizes"]:
        sys.stdout.write(f"{size['payload_bytes']:,} bytes\n\n{variant_table(size)}\n\n")
    sys.stdout.write(f"{part_table(document)}\n\n{target_table(document)}\n")
    return EXIT_MET if all_met(document) else EXIT_MISSED


if __name__ == "__main__":
    sys.exit(main())

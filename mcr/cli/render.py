"""The daemon's answers as text for people, 100 columns wide where names allow."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict, TypeVar, cast

from mcr.errors import PeerError
from mcr.model.endpoint import parse_endpoint
from mcr.model.policy import policy_text
from mcr.model.rule import Output
from mcr.wire.documents import (
    InterfaceDocument,
    OutputDocument,
    RemovedDocument,
    RuleDocument,
    RuleStats,
    StatsDocument,
    TraceDocument,
    TracingDocument,
    UnmatchedDocument,
    WorkerDocument,
)

Document = TypeVar("Document")


class PingDocument(TypedDict):
    """What ``mcrctl ping`` found."""

    path: str
    version: str
    round_trip_ms: float


class VersionsDocument(TypedDict):
    """Both sides' versions."""

    version: str
    protocol: int
    mcrctl: str


def show_added(rule: RuleDocument) -> str:
    """Say whether the new rule is active, and why not."""
    return plain(f"{rule['name']}: {_state(rule['state'], rule['reason'])}")


def show_removed(rule: RemovedDocument) -> str:
    """Name the rule that is gone."""
    return plain(f"{rule['name']}: removed")


def show_rules(rules: Sequence[RuleDocument]) -> str:
    """Give a table with one line for each output."""
    rows = [
        [
            *_first(position, [rule["name"], rule["state"], rule["from"]]),
            _output(output),
            _why(rule, output, position),
        ]
        for rule in rules
        for position, output in enumerate(rule["outputs"])
    ]
    return table(["NAME", "STATE", "FROM", "TO", "WHY"], rows) if rows else "no rules"


def show_rule(rule: RuleDocument) -> str:
    """Give everything about one rule, one fact on a line."""
    facts = [
        ["id", rule["id"]],
        ["origin", rule["origin"]],
        ["state", _state(rule["state"], rule["reason"])],
        ["workers", " ".join(map(str, rule["workers"])) or "none"],
        ["link-local", "allowed" if rule["allow_link_local"] else "refused"],
        ["from", rule["from"]],
    ]
    outputs = [
        [
            output["to"],
            f"{_policies(output, ' ')}  path {output['path']}",
            _state(output["state"], output["reason"]),
        ]
        for output in rule["outputs"]
    ]
    facts += [["to", line] for line in _align(outputs, [], []).splitlines()]
    lines = _align([[plain(cell) for cell in fact] for fact in facts], [], []).splitlines()
    return "\n".join([plain(rule["name"]), *(f"  {line}" for line in lines)])


def show_stats(stats: StatsDocument) -> str:
    """Give a table of interfaces and one of outputs, with the reasons of everything that was not relayed."""
    interfaces = [
        [one["name"], one["received"], one["matched"], _reasons(one["ignored"]), one["kernel_dropped"]]
        for one in stats["interfaces"]
    ]
    rules = [row for rule in stats["rules"] for row in _rule_stats(rule)]
    paragraphs = [
        table(["INTERFACE", "RECEIVED", "MATCHED", "IGNORED", "KERNEL-DROPPED"], interfaces)
        if interfaces
        else "no interfaces",
        table(["RULE", "STATE", "MATCHED", "TO", "SENT", "BYTES", "NOT SENT"], rules)
        if rules
        else "no rules",
    ]
    latencies = [row for rule in stats["rules"] for row in _latency(rule)]
    if latencies:
        paragraphs.append(table(["RULE", "DATAGRAMS", "P50 US", "P99 US", "P99.9 US", "MAX US"], latencies))
    if failed := stats.get("reassembly_failed", 0):
        paragraphs.append(f"fragments got lost: {failed} reassemblies failed on this host")
    if not stats.get("consistent", True):
        paragraphs.append("read while packets were under way: sums may differ by those")
    return "\n\n".join(paragraphs)


def _latency(rule: RuleStats) -> list[list[object]]:
    if "latency_us" not in rule:
        return []
    times = rule["latency_us"]
    return [[rule["name"], times["count"], times["p50"], times["p99"], times["p999"], times["max"]]]


def show_tracing(tracing: TracingDocument) -> str:
    """Say what is traced from now on."""
    which = "every datagram" if tracing["sample"] == 1 else f"one of {tracing['sample']} datagrams"
    return f"tracing {which} of {tracing['rule']} for {tracing['seconds']} s"


def show_trace(trace: TraceDocument) -> str:
    """Give a line for each output of each datagram."""
    rows = [
        [
            _time_of_day(one["time"]),
            one["worker"],
            one["source"],
            one["ttl"],
            one["bytes"],
            one["to"],
            one["verdict"],
            round(one["delay_us"], 1),
        ]
        for one in trace["entries"]
    ]
    return (
        table(["TIME", "WORKER", "SOURCE", "TTL", "BYTES", "TO", "VERDICT", "DELAY US"], rows) if rows else ""
    )


def _time_of_day(seconds: float) -> str:
    """Give a time as a whole number of microseconds, so that no part is rounded apart from the others."""
    whole, microseconds = divmod(round(seconds * 1e6), 10**6)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{microseconds:06d}"


def show_unmatched(entries: Sequence[UnmatchedDocument]) -> str:
    """Give a table; the destination is written as a rule's input would be."""
    now = time.time()
    rows = [
        [_destination(one), one["source"], one["packets"], duration(max(0.0, now - one["last_seen"]))]
        for one in entries
    ]
    return table(["DESTINATION", "SOURCE", "PACKETS", "LAST SEEN"], rows) if rows else "nothing unmatched"


def _destination(one: UnmatchedDocument) -> str:
    place = f"{one['group']}%{one['interface']}"
    return f"[{place}]:{one['port']}" if ":" in one["group"] else f"{place}:{one['port']}"


def nothing(_document: object) -> str:
    """Say nothing: the exit status tells."""
    return ""


def show_workers(workers: Sequence[WorkerDocument]) -> str:
    """Give a table; digests that differ mean that the worker's rules are not yet the expected ones."""
    rows = [
        [
            one["worker"],
            one["pid"],
            one["cpu"],
            one["state"],
            duration(one["since_s"]),
            one["restarts"],
            one["rules"],
            one["expected_digest"],
            one["installed_digest"],
            size(one["resident_bytes"]),
            size(one["ring_bytes"]) if one["pid"] else None,
        ]
        for one in workers
    ]
    head = ["WORKER", "PID", "CPU", "STATE", "SINCE", "RESTARTS", "RULES", "EXPECTED", "INSTALLED"]
    head += ["MEMORY", "RINGS"]
    return table(head, rows) if rows else "no workers"


def show_interfaces(interfaces: Sequence[InterfaceDocument]) -> str:
    """Give a table; the last column says why the interface is steered as it is."""
    rows = [
        [
            one["name"],
            one["index"],
            one["state"],
            one["mtu"],
            one["rules"],
            len(one["memberships"]),
            one["receive_queues"],
            size(one["ring"]["bytes"]),
            "yes" if one["bypass"]["on"] else "no",
            one["steering"],
            one["reason"],
        ]
        for one in interfaces
    ]
    head = ["NAME", "INDEX", "STATE", "MTU", "RULES", "GROUPS", "QUEUES", "RING", "BYPASS", "STEERING", "WHY"]
    return table(head, rows) if rows else "no interfaces"


def show_ping(answer: PingDocument) -> str:
    """Say who answered and how fast."""
    return plain(f"mcrd {answer['version']} at {answer['path']} answered in {answer['round_trip_ms']:.1f} ms")


def show_version(answer: VersionsDocument) -> str:
    """Give both versions."""
    return plain(
        f"mcrctl {answer['mcrctl']}, mcrd {answer['version']}, control protocol {answer['protocol']}"
    )


def guarded(show: Callable[[Document], str]) -> Callable[[object], str]:
    """
    Make *show* take whatever the daemon answered.

    Raises:
        PeerError: the answer lacks something; mcrctl and daemon are of different versions, most likely.
    """

    def checked(answer: object) -> str:
        try:
            return show(cast("Document", answer))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise PeerError(
                f"got an answer in an unknown form ({what}); compare the versions with 'mcrctl version'"
            ) from error

    return checked


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align *rows* under *head*: numbers to the right, '-' for what is absent, no empty last column."""
    width = len(head) if any(row[-1] not in {"", None} for row in rows) else len(head) - 1
    cells = [[_cell(cell) for cell in row[:width]] for row in rows]
    numbers = [
        all(row[column] in {"", None} or _is_number(row[column]) for row in rows) for column in range(width)
    ]
    return _align(cells, head[:width], ["right" if number else "left" for number in numbers])


def plain(text: str) -> str:
    """Replace what would steer the terminal: an interface's name may hold escape characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def size(count: int | None) -> str | None:
    """Give a number of bytes with a binary unit: ``512 B``, ``1.5 MiB``, ``32 MiB``."""
    if count is None:
        return None
    if count < 1024:
        return f"{count} B"
    amount, units = count / 1024, ["KiB", "MiB", "GiB"]
    # What is compared is what will be shown: 1023.99 KiB are 1.0 MiB, and 9.99 are 10.
    while round(amount) >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.1f} {units[0]}" if round(amount, 1) < 10 else f"{amount:.0f} {units[0]}"


def duration(seconds: float) -> str:
    """Give a time in its two largest units: ``8s``, ``3m20s``, ``5h3m``, ``2d4h``."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        del parts[0]
    return "".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"


def _align(cells: Sequence[Sequence[str]], head: Sequence[str], alignment: Sequence[str]) -> str:
    import tabulate  # noqa: PLC0415 - takes 10 ms, and `mcrctl ping` needs no table

    tabulate.MIN_PADDING = 0  # the library's only way to say that a column may be as narrow as its head
    # Without disable_numparse a digest such as 12345678901234e5 is taken for a number.
    text = tabulate.tabulate(cells, head, tablefmt="plain", colalign=alignment or None, disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _cell(value: object) -> str:
    return "-" if value is None else plain(str(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _state(state: str, reason: str | None) -> str:
    return f"{state}: {reason}" if reason else state


def _first(position: int, cells: list[object]) -> list[object]:
    """Give *cells* on a rule's first line and blanks below."""
    return cells if position == 0 else [""] * len(cells)


def _output(output: OutputDocument) -> str:
    """Write an output as ``mcrctl rule add --to`` takes it, with what is not by default."""
    changed = _policies(output, "=", _DEFAULT_POLICIES)
    return ",".join([output["to"], *changed.split()])


_DEFAULT_POLICIES = {
    name: policy_text(value) for name, value in Output(parse_endpoint("192.0.2.1:1")).policies().items()
}


def _policies(output: OutputDocument, between: str, left_out: Mapping[str, object] | None = None) -> str:
    named = {
        "ttl": output["ttl"],
        "dscp": output["dscp"],
        "source": output["source"],
        "rate": output["rate"],
    }
    shown = {name: value for name, value in named.items() if value is not None}
    return "  ".join(
        f"{name}{between}{value}"
        for name, value in shown.items()
        if left_out is None or value != left_out.get(name)
    )


def _why(rule: RuleDocument, output: OutputDocument, position: int) -> str:
    """Say why an output, or on its first line the rule, is not active."""
    reasons = [rule["reason"]] if position == 0 else []
    if output["state"] != "active" and output["reason"] != rule["reason"]:
        reasons.append(f"{output['state']}: {output['reason']}" if output["reason"] else output["state"])
    return "; ".join(reason for reason in reasons if reason)


def _rule_stats(rule: RuleStats) -> Iterable[list[object]]:
    for position, output in enumerate(rule["outputs"]):
        first = _first(position, [rule["name"], rule["state"], rule["matched"]])
        yield [*first, output["to"], output["sent"], output["bytes"], _reasons(output["not_sent"])]


def _reasons(counts: Mapping[str, int]) -> str:
    """Give the sum and what it consists of, largest first: ``7 (no_rule 5, checksum 2)``."""
    present = sorted(((count, reason) for reason, count in counts.items() if count), reverse=True)
    if not present:
        return "0"
    return f"{sum(counts.values())} ({', '.join(f'{reason} {count}' for count, reason in present)})"

"""The commands of mcrctl, as a table: arguments, request, rendering."""

import contextlib
import re
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from mcr import __version__
from mcr.cli import render
from mcr.client import Client
from mcr.errors import EndpointError, RuleError, UsageError
from mcr.model.endpoint import parse_address, parse_endpoint
from mcr.model.mapping import parse_target
from mcr.model.policy import POLICIES
from mcr.model.rule import Origin, Output, Rule
from mcr.wire.documents import TraceDocument, output_from_params, rule_to_params

Params = dict[str, object]

FOLLOW_INTERVAL_S = 0.2


_POLICY = re.compile(r",(?=[a-z]*(?:=|,|$))", re.ASCII)
OUTPUT_SYNTAX = f"ENDPOINT[,{{{'|'.join(POLICIES)}}}=VALUE...]"


def parse_output(text: str) -> Output:
    """
    Read ``ENDPOINT[,KEY=VALUE...]``.

    Raises:
        UsageError: naming *text* and what is wrong with it.
    """
    end = _end_of_target(text)
    params: dict[str, object] = {"to": text[:end]}
    for policy in text[end:].split(",")[1:]:
        key, _, value = policy.partition("=")
        if key not in POLICIES or key in params:
            raise UsageError(f"{text!r}: got {policy!r}, expected each of {', '.join(POLICIES)} at most once")
        params[key] = value
    try:
        return output_from_params(params)
    except RuleError as error:
        raise UsageError(f"{text!r}: {error}") from None


def _end_of_target(text: str) -> int:
    """An interface's name may hold what looks like a policy, so the target is the first part that is one."""
    ends = [*(match.start() for match in _POLICY.finditer(text)), len(text)]
    for end in ends:
        with contextlib.suppress(EndpointError):
            parse_target(text[:end])
            return end
    return ends[0]


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", default="", help="for people; default: the rule's id"
    )
    parser.add_argument("--from", dest="input", metavar="ENDPOINT", required=True, help="what to relay")
    parser.add_argument(
        "--to",
        dest="outputs",
        metavar="OUTPUT",
        action="append",
        required=True,
        help=f"where to and how, may be repeated: {OUTPUT_SYNTAX}",
    )
    parser.add_argument(
        "--source",
        dest="sources",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="relay only from this sender, may be repeated",
    )
    parser.add_argument(
        "--exclude",
        dest="excluded",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="relay not from this sender, may be repeated",
    )
    parser.add_argument(
        "--allow-link-local",
        action="store_true",
        help="relay 224.0.0.0/24 and ff02::/16 too, which routers never forward",
    )


def _rule_argument(parser: ArgumentParser) -> None:
    parser.add_argument("rule", metavar="NAME|ID", help="name or id of the rule")


def _optional_rule_argument(parser: ArgumentParser) -> None:
    parser.add_argument("rule", metavar="NAME|ID", nargs="?", help="only this rule")


def _stats_arguments(parser: ArgumentParser) -> None:
    _optional_rule_argument(parser)
    parser.add_argument(
        "--latency", action="store_true", help="also the time from the kernel's receipt to the send call"
    )


def _trace_arguments(parser: ArgumentParser) -> None:
    _rule_argument(parser)
    parser.add_argument(
        "--sample", type=int, default=1, metavar="N", help="only every Nth datagram (default: 1)"
    )
    parser.add_argument(
        "--seconds", type=int, default=60, metavar="S", help="then stop, 1 to 3600 (default: 60)"
    )


def _follow_argument(parser: ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="go on as long as the rule is traced")


def _no_arguments(parser: ArgumentParser) -> None:
    """Leave *parser* as it is."""


def _add_params(options: Namespace) -> Params:
    given = parse_endpoint(options.input)
    more = [parse_address(source) for source in options.sources]
    unwanted = [parse_address(source) for source in options.excluded]
    rule = Rule(
        input=replace(given, sources=(*given.sources, *more), excluded=(*given.excluded, *unwanted)),
        outputs=tuple(parse_output(text) for text in options.outputs),
        name=options.name,
        origin=Origin.CONTROL,
        allow_link_local=options.allow_link_local,
    )
    return rule_to_params(rule)


def _rule_params(options: Namespace) -> Params:
    return {"rule": options.rule} if options.rule is not None else {}


def _stats_params(options: Namespace) -> Params:
    return {**_rule_params(options), "latency": options.latency}


def _trace_params(options: Namespace) -> Params:
    return {"rule": options.rule, "sample": options.sample, "seconds": options.seconds}


def _no_params(_options: Namespace) -> Params:
    return {}


def _ask(method: str) -> Callable[[Client, Params], object]:
    return lambda client, params: client.call(method, **params)


def _ping(client: Client, params: Params) -> object:
    begin = time.perf_counter()
    client.call("ping", **params)
    took_ms = (time.perf_counter() - begin) * 1e3
    return {"path": str(client.path), "version": client.daemon.version, "round_trip_ms": round(took_ms, 3)}


def _show_trace(client: Client, params: Params) -> object:
    return _follow_trace(client) if params["follow"] else client.call("trace.show")


def _follow_trace(client: Client) -> Iterator[object]:
    """Give what is new as it comes, until tracing ends."""
    seen: dict[str, int] = {}
    active = True
    while active:
        document = cast("TraceDocument", client.call("trace.show", after=seen))
        seen |= {str(entry["worker"]): entry["number"] for entry in document["entries"]}
        active = document["active"]
        yield document
        if active:
            time.sleep(FOLLOW_INTERVAL_S)


def _version(client: Client, params: Params) -> object:
    answer = client.call("version", **params)
    return {**answer, "mcrctl": __version__} if isinstance(answer, dict) else answer


@dataclass(frozen=True, slots=True)
class Command:
    """
    One command.

    Attributes:
        summary: what it does: one line, imperative.
        examples: complete command lines for its help.
        ask: gets the answer, which is also the JSON document.
        show: makes the text for people from the answer.
        add_arguments: tells argparse what it takes.
        params: makes the parameters of the request from what argparse gave.
    """

    summary: str
    examples: Sequence[str]
    ask: Callable[[Client, Params], object]
    show: Callable[[object], str]
    add_arguments: Callable[[ArgumentParser], None] = _no_arguments
    params: Callable[[Namespace], Params] = _no_params


GROUPS: Mapping[str, str] = {
    "rule": "show and change rules",
    "worker": "show workers",
    "interface": "show input interfaces",
    "unmatched": "show what matches no rule",
    "trace": "follow single datagrams of a rule",
}

COMMANDS: Mapping[str, Command] = {
    "rule add": Command(
        "relay what arrives at an endpoint to other endpoints",
        (
            "mcrctl rule add camera-1 --from 239.1.1.1%eth0:5001 --to 239.2.2.2%eth1:6000",
            "mcrctl rule add --from 232.1.1.1%eth0:5001 --source 10.0.0.9 --to 239.2.2.3%eth1:6001,ttl=8",
            "mcrctl rule add --from '[ff35::8000:1%eth0]:5001' --to '[ff35::8000:2%eth1]:5001'",
        ),
        _ask("rule.add"),
        render.guarded(render.show_added),
        _add_arguments,
        _add_params,
    ),
    "rule del": Command(
        "stop relaying by a rule and forget it",
        ("mcrctl rule del camera-1",),
        _ask("rule.del"),
        render.guarded(render.show_removed),
        _rule_argument,
        _rule_params,
    ),
    "rule list": Command(
        "list all rules",
        ("mcrctl rule list", "mcrctl --json rule list"),
        _ask("rule.list"),
        render.guarded(render.show_rules),
    ),
    "rule show": Command(
        "show everything about one rule",
        ("mcrctl rule show camera-1",),
        _ask("rule.show"),
        render.guarded(render.show_rule),
        _rule_argument,
        _rule_params,
    ),
    "stats": Command(
        "show what was received, relayed and not relayed, and why",
        ("mcrctl stats", "mcrctl stats camera-1 --latency", "mcrctl --json stats"),
        _ask("stats"),
        render.guarded(render.show_stats),
        _stats_arguments,
        _stats_params,
    ),
    "trace on": Command(
        "trace datagrams of a rule: when, whence, whither, how long it took",
        ("mcrctl trace on camera-1", "mcrctl trace on camera-1 --sample 1000 --seconds 10"),
        _ask("trace.on"),
        render.guarded(render.show_tracing),
        _trace_arguments,
        _trace_params,
    ),
    "trace off": Command(
        "stop tracing; what was traced can still be shown",
        ("mcrctl trace off",),
        _ask("trace.off"),
        render.nothing,
    ),
    "trace show": Command(
        "show the datagrams that were traced, at most the last 4096 of each worker",
        ("mcrctl trace show", "mcrctl trace show --follow"),
        _show_trace,
        render.guarded(render.show_trace),
        _follow_argument,
        lambda options: {"follow": options.follow},
    ),
    "unmatched list": Command(
        "list UDP multicast that arrives and matches no rule: why nothing comes out",
        ("mcrctl unmatched list",),
        _ask("unmatched.list"),
        render.guarded(render.show_unmatched),
    ),
    "worker list": Command(
        "list the workers and whether they have the rules they should have",
        ("mcrctl worker list",),
        _ask("worker.list"),
        render.guarded(render.show_workers),
    ),
    "interface list": Command(
        "list the input interfaces and how they are steered",
        ("mcrctl interface list",),
        _ask("interface.list"),
        render.guarded(render.show_interfaces),
    ),
    "ping": Command(
        "see whether the daemon answers",
        ("mcrctl ping", "mcrctl --control /tmp/mcr.sock ping"),
        _ping,
        render.guarded(render.show_ping),
    ),
    "version": Command(
        "show the versions of mcrctl and the daemon",
        ("mcrctl version",),
        _version,
        render.guarded(render.show_version),
    ),
}

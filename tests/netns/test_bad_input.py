"""Whatever control clients say, traffic flows on without loss."""

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from mcr.client import Client
from mcr.errors import Refused
from mcr.wire.control import PROTOCOL, Hello, Request, encode_hello, encode_request
from tests.support.daemon import Daemon
from tests.support.lab import Line
from tests.support.stream import RULE, lossless_stream

HELLO = encode_hello(Hello(PROTOCOL, "test"))
PING = encode_request(Request(1, "ping"))

# What clients say before they hang up, or stay and say no more.
SPEECHES = {
    "nothing": b"",
    "noise": os.urandom(4096),
    "text": b"GET / HTTP/1.1\r\nHost: mcr\r\n\r\n",
    "half a length": b"\0\0",
    "half a frame": HELLO[:-1],
    "half a request": HELLO + PING[:-1],
    "two gigabytes": HELLO + struct.pack("!I", 2 << 30) + b"x" * 1024,
    "a map that is none": HELLO + struct.pack("!I", 4) + b"\xc1\xc1\xc1\xc1",
    "no such method": HELLO + encode_request(Request(1, "rule.explode", {})),
    "wrong parameters": HELLO + encode_request(Request(1, "rule.add", {"from": 7, "to": {}})),
    "a thousand requests and no ear": HELLO + encode_request(Request(1, "stats")) * 1000,
}

# Rules that must be refused, and with which code.
REFUSED = {
    "the same input": ("duplicate_input", {"from": "239.1.1.1%r0:5001", "to": "239.2.2.9%r1:6000"}),
    "the same name": (
        "duplicate_name",
        {"name": "stream", "from": "239.1.1.7%r0:5001", "to": "239.2.2.9%r1:6000"},
    ),
    "its own ring": ("ring", {"from": "239.1.1.8%r0:5001", "to": "239.1.1.8%r0:5001"}),
    "a ring of two": ("ring", {"from": "239.2.2.2%r1:6000", "to": "239.1.1.1%r0:5001"}),
    "no endpoint": ("bad_endpoint", {"from": "239.1.1.1", "to": "239.2.2.9%r1:6000"}),
    "a port out of range": ("bad_endpoint", {"from": "239.1.1.9%r0:65536", "to": "239.2.2.9%r1:6000"}),
    "a link-local group": ("link_local", {"from": "224.0.0.251%r0:5353", "to": "239.2.2.9%r1:6000"}),
}


def say(path: Path, speech: bytes) -> socket.socket:
    """Connect and say something, as far as the daemon listens; the caller hangs up."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(os.fspath(path))
    client.setblocking(False)
    with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        client.sendall(speech)
    return client


def try_to_add(client: Client, rule: Mapping[str, str]) -> str:
    """Ask for a rule that cannot be; give the code of the refusal."""
    with pytest.raises(Refused) as refusal:
        client.call("rule.add", **{**rule, "to": [{"to": rule["to"]}]})
    return refusal.value.code


@pytest.mark.alone
def test_clients_that_break_the_protocol_disturb_no_traffic(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon, lossless_stream(line, daemon):
        # Some stay connected and silent all the while.
        staying = [say(daemon.control, speech) for speech in SPEECHES.values()]
        for _ in range(10):
            for speech in SPEECHES.values():
                say(daemon.control, speech).close()
            assert daemon.call("ping") == {}
        for client in staying:
            client.close()


@pytest.mark.alone
def test_rules_that_are_refused_disturb_no_traffic(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        daemon.client() as client,
        lossless_stream(line, daemon),
    ):
        for _ in range(20):
            codes = {name: try_to_add(client, rule) for name, (_, rule) in REFUSED.items()}
            assert codes == {name: code for name, (code, _) in REFUSED.items()}
        rules = daemon.rules()

    assert [rule["name"] for rule in rules] == ["stream"]


@pytest.mark.alone
def test_mcrctl_says_why_a_rule_is_refused_and_traffic_flows_on(line: Line, tmp_path: Path) -> None:
    add = ("rule", "add", "--from", "239.1.1.1%r0:5001", "--to", "239.2.2.9%r1:6000")
    with Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon, lossless_stream(line, daemon):
        refused = daemon.ctl(*add, status=1)
        unknown = daemon.ctl("rule", "del", "nobody", status=1)
        malformed = daemon.ctl("rule", "add", "--from", "239.1.1.1", "--to", "239.2.2.9%r1:6000", status=2)

    assert "239.1.1.1%r0:5001" in refused.stderr
    assert "nobody" in unknown.stderr
    assert "expected" in malformed.stderr
    assert refused.stdout == unknown.stdout == malformed.stdout == ""

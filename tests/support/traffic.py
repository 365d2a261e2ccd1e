"""Traffic on the hosts of a laboratory: ``mcrgen`` for streams, plain sockets for odd datagrams."""

import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from mcr.model.endpoint import parse_endpoint
from tests.support.lab import TREE, Host
from tests.support.wait import DEADLINE_S

MCRGEN = str(Path(sys.executable).parent / "mcrgen")
REPORT_DEADLINE_S = 40
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 8 << 20
MCAST_JOIN_GROUP = 42
SO_BINDTOIFINDEX = 62
IPV6_RECVHOPLIMIT = 51
IP_RECVTTL = 12
MAX_DATAGRAM_BYTES = 65535
SOL_PACKET, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 23, 3


class Sender:
    """A ``mcrgen send`` under way."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def report(self, status: int = 0) -> Any:
        """Wait for the end; give the report."""
        out, err = self._process.communicate(timeout=REPORT_DEADLINE_S)
        assert self._process.returncode == status, err
        return json.loads(out)

    def stop(self) -> Any:
        """End it before its time; give the report."""
        self._process.send_signal(signal.SIGTERM)
        out, err = self._process.communicate(timeout=REPORT_DEADLINE_S)
        assert out, err
        return json.loads(out)

    @property
    def pid(self) -> int:
        """Give its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Say whether it still sends."""
        return self._process.poll() is None


class Receiver(Sender):
    """A ``mcrgen receive`` that listens."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(process)
        self._wait_until_listening()

    def _wait_until_listening(self) -> None:
        assert self._process.stderr is not None
        ends_at = time.monotonic() + DEADLINE_S
        said = ""
        while said != "listening\n":
            ready, _, _ = select.select([self._process.stderr], [], [], max(0, ends_at - time.monotonic()))
            assert ready, f"not listening within {DEADLINE_S} s"
            said = self._process.stderr.readline()
            assert said, f"ended with {self._process.wait()} instead of listening"


def send(host: Host, to: str, **options: object) -> Any:
    """Send to an endpoint until all is sent; give the report."""
    with sending(host, to, **options) as sender:
        return sender.report()


@contextmanager
def sending(host: Host, to: str, **options: object) -> Iterator[Sender]:
    """Send while the test does something else; it is over at the end of ``with``."""
    with _mcrgen(host, "send", "--to", to, *_as_arguments(options)) as process:
        yield Sender(process)


@contextmanager
def receiving(host: Host, source: str, **options: object) -> Iterator[Receiver]:
    """Receive at an endpoint, from when nothing can be missed any more."""
    with _mcrgen(host, "receive", "--from", source, *_as_arguments(options)) as process:
        yield Receiver(process)


@contextmanager
def _mcrgen(host: Host, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        host.start_command(MCRGEN, *arguments, "--json"),
        cwd=TREE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _as_arguments(options: dict[str, object]) -> list[str]:
    """Turn ``max_loss=0`` into ``--max-loss 0``."""
    return [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", *(() if value is True else (str(value),)))
    ]


@dataclass(frozen=True)
class Datagram:
    """What a plain socket received; *ttl* is the hop limit with IPv6."""

    payload: bytes
    source: str
    ttl: int


class Inlet:
    """A plain UDP socket that listens at an endpoint: joined to the group, or bound to the address."""

    def __init__(self, host: Host, endpoint: str) -> None:
        wanted = parse_endpoint(endpoint)
        ipv6 = wanted.address.version == 6
        self.socket = host.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        level, option = (socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT) if ipv6 else (socket.IPPROTO_IP, IP_RECVTTL)
        self.socket.setsockopt(level, option, 1)
        self.socket.bind((str(wanted.address), wanted.port))
        if wanted.is_multicast:
            assert wanted.interface is not None
            index = host.index_of(wanted.interface)
            group = (
                struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, wanted.address.packed, 0)
                if ipv6
                else struct.pack("=HH4s120x", socket.AF_INET, 0, wanted.address.packed)
            )
            self.socket.setsockopt(level, MCAST_JOIN_GROUP, struct.pack("=I4x", index) + group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def take(self) -> Datagram:
        """Wait for one datagram."""
        payload, ancillary, _, name = self.socket.recvmsg(MAX_DATAGRAM_BYTES, 64)
        (ttl,) = (struct.unpack("=i", data[:4])[0] for _, _, data in ancillary)
        return Datagram(payload, name[0], ttl)

    def take_until(self, last: bytes) -> list[Datagram]:
        """Wait for the datagram *last*; give what came before it."""
        taken: list[Datagram] = []
        while (datagram := self.take()).payload != last:
            taken.append(datagram)
        return taken


class Outlet:
    """A plain UDP socket connected to an endpoint, bound to an address of its host if there is one."""

    def __init__(self, host: Host, endpoint: str, *, ttl: int = 8, bind_to: str = "") -> None:
        to = parse_endpoint(endpoint)
        ipv6 = to.address.version == 6
        self.socket = host.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        index = host.index_of(to.interface) if to.interface else 0
        if index:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, index)
        if ipv6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        if bind_to:
            self.socket.bind((bind_to, 0))
        with host.entered():
            self.socket.connect((str(to.address), to.port, 0, index) if ipv6 else (str(to.address), to.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, *payloads: bytes) -> None:
        """Send each payload as one datagram."""
        for payload in payloads:
            self.socket.send(payload)

    def send_steadily(self, payload: bytes, *, rate_pps: int, count: int) -> None:
        """Send equal datagrams, each when its turn has come."""
        started_at = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, started_at + number / rate_pps - time.monotonic()))
            self.socket.send(payload)


class Tap:
    """A packet socket on an interface: writes frames byte by byte, and reads those that arrive."""

    def __init__(self, host: Host, device: str) -> None:
        self.socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.settimeout(DEADLINE_S)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.bind((device, ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        """Write whole frames, past the IP stack."""
        for frame in frames:
            self.socket.send(frame)

    def take_until(self, last: bytes) -> list[bytes]:
        """Wait for the frame *last*; give those that came before it."""
        taken: list[bytes] = []
        while (frame := self.socket.recv(MAX_DATAGRAM_BYTES)) != last:
            taken.append(frame)
        return taken


def group_mac(group: str) -> bytes:
    """
    Give the hardware address that a group has.

    Source: RFC 1112 section 6.4, RFC 2464 section 7.
    """
    packed = ip_address(group).packed
    if len(packed) == 4:
        return b"\x01\x00\x5e" + bytes([packed[1] & 0x7F]) + packed[2:]
    return b"\x33\x33" + packed[12:]

"""A control server whose handlers pretend, and clients that say what they like."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import structlog

from mcr.client import Client
from mcr.errors import RuleError
from mcr.supervisor.control.server import ControlServer, Handler, Limits
from mcr.wire.control import PROTOCOL, Failure, Hello, decode_hello, encode_hello
from mcr.wire.framing import FrameDecoder

SOON_S = 0.1  # within which another client's ping must be answered
LIMITS = Limits(clients=4, in_flight=4, hello_s=0.4, frame_s=0.4, write_s=0.4)
BIG = [{"text": "x" * 1000, "number": number} for number in range(5000)]
HELLO = encode_hello(Hello(PROTOCOL, "test"))


class Daemon:
    """A control server in a thread with a loop of its own, and what its handlers saw."""

    def __init__(
        self, path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], limits: Limits = LIMITS
    ) -> None:
        self._limits = limits
        self.path = path
        self.logs: list[dict[str, object]] = []
        self.running = 0
        self.most_running = 0
        self._new_loop = new_loop
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def release(self) -> None:
        """Let the requests go on that wait."""
        self._loop.call_soon_threadsafe(self._released.set)

    def stop(self) -> None:
        """Stop it, if it has not been stopped yet."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._released = asyncio.Event()
        log = structlog.wrap_logger(
            None, processors=[self._note], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        async with ControlServer(self.path, self._handlers(), log, self._limits):
            self._started.set()
            await self._stop.wait()

    def _note(self, _logger: object, level: str, event: structlog.typing.EventDict) -> str:
        self.logs.append({"level": level, **event})
        raise structlog.DropEvent

    def _handlers(self) -> dict[str, Handler]:
        async def ping(_params: dict[str, object]) -> object:
            return {}

        async def refuse(params: dict[str, object]) -> object:
            raise RuleError("no_such_rule", f"got {params['rule']!r}, expected another")

        async def add(params: dict[str, object]) -> object:
            return params

        async def wait(_params: dict[str, object]) -> object:
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            await self._released.wait()
            self.running -= 1
            return []

        async def fail(_params: dict[str, object]) -> object:
            raise ZeroDivisionError

        async def big(_params: dict[str, object]) -> object:
            return BIG

        async def unpackable(_params: dict[str, object]) -> object:
            return object()

        return {
            "ping": ping,
            "rule.show": refuse,
            "rule.add": add,
            "worker.list": wait,
            "version": fail,
            "rule.list": big,
            "interface.list": unpackable,
        }


class Raw:
    """A client that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(5)
        self.socket.connect(os.fspath(path))
        self._decoder = FrameDecoder()
        self._payloads: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def greet(self) -> Self:
        self.socket.sendall(encode_hello(Hello(PROTOCOL, "test")))
        assert isinstance(decode_hello(self.receive()), Hello)
        return self

    def receive(self) -> bytes:
        while not self._payloads:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._payloads.extend(self._decoder.feed(data))
        return self._payloads.pop(0)

    def failure(self) -> Failure:
        """Skip the daemon's hello and give the error that ends the connection."""
        while True:
            frame = decode_hello(self.receive())
            if isinstance(frame, Failure):
                assert self.is_hung_up()
                return frame

    def is_hung_up(self) -> bool:
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


def ping_s(path: Path) -> float:
    """Measure a whole connection with one ping, in seconds."""
    begin = time.perf_counter()
    with Client(path) as client:
        assert client.call("ping") == {}
    return time.perf_counter() - begin


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.005)


def make_socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))

"""
One client of the control socket.

Distrusts everything that it says, and whether it says or reads anything at all: every wait for it has a
deadline, and nothing here waits for one client on behalf of another.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from mcr import __version__
from mcr.errors import Bug, McrError, PeerError, Refused
from mcr.wire.control import (
    MAX_REQUEST_BYTES,
    METHODS,
    PROTOCOL,
    Answer,
    Failure,
    Hello,
    Request,
    Success,
    check_params,
    decode_hello,
    decode_request,
    encode_answer,
    encode_hello,
)
from mcr.wire.framing import FrameDecoder

Handler = Callable[[dict[str, object]], Awaitable[object]]

RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What clients may take.

    Attributes:
        clients: connections at the same time; the surplus is refused.
        in_flight: requests of one client at the same time; the surplus is not read.
        hello_s: seconds from connecting to a complete hello.
        frame_s: seconds from the first byte of a frame to its last.
        write_s: seconds that a client may take to read a frame of ours.
    """

    clients: int = 64
    in_flight: int = 16
    hello_s: float = 2.0
    frame_s: float = 5.0
    write_s: float = 5.0


class Session:
    """The conversation with one client, from hello to the last answer."""

    def __init__(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        handlers: Mapping[str, Handler],
        log: FilteringBoundLogger,
        limits: Limits,
        *,
        may_change: bool,
    ) -> None:
        self._reader, self._writer = streams
        self._handlers = handlers
        self._log = log
        self._limits = limits
        self._may_change = may_change
        self._slots = asyncio.Semaphore(limits.in_flight)
        self._write_lock = asyncio.Lock()

    async def run(self) -> None:
        """Serve the client until it hangs up or breaks the protocol; its requests under way are finished."""
        try:
            async with asyncio.TaskGroup() as requests:
                try:
                    await self._converse(requests)
                except PeerError as error:
                    self._log.info("control client broke the protocol", reason=str(error))
                    await self._send([*encode_answer(Failure(None, error.code, str(error)))])
                    self._writer.close()
        except asyncio.CancelledError:
            self._writer.transport.abort()  # the daemon stops: nobody waits for this client to read
            raise
        finally:
            await self._close()

    async def _converse(self, requests: asyncio.TaskGroup) -> None:
        """Start a task for every request that arrives."""
        await self._send([encode_hello(Hello(PROTOCOL, __version__))])
        greeted = False
        async with contextlib.aclosing(self._payloads()) as payloads:
            async for payload in payloads:
                if greeted:
                    request = decode_request(payload)
                    await self._slots.acquire()
                    requests.create_task(self._serve(request))
                elif isinstance(hello := decode_hello(payload), Failure):
                    raise PeerError(f"got error {hello.code!r} as first frame, expected hello")
                greeted = True

    async def _payloads(self) -> AsyncGenerator[bytes, None]:
        """
        Give the payloads as they become complete, until the client hangs up.

        Raises:
            PeerError: a frame is too long, or not complete in time.
        """
        clock = asyncio.get_running_loop()
        decoder = FrameDecoder(MAX_REQUEST_BYTES)
        deadline: float | None = clock.time() + self._limits.hello_s
        while data := await self._read(deadline):
            payloads = decoder.feed(data)
            for payload in payloads:
                yield payload
            if payloads:
                deadline = None
            if deadline is None and decoder.is_within_frame:
                deadline = clock.time() + self._limits.frame_s

    async def _read(self, deadline: float | None) -> bytes:
        """Give the next bytes, none if the client hung up."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._reader.read(RECEIVE_BYTES)
        except TimeoutError:
            raise PeerError("got an incomplete frame or none for too long, expected the rest of it") from None
        except ConnectionError:
            return b""

    async def _serve(self, request: Request) -> None:
        try:
            await self._send(self._encode(await self._carry_out(request), request))
        finally:
            self._slots.release()

    async def _carry_out(self, request: Request) -> Answer:
        """Do what is asked for, and turn whatever happens into an answer."""
        method = METHODS.get(request.method)
        handler = self._handlers.get(request.method)
        if method is None or handler is None:
            known = ", ".join(self._handlers)
            return Failure(
                request.id, "no_such_method", f"got method {request.method!r}, expected one of {known}"
            )
        if method.changes and not self._may_change:
            reason = f"got {request.method} from an unprivileged user, expected root or a member of group mcr"
            return Failure(request.id, "not_permitted", reason)
        try:
            check_params(request.method, request.params)
            return Success(request.id, await handler(dict(request.params)))
        except Bug as error:
            return self._bug(request, error)
        except McrError as error:
            details = error.details if isinstance(error, Refused) else {}
            return Failure(request.id, error.code, str(error), details)
        except Exception as error:  # noqa: BLE001 - a bug in one method is no reason to end the connection
            return self._bug(request, error)

    def _encode(self, answer: Answer, request: Request) -> list[bytes]:
        try:
            return [*encode_answer(answer)]
        except McrError as error:
            return [*encode_answer(self._bug(request, error))]

    def _bug(self, request: Request, error: Exception) -> Failure:
        self._log.error("bug in a control method", method=request.method, exc_info=error)
        return Failure(
            request.id, Bug.code, f"{request.method} failed by a fault of the daemon; its log has the details"
        )

    async def _send(self, frames: list[bytes]) -> None:
        """Write one answer; a client that does not read it in time is cut off."""
        try:
            async with asyncio.timeout(self._limits.write_s), self._write_lock:
                for frame in frames:
                    if self._writer.is_closing():
                        return
                    self._writer.write(frame)
                    await self._writer.drain()
        except TimeoutError:
            self._log.info("control client does not read its answers")
            self._writer.transport.abort()
        except ConnectionError:
            self._writer.transport.abort()

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(self._limits.write_s):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()

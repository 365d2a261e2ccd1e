"""The control server: accepts clients, counts them, and leaves no trace when it stops."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from structlog.typing import FilteringBoundLogger

from mcr.supervisor.control.access import control_group, may_change, peer_credentials
from mcr.supervisor.control.path import bind_socket, claim_path, identify
from mcr.supervisor.control.session import Handler, Limits, Session
from mcr.wire.control import Failure, encode_answer

BACKLOG = 128

__all__ = ["ControlServer", "Handler", "Limits", "claim_path"]


class ControlServer:
    """
    A listening Unix socket, between `start` and `stop` or inside ``async with``.

    *handlers* has a coroutine function for each method of `wire.control.METHODS` that is offered; it gets the
    parameters in their checked form, raises McrError to refuse, and may run several times at once.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        log: FilteringBoundLogger,
        limits: Limits | None = None,
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._log = log
        self._limits = limits or Limits()
        self._group = control_group()
        self._server: asyncio.Server | None = None
        self._file: tuple[int, int] | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """
        Claim the path and listen.

        Raises:
            UsageError: the path is in use.
            KernelError: it cannot be bound.
        """
        claim_path(self._path)
        listener = bind_socket(self._path, self._group)
        self._file = identify(self._path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, backlog=BACKLOG)

    async def stop(self) -> None:
        """Cut all clients off, cancelling what they asked for, and remove the socket file."""
        if self._server is not None:
            self._server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        if self._file is not None and identify(self._path) == self._file:
            self._path.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self._limits.clients
        if len(self._sessions) >= limit:
            self._log.info("control client refused", reason="too many", limit=limit)
            message = f"got {limit} clients already, expected fewer; close one and try again"
            writer.writelines(encode_answer(Failure(None, "too_many_clients", message)))
            writer.close()
            return
        session = asyncio.create_task(self._serve(reader, writer))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            credentials = peer_credentials(writer.get_extra_info("socket"))
            log = self._log.bind(pid=credentials.pid, uid=credentials.uid)
            permitted = may_change(credentials, self._group)
            session = Session((reader, writer), self._handlers, log, self._limits, may_change=permitted)
            await session.run()
        except Exception:  # noqa: BLE001 - one client's session must not end the daemon
            self._log.exception("bug in a control session")
            writer.transport.abort()

"""A worker's process that only pretends, and does nothing until it is told to."""

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Self, cast

from mcr.errors import PeerError
from mcr.runtime import confine
from mcr.runtime.roles import WORKER
from mcr.wire import worker as wire
from mcr.wire.share import HEADER, OUTPUT, RULE
from tests.support.fake_sockets import FakeSocket, FakeSockets

Key = tuple[int, bytes, int]  # interface slot, group, port


@dataclass
class Table:
    """What a worker has installed: by key, where its rules count, and where their outputs do."""

    generation: int
    rules: dict[Key, set[int]]
    outputs: dict[Key, set[int]]
    interface_slots: set[int]

    @classmethod
    def read(cls, share: bytes) -> Self:
        """Read a share as the supervisor packs it."""
        _, rules, outputs, _, generation, interfaces = HEADER.unpack_from(share)
        outputs_at = HEADER.size + rules * RULE.size
        slots = [OUTPUT.unpack_from(share, outputs_at + n * OUTPUT.size)[-1] for n in range(outputs)]
        table = cls(generation, {}, {}, {slot for slot in range(64) if interfaces >> slot & 1})
        for number in range(rules):
            fields = RULE.unpack_from(share, HEADER.size + number * RULE.size)
            group, interface, _, port, *_, slot, first, count, _, _ = fields
            key = (interface, group, port)
            table.rules.setdefault(key, set()).add(slot)
            table.outputs.setdefault(key, set()).update(slots[first : first + count])
        return table

    @property
    def rule_slots(self) -> set[int]:
        return set().union(*self.rules.values())

    @property
    def output_slots(self) -> set[int]:
        return set().union(*self.outputs.values())


class _Suspended:
    """A wait that goes on when its coroutine is resumed."""

    def __await__(self) -> Generator[None]:
        yield


class FakeWorker:
    """
    What stands for a `WorkerProcess` and for the process itself.

    Attributes:
        table: what is installed; None until the first share.
        rings, watches, senders: the sockets that it holds, by slot.
        end: the supervisor's coroutine that waits for its end.
        goes_first: it is realtime.
    """

    def __init__(self, pid: int, sockets: FakeSockets, before_send: Callable[["FakeWorker"], None]) -> None:
        self.pid = pid
        self.is_alive = True
        self.goes_first = False
        self.table: Table | None = None
        self.rings: dict[int, FakeSocket] = {}
        self.watches: dict[int, FakeSocket] = {}
        self.senders: dict[int, FakeSocket] = {}
        self.end: Coroutine[object, None, None] | None = None
        self._sockets = sockets
        self._before_send = before_send
        self._queue: list[tuple[wire.ToWorker, list[FakeSocket], bytes]] = []
        self._heard: Callable[[wire.FromWorker], None] | None = None
        self._failed: Callable[[PeerError], None] | None = None

    # ---- the supervisor's side ----

    def listen(self, heard: Callable[[wire.FromWorker], None], failed: Callable[[PeerError], None]) -> None:
        self._heard, self._failed = heard, failed

    def go_first(self) -> None:
        self._sockets.ask("realtime")
        self.goes_first = True

    async def send(self, message: wire.ToWorker, descriptors: Sequence[int]) -> None:
        """Queue a message; what is beside it stays usable when the supervisor closes its own."""
        self._check_channel()
        is_hello = isinstance(message, wire.Hello)  # its first descriptor is that of the counters
        given = [self._sockets.find(one) for one in descriptors[is_hello:]]
        self._queue.append((message, given, b""))

    async def send_file(self, message: wire.ToWorker, content: bytes) -> None:
        self._check_channel()
        self._queue.append((message, [], content))

    async def wait(self) -> int:
        await _Suspended()
        return 0

    def kill(self) -> None:
        self.is_alive = False
        self._queue.clear()

    def hang_up(self) -> None:
        self._heard = self._failed = None

    def _check_channel(self) -> None:
        self._before_send(self)
        if not self.is_alive or self._heard is None:
            raise PeerError("got a closed channel, expected a living peer")

    # ---- its own side ----

    @property
    def is_busy(self) -> bool:
        """Say whether there is something that it has not read."""
        return bool(self._queue)

    def tables(self) -> list[Table]:
        """Give the table that it uses, and those that it will use before long."""
        coming = [Table.read(content) for _, _, content in self._queue if content]
        return [*([self.table] if self.table else []), *coming]

    def serve_one(self) -> None:
        """Do what the next message says, as `worker.link` and the relay in C do."""
        message, given, content = self._queue.pop(0)
        match message:
            case wire.Hello():
                assert len(given) == wire.PRIORITIES
                self._say(wire.Ready(confine.expected_proof(WORKER)))
            case wire.Ring():
                (self.rings[message.slot],) = given
            case wire.Watch():
                (self.watches[message.slot],) = given
            case wire.Outputs():
                self.senders.update(zip(message.slots, given, strict=True))
            case wire.ShareFile():
                self._install(Table.read(content))

    def die(self) -> None:
        """End; the supervisor sees the end of the channel now, and the end of the process later."""
        self.kill()
        if self._failed:
            failed = self._failed
            self.hang_up()
            failed(PeerError("got the end of the channel, expected a message"))

    def see_end(self) -> None:
        """Let the supervisor see the end of the process."""
        end, self.end = self.end, None
        if end:
            run(end)

    def _install(self, table: Table) -> None:
        """Sockets that the table does not name are closed."""
        self.table = table
        self.rings = {slot: ring for slot, ring in self.rings.items() if slot in table.interface_slots}
        self.watches = {slot: one for slot, one in self.watches.items() if slot in table.interface_slots}
        self.senders = {slot: one for slot, one in self.senders.items() if slot in table.output_slots}
        self._say(wire.Installed(table.generation, 0))

    def _say(self, message: wire.FromWorker) -> None:
        if self._heard:
            self._heard(message)


def run(coroutine: Coroutine[object, None, None]) -> None:
    """Run a coroutine to its end, which has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError(f"{cast('object', coroutine)} waits for what never happens here")

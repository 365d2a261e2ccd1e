"""
Messages between the supervisor and a worker: one msgpack map per packet, descriptors beside it.

::

    supervisor -> worker   hello    who you are; the shared counters, and packet sockets of `PRIORITIES`
                           ring     an interface to read; 1: its packet socket
                           watch    an interface to look at what matches no rule; 1: a packet socket
                           outputs  where to send; one UDP socket each
                           share    the table to install; 1: a memory file with the share
    worker -> supervisor   ready    the proof of confinement
                           loop     the guard has broken a loop
                           failed   why it ends
                           installed  the generation and digest of the table now in use
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

from mcr.errors import PeerError
from mcr.wire import codec

# SCM_MAX_FD in the kernel's scm.h is 253.
MAX_DESCRIPTORS = 128
MAX_MESSAGE_BYTES = 1 << 16
ADDRESS_BYTES = 16
MAX_PORT = 65535
PRIORITIES = 4  # MCR_PRIORITIES in native/mcr.h
COALESCE_AUTO = -1  # mcr_relay__set_pace in native/mcr.h


@dataclass(frozen=True, slots=True)
class Hello:
    """
    Which one of how many workers, its CPU and its pace.

    Attributes:
        cpu: -1 for no pinning.
        coalesce_us: `COALESCE_AUTO`, or microseconds.
    """

    kind: ClassVar[str] = "hello"
    worker: int
    workers: int
    cpu: int
    coalesce_us: int
    busy_poll: bool
    batch: int


@dataclass(frozen=True, slots=True)
class Ring:
    """An interface slot, and the shape of its socket's receive ring."""

    kind: ClassVar[str] = "ring"
    slot: int
    frame_bytes: int
    frames: int


@dataclass(frozen=True, slots=True)
class Watch:
    """An interface slot, whose packets that match no rule come from the socket."""

    kind: ClassVar[str] = "watch"
    slot: int


@dataclass(frozen=True, slots=True)
class Outputs:
    """
    Output slots, and where each one's socket sends from; at most `MAX_DESCRIPTORS`.

    Attributes:
        sources: addresses of 16 bytes, one behind the other.
        ports: of the sources.
    """

    kind: ClassVar[str] = "outputs"
    slots: Sequence[int]
    sources: bytes
    ports: Sequence[int]

    def __post_init__(self) -> None:
        outputs, sources, ports = len(self.slots), len(self.sources) / ADDRESS_BYTES, len(self.ports)
        if not outputs == sources == ports:
            raise PeerError(
                f"got {outputs} outputs with {sources:g} sources and {ports} ports, expected as many"
            )
        if not all(0 <= port <= MAX_PORT for port in self.ports):
            raise PeerError(f"got ports {self.ports}, expected 0 to {MAX_PORT}")


@dataclass(frozen=True, slots=True)
class ShareFile:
    """The generation of a share, and its length in bytes."""

    kind: ClassVar[str] = "share"
    generation: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is confined; fields of /proc/self/status by their names there."""

    kind: ClassVar[str] = "ready"
    proof: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Installed:
    """What look-ups use from now on."""

    kind: ClassVar[str] = "installed"
    generation: int
    digest: int


@dataclass(frozen=True, slots=True)
class Loop:
    """The guard has broken a loop: the rule's slot, and group and source (16 bytes each) of a datagram."""

    kind: ClassVar[str] = "loop"
    rule: int
    group: bytes
    source: bytes

    def __post_init__(self) -> None:
        if len(self.group) != ADDRESS_BYTES or len(self.source) != ADDRESS_BYTES:
            raise PeerError(
                f"got a loop with addresses {self.group!r} and {self.source!r}, expected 16 bytes"
            )


@dataclass(frozen=True, slots=True)
class Failed:
    """Why the worker ends, in one line for the log; nothing follows."""

    kind: ClassVar[str] = "failed"
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.isprintable():
            raise PeerError(f"got the reason {self.reason!r}, expected printable text")


ToWorker = Hello | Ring | Watch | Outputs | ShareFile
FromWorker = Ready | Installed | Loop | Failed
_KINDS: Mapping[str, type[ToWorker | FromWorker]] = {
    kind.kind: kind for kind in (Hello, Ring, Watch, Outputs, ShareFile, Ready, Installed, Loop, Failed)
}


def _is_number(value: object) -> bool:
    return type(value) is int


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


# What a value must be for each type of field above.
_FORMS: Mapping[str, Callable[[object], bool]] = {
    str(int): _is_number,
    str(bool): lambda value: isinstance(value, bool),
    str(str): lambda value: isinstance(value, str),
    str(bytes): lambda value: isinstance(value, bytes),
    str(Sequence[int]): _are_numbers,
    str(Mapping[str, str]): _are_texts,
}


def encode(message: ToWorker | FromWorker) -> bytes:
    """Give the bytes of one message."""
    return codec.pack({"kind": message.kind, **asdict(message)})


def decode(data: bytes) -> ToWorker | FromWorker:
    """
    Read one message.

    Raises:
        PeerError: it is no message of this protocol.
    """
    document = codec.unpack(data)
    kind = _KINDS.get(str(document.pop("kind", None)))
    if kind is None or set(document) != {field.name for field in fields(kind)}:
        raise PeerError(
            f"got a message with {sorted(document)}, expected one of {sorted(_KINDS)} with its fields"
        )
    for field in fields(kind):
        if not _FORMS[str(field.type)](document[field.name]):
            raise PeerError(f"got {kind.kind} with another {field.name}, expected {field.type}")
    return kind(**document)  # type: ignore[arg-type]  # checked just before

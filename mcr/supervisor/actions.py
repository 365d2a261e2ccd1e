"""What `reconcile` asks for and `perform` does: one value per step that touches the world."""

from dataclasses import dataclass

from mcr.model.bpf import Destination
from mcr.model.share import Share
from mcr.supervisor.layout import InterfacePlan, OutputPlan, PortHold
from mcr.supervisor.memberships import Membership


@dataclass(frozen=True, slots=True)
class OpenRings:
    """Open one packet socket per worker on an interface; no frame passes them yet."""

    plan: InterfacePlan


@dataclass(frozen=True, slots=True)
class CloseRings:
    """Close an interface's packet sockets."""

    ifindex: int


@dataclass(frozen=True, slots=True)
class OpenOutput:
    """Open an output's socket, or replace it."""

    slot: int
    plan: OutputPlan


@dataclass(frozen=True, slots=True)
class CloseOutput:
    """Close an output's socket."""

    slot: int


@dataclass(frozen=True, slots=True)
class SetFilter:
    """Let only these destinations pass on an interface."""

    ifindex: int
    destinations: frozenset[Destination]


@dataclass(frozen=True, slots=True)
class SetBypass:
    """Keep these destinations on an interface from the host's IP stack."""

    ifindex: int
    destinations: frozenset[Destination]


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker's process."""

    worker: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End a worker's process that does not answer."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class GiveRings:
    """Hand a worker its packet sockets of interfaces."""

    worker: int
    ifindexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GiveOutputs:
    """Hand a worker the sockets of outputs."""

    worker: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GiveShare:
    """Send a worker its whole share."""

    worker: int
    share: Share


@dataclass(frozen=True, slots=True)
class Join:
    """Join a group."""

    membership: Membership


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave a group."""

    membership: Membership


@dataclass(frozen=True, slots=True)
class HoldPort:
    """Occupy the port of a unicast input."""

    hold: PortHold


@dataclass(frozen=True, slots=True)
class ReleasePort:
    """Free the port of a unicast input."""

    hold: PortHold


@dataclass(frozen=True, slots=True)
class ReleaseSlots:
    """Let the counters of removed rules be used again."""


SocketAction = (
    OpenRings
    | CloseRings
    | OpenOutput
    | CloseOutput
    | SetFilter
    | SetBypass
    | Join
    | Leave
    | HoldPort
    | ReleasePort
    | ReleaseSlots
)
WorkerAction = StartWorker | KillWorker | GiveRings | GiveOutputs | GiveShare
Action = SocketAction | WorkerAction

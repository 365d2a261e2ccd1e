"""What must arrive at the sinks, and what did."""

from collections import Counter
from dataclasses import dataclass, field

from tests.soak.model import Arrival

Owner = tuple[str, int]  # the name of a rule, and which of its outputs


@dataclass
class Ledger:
    """
    Accounts for every datagram of the passing rules.

    Attributes:
        due: arrivals that must still come, in this many copies.
        optional: arrivals that may still come: a rate limit decides, or a killed worker.
        arrived: how many came by each output.
        repeated: how many came again by each output.
        owners: by which output something comes, for everything that was ever due.
        strays: what came and was never due.
    """

    due: Counter[Arrival] = field(default_factory=Counter)
    optional: Counter[Arrival] = field(default_factory=Counter)
    arrived: Counter[Owner] = field(default_factory=Counter)
    repeated: Counter[Owner] = field(default_factory=Counter)
    owners: dict[Arrival, Owner] = field(default_factory=dict)
    strays: list[Arrival] = field(default_factory=list)

    def expect(self, arrival: Arrival, owner: Owner, *, may_be_lost: bool) -> None:
        """Note what a datagram that is about to be sent must lead to."""
        self.owners[arrival] = owner
        (self.optional if may_be_lost else self.due)[arrival] += 1

    def take(self, arrival: Arrival) -> None:
        """Account for what came."""
        owner = self.owners.get(arrival)
        if owner is None:
            self.strays.append(arrival)
            return
        pending = next((one for one in (self.due, self.optional) if one[arrival]), None)
        if pending is None:
            self.repeated[owner] += 1
            return
        self.arrived[owner] += 1
        pending[arrival] -= 1
        if not pending[arrival]:
            del pending[arrival]

    def close_burst(self) -> None:
        """Expect nothing more of what may have been lost."""
        self.optional.clear()

    def problems(self, most_repeated: int) -> list[str]:
        """Say what came that may not come: at most so many by each output may come twice."""
        stray = [f"never due: {one}" for one in self.strays[:5]]
        again = [
            f"{count} by output {index} of rule {name} came again, expected at most {most_repeated}"
            for (name, index), count in self.repeated.items()
            if count > most_repeated
        ]
        return [*stray, *again]

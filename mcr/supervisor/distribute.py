"""Which worker holds which rule: one pure function."""

from collections.abc import Iterable, Mapping

from mcr.model.share import PlacedRule, Share
from mcr.model.steering import Steering, rule_hash


def distribute(
    rules: Iterable[PlacedRule], workers: int, steering: Mapping[str, Steering], interfaces: Mapping[int, int]
) -> list[Share]:
    """
    Give every worker its share; the worker's number is the position in the list.

    Under hash steering a rule lives in the one worker that the kernel's program names.  Under cpu steering
    the kernel gives a frame to the CPU where it arrives, whichever that is, so every worker holds the rule;
    so it does a rule for several groups or ports, whose datagrams have different hashes.
    Every worker appears: an empty share is how a worker learns to forget.

    *steering* is given by name for every interface that a rule listens to, and is never AUTO; *interfaces*
    are the slots of those that are open, by ifindex.
    """
    shares: list[list[PlacedRule]] = [[] for _ in range(workers)]
    for placed in rules:
        for worker in holders(placed, workers, steering[placed.rule.interface]):
            shares[worker].append(placed)
    read = tuple(sorted(interfaces.items()))
    return [Share(tuple(share), read) for share in shares]


def holders(placed: PlacedRule, workers: int, steering: Steering) -> range:
    """Name the workers that hold a rule."""
    if steering is Steering.CPU or placed.rule.input.is_range:
        return range(workers)
    endpoint = placed.rule.input
    worker = rule_hash(endpoint.address, endpoint.port) % workers
    return range(worker, worker + 1)

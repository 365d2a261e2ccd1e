"""
A share as bytes, and its digest: the Python side of the structs in ``native/mcr.h``.

The supervisor writes the bytes into a memory file; the worker's C code loads them into its table and computes
the digest from there, so that a wrong table cannot hide behind a right message.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from mcr.model.endpoint import Address
from mcr.model.rule import Output, TtlPolicy
from mcr.model.share import PlacedOutput, PlacedRule, Share

ABI = 1
HEADER = struct.Struct("=IIIIQ")  # struct mcr_share_header
RULE = struct.Struct("=16sIIHHIIIII")  # struct mcr_rule
OUTPUT = struct.Struct("=16sIHBBI")  # struct mcr_output

_KEY = struct.Struct("=16sIHI")
_SLOT_BYTES = 4
_TTL_POLICIES = {TtlPolicy.AUTO: 0, TtlPolicy.KEEP: 1, TtlPolicy.DECREMENT: 2}
_TTL_FIXED = 3
_V4_MAPPED = bytes(10) + b"\xff\xff"
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_MASK = (1 << 64) - 1


def pack_share(share: Share, generation: int) -> bytes:
    """Lay a share out as C reads it: header, rules, outputs, sources, each in host byte order."""
    rules: list[bytes] = []
    outputs: list[bytes] = []
    sources: list[bytes] = []
    for placed in sorted(share.rules, key=_order):
        endpoint = placed.rule.input
        group = (
            mapped(endpoint.address),
            placed.interface_slot,
            placed.ifindex,
            endpoint.port,
            0,
            placed.slot,
        )
        rules.append(
            RULE.pack(*group, len(outputs), len(placed.outputs), len(sources), len(endpoint.sources))
        )
        outputs.extend(_pack_output(output) for output in placed.outputs)
        sources.extend(mapped(source) for source in endpoint.sources)
    header = HEADER.pack(ABI, len(rules), len(outputs), len(sources), generation)
    return b"".join([header, *rules, *outputs, *sources])


def share_digest(share: Share) -> int:
    """
    Hash the contents of a share, without slots and in whatever order its rules stand, to 64 bits.

    Source: `mcr_table__digest` in native/src/table.c computes the same.
    """
    return (_FNV_OFFSET + sum(_rule_digest(placed) for placed in share.rules)) & _MASK


def mapped(address: Address) -> bytes:
    """Give 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2)."""
    packed = address.packed
    return packed if len(packed) == len(_V4_MAPPED) + 4 else _V4_MAPPED + packed


def _order(placed: PlacedRule) -> tuple[object, ...]:
    """Let rules for one group stand side by side, the one for any source last."""
    endpoint = placed.rule.input
    return (
        placed.interface_slot,
        mapped(endpoint.address),
        endpoint.port,
        not endpoint.sources,
        endpoint.sources,
    )


def _pack_output(placed: PlacedOutput) -> bytes:
    to = placed.output.to
    return OUTPUT.pack(mapped(to.address), placed.ifindex, to.port, *_ttl(placed.output), placed.slot)


def _ttl(output: Output) -> tuple[int, int]:
    if isinstance(output.ttl, TtlPolicy):
        return _TTL_POLICIES[output.ttl], 0
    return _TTL_FIXED, output.ttl


@lru_cache(maxsize=1 << 16)
def _rule_digest(placed: PlacedRule) -> int:
    endpoint = placed.rule.input
    parts: Sequence[bytes] = [
        _KEY.pack(mapped(endpoint.address), placed.ifindex, endpoint.port, len(endpoint.sources)),
        *(mapped(source) for source in endpoint.sources),
        *(_pack_output(output)[:-_SLOT_BYTES] for output in placed.outputs),
    ]
    return _fnv(parts)


def _fnv(parts: Iterable[bytes]) -> int:
    """Hash bytes with FNV-1a, 64 bits (http://www.isthe.com/chongo/tech/comp/fnv/)."""
    state = _FNV_OFFSET
    for part in parts:
        for byte in part:
            state = (state ^ byte) * _FNV_PRIME & _MASK
    return state

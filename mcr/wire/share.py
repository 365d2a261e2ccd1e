"""
A share as bytes, and its digest: the Python side of the structs in ``native/mcr.h``.

The supervisor writes the bytes into a memory file; the worker's C code loads them into its table and computes
the digest from there, so that a wrong table cannot hide behind a right message.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address

from mcr.model.endpoint import Address, Endpoint
from mcr.model.mapping import Mapped
from mcr.model.policy import DscpPolicy, RateUnit, SourcePolicy, Ttl, TtlPolicy
from mcr.model.share import PlacedOutput, PlacedRule, Share

ABI = 2
HEADER = struct.Struct("=IIIIQQ")  # struct mcr_share_header
RULE = struct.Struct("=16sIIHHBBHIIIII")  # struct mcr_rule
OUTPUT = struct.Struct("=16sIIQHhBBBBBBBB6sBBI")  # struct mcr_output

_KEY = struct.Struct("=16sIHHBBI")
_SLOT_BYTES = 4
_ADDRESS_BITS = 128
_ETHERNET_HEADER_BYTES = 14
# enum mcr_ttl_policy, mcr_dscp_policy and mcr_engine
_TTL_POLICIES: Mapping[Ttl, tuple[int, int]] = {
    TtlPolicy.AUTO: (0, 0),
    TtlPolicy.KEEP: (1, 0),
    TtlPolicy.DECREMENT: (2, 0),
}
_TTL_FIXED = 3
_DSCP_KEEP, _DSCP_FIXED = 0, 1
_ENGINE_UDP, _ENGINE_MAPPED, _ENGINE_ETHERNET, _ENGINE_KEEPING = range(4)
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
        given = placed.rule.input
        listed = given.sources or given.excluded
        place = (mapped(given.address), placed.interface_slot, placed.ifindex)
        spans = (len(outputs), len(placed.outputs), len(sources), len(listed))
        rules.append(RULE.pack(*place, *_match(given), 0, placed.slot, *spans))
        outputs.extend(_pack_output(output) for output in placed.outputs)
        sources.extend(mapped(source) for source in listed)
    interfaces = sum(1 << slot for _, slot in share.interfaces)
    header = HEADER.pack(ABI, len(rules), len(outputs), len(sources), generation, interfaces)
    return b"".join([header, *rules, *outputs, *sources])


def share_digest(share: Share) -> int:
    """
    Hash the contents of a share, without slots and in whatever order its rules stand, to 64 bits.

    Source: `mcr_table__digest` in native/src/table.c computes the same.
    """
    return _digest_of(map(_rule_digest, share.rules))


class Digester:
    """
    Hashes one worker's shares, one after the other.

    To hash thousands of rules takes Python long, and most of them are in the next share again.  Those that
    are not are forgotten: who adds and removes rules for weeks must not find them all in memory.
    """

    def __init__(self) -> None:
        self._known: dict[PlacedRule, int] = {}

    def digest(self, share: Share) -> int:
        """Give what `share_digest` gives."""
        before = self._known
        self._known = {
            placed: _rule_digest(placed) if (known := before.get(placed)) is None else known
            for placed in share.rules
        }
        return _digest_of(self._known.values())


def mapped(address: Address) -> bytes:
    """Give 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2)."""
    packed = address.packed
    return packed if len(packed) == len(_V4_MAPPED) + 4 else _V4_MAPPED + packed


def unmapped(packed: bytes) -> Address:
    """Read what `mapped` writes."""
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _order(placed: PlacedRule) -> tuple[object, ...]:
    """
    Let what is more specific stand first, and rules for the same groups and ports side by side.

    Among those: some sources, all but some, any.
    """
    given = placed.rule.input
    key = (placed.interface_slot, mapped(given.address), given.port)
    precision = (-_bits(given.address, given.prefix_length), given.last_port - given.port)
    return *precision, *key, not given.sources, not given.excluded, given.sources


def _bits(address: Address, prefix_length: int) -> int:
    """Count the bits of a prefix as one of 128."""
    return prefix_length + _ADDRESS_BITS - address.max_prefixlen


def _match(given: Endpoint) -> tuple[int, int, int, int]:
    """Give port, last_port, prefix_bits and excludes of struct mcr_rule."""
    return given.port, given.last_port, _bits(given.address, given.prefix_length), bool(given.excluded)


def _pack_output(placed: PlacedOutput) -> bytes:
    output = placed.output
    address, *port = _destination(output.to)
    return OUTPUT.pack(
        mapped(address),
        placed.ifindex,
        placed.mtu,
        output.rate.value if output.rate else 0,
        *port,
        output.rate is not None and output.rate.unit is RateUnit.BITS,
        *_TTL_POLICIES.get(output.ttl, (_TTL_FIXED, output.ttl)),
        *((_DSCP_KEEP, 0) if isinstance(output.dscp, DscpPolicy) else (_DSCP_FIXED, output.dscp)),
        _engine(placed),
        _ETHERNET_HEADER_BYTES if placed.as_packets and placed.link_address else 0,
        placed.link_address if placed.as_packets else b"",
        placed.version == 6,
        0,
        placed.slot,
    )


def _engine(placed: PlacedOutput) -> int:
    if placed.as_packets:
        return _ENGINE_KEEPING if placed.output.source is SourcePolicy.KEEP else _ENGINE_ETHERNET
    return _ENGINE_UDP if isinstance(placed.output.to, Endpoint) else _ENGINE_MAPPED


def _destination(to: Endpoint | Mapped) -> tuple[Address, int, int, int]:
    """Give address, port, port_offset and prefix_bits of struct mcr_output."""
    if isinstance(to, Endpoint):
        return to.address, to.port, 0, _ADDRESS_BITS
    bits = _bits(to.base, to.prefix.prefixlen) if to.prefix is not None else 0
    return to.base, to.port, to.port_offset, bits


def _digest_of(digests: Iterable[int]) -> int:
    """Combine the hashes of rules, in whatever order."""
    return (_FNV_OFFSET + sum(digests)) & _MASK


def _rule_digest(placed: PlacedRule) -> int:
    given = placed.rule.input
    listed = given.sources or given.excluded
    parts: Sequence[bytes] = [
        _KEY.pack(mapped(given.address), placed.ifindex, *_match(given), len(listed)),
        *(mapped(source) for source in listed),
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

"""
Maps to msgpack and back, trusting nothing that arrives.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from collections.abc import Mapping
from typing import cast

import msgpack

from mcr.errors import PeerError, UsageError

MAX_DEPTH = 16  # our deepest document, the statistics, has 6
MAX_ITEMS = 1 << 16  # in one array or map: twice the outputs that can exist

_SCALARS = (type(None), bool, int, float, str, bytes)


def pack(value: Mapping[str, object]) -> bytes:
    """
    Encode a map of None, bool, int (64 bits), float, str, bytes, lists and maps with string keys.

    Raises:
        UsageError: something in it has no encoding.
    """
    try:
        return cast("bytes", msgpack.packb(value, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"got a value without an encoding, expected numbers, UTF-8 text, lists and maps: {error}"
        ) from error


def unpack(data: bytes) -> dict[str, object]:
    """
    Decode exactly one map with string keys.

    Raises:
        PeerError: anything else, trailing bytes, extension types, text that is not UTF-8, repeated keys,
            more than `MAX_DEPTH` levels or `MAX_ITEMS` items in one array or map.
    """
    try:
        value: object = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,  # also keeps out timestamps, which never reach ext_hook
        )
    except PeerError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise PeerError(f"got {len(data)} bytes, expected one msgpack map: {reason}") from error
    if not isinstance(value, dict):
        raise PeerError(f"got a msgpack {type(value).__name__}, expected a map")
    _check(value, MAX_DEPTH)
    return value


def _check(value: object, levels: int) -> None:
    if isinstance(value, _SCALARS):
        return
    if levels == 0:
        raise PeerError(f"got a value of more than {MAX_DEPTH} levels, expected at most that")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise PeerError(f"got a map key of type {type(key).__name__}, expected text")
            _check(item, levels - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, levels - 1)
    else:
        raise PeerError(f"got a value of type {type(value).__name__}, expected none of that")


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise PeerError("got a map with a repeated key, expected each key once")
    return result


def _refuse_extension(code: int, _data: bytes) -> object:
    raise PeerError(f"got msgpack extension type {code}, expected none")

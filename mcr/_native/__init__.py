"""The compiled packet path: see ``native/mcr.h`` and ``native/generate.h``."""

from mcr._native._mcr import ffi, lib

__all__ = ["ffi", "lib"]

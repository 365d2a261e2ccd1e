"""
Build ``mcr._native._mcr`` with cffi.

The headers are read twice, by the C compiler and by cffi, so that the two cannot disagree.  cffi
understands declarations and ``#define NAME NUMBER``, so other preprocessor lines are left out for it.
"""

import os
import re
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
HEADERS = ("mcr.h", "generate.h")
SOURCES = sorted((NATIVE / "src").glob("*.c"))
WARNINGS = (
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-missing-field-initializers",
)
FOR_CFFI_TOO = re.compile(r"#define\s+\w+\s+\d+\s*$")


def declarations(header: str) -> str:
    """Give what cffi can read of a header."""
    lines = (NATIVE / header).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#") or FOR_CFFI_TOO.match(line))


ffibuilder = FFI()
for name in HEADERS:
    ffibuilder.cdef(declarations(name))
ffibuilder.set_source(
    "mcr._native._mcr",
    "\n".join(f'#include "{name}"' for name in HEADERS),
    # Relative to the project, because setuptools refuses absolute paths.
    sources=[os.path.relpath(path, NATIVE.parent) for path in SOURCES],
    include_dirs=["native"],
    depends=[f"native/{name}" for name in HEADERS],
    libraries=["seccomp"],
    extra_compile_args=["-O3", "-D_GNU_SOURCE=", *WARNINGS],
)

if __name__ == "__main__":
    os.chdir(NATIVE.parent)
    ffibuilder.compile(verbose=False)

"""
``mcrd`` whose packet path is built with the address and undefined-behaviour sanitizers.

The extension is built into a directory of its own, with links to everything else of the package, so the
extension in the tree stays as it is.  The supervisor starts workers by ``sys.executable`` and with an
environment of its own making; so the interpreter is replaced: a script beside the package sets what the
sanitizers need and becomes the real interpreter, under its own name.

A confined worker cannot open files, so reports go to standard error, which is mcrd's log, and not to the
sanitizers' ``log_path``.  It cannot read its own symbols either: addresses in a report are for addr2line.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import TREE

SANITIZERS = "address,undefined"
LIBRARIES = ("libasan", "libubsan")
BUILD_DEADLINE_S = 90
REPORTS = ("AddressSanitizer", "runtime error:", "UndefinedBehaviorSanitizer")

_COMPILE = "import sys; sys.path.insert(0, 'native'); from build import ffibuilder; ffibuilder.compile()"
# Leaks cannot be looked for in a worker: it may start no thread and trace nobody.  And what Python holds when
# it ends is no leak of ours.
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:symbolize=0:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "symbolize=0:print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that memory of Python's that C is given has guarded ends
}


@dataclass(frozen=True, slots=True)
class Sanitized:
    """A package ``mcr`` with sanitizers, and the interpreter that imports it."""

    python: Path
    extension: Path

    @property
    def mcrd(self) -> tuple[str, ...]:
        """Give the command that starts the daemon."""
        return (str(self.python), "-P", "-m", "mcr", "supervisor")


def build(directory: Path) -> Sanitized:
    """Build the package into an empty directory, in about 5 s."""
    native = directory / "mcr" / "_native"
    native.mkdir(parents=True)
    for package, ours in ((TREE / "mcr", directory / "mcr"), (TREE / "mcr" / "_native", native)):
        for path in package.iterdir():
            if path.name != "_native" and path.suffix not in {".so", ".c"}:
                (ours / path.name).symlink_to(path)
    (directory / "native").symlink_to(TREE / "native")
    _compile(directory)
    (extension,) = native.glob("_mcr*.so")
    return Sanitized(_interpreter(directory), extension)


def _compile(directory: Path) -> None:
    flags = f"-fsanitize={SANITIZERS}"
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE],
        cwd=directory,
        env={
            **os.environ,
            "CFLAGS": f"-g -fno-omit-frame-pointer -fno-sanitize-recover=all {flags}",
            "LDFLAGS": flags,
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _interpreter(directory: Path) -> Path:
    """Write what stands for the interpreter."""
    preloaded = " ".join(str(_library(name)) for name in LIBRARIES)
    paths = f"{directory}:{sysconfig.get_path('purelib')}:{sysconfig.get_path('platlib')}"
    variables = {**_OPTIONS, "LD_PRELOAD": preloaded, "PYTHONPATH": paths}
    exports = "\n".join(f"export {name}='{value}'" for name, value in variables.items())
    python = directory / "python"
    real = Path(sys.executable).resolve()
    python.write_text(f'#!/bin/bash\n{exports}\nexec -a "$0" {real} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return python


def _library(name: str) -> Path:
    """Find the library that the compiler of the extension links."""
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}.so"], check=True, capture_output=True, text=True, timeout=10
    )
    return Path(done.stdout.strip()).resolve(strict=True)


def loaded(pid: int) -> set[str]:
    """Name the files that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "/" in line}


def reports(log: str) -> list[str]:
    """List what sanitizers have said in a log."""
    return [line for line in log.splitlines() if any(word in line for word in REPORTS)]

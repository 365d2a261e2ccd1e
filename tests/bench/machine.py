"""On what a result was measured; nothing that names the host or a place on it."""

import os
import platform
import subprocess
from pathlib import Path

from mcr import __version__
from tests.bench.relays import RELAYS
from tests.support.lab import TREE


def describe_machine() -> dict[str, str]:
    """Give what a reader needs to compare figures with those of another machine."""
    cpu = _value_of("/proc/cpuinfo", "model name")
    memory_kib = int(_value_of("/proc/meminfo", "MemTotal").split()[0])
    release = platform.freedesktop_os_release()
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} x {cpu}",
        "memory": f"{memory_kib / (1 << 20):.0f} GiB",
        "virtual": "yes" if "hypervisor" in _value_of("/proc/cpuinfo", "flags").split() else "no",
        "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", ""),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def describe_versions() -> dict[str, str]:
    """Give the versions of mcr and of its peers."""
    packages = sorted({relay.package for relay in RELAYS.values() if relay.package})
    return {
        "mcr": f"{__version__} ({_commit()})",
        "python": platform.python_version(),
        **{package: _package_version(package) for package in packages},
    }


def is_installed(package: str) -> bool:
    """Say whether a Debian package is installed."""
    status = _output("dpkg-query", "-W", "-f", "${db:Status-Status}", package)
    return status == "installed"


def _package_version(package: str) -> str:
    return _output("dpkg-query", "-W", "-f", "${Version}", package) or "not installed"


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = _output("git", "status", "--porcelain", "--", "mcr", "native")
    return f"{commit or 'unknown commit'}{' and changes' if changed else ''}"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=TREE, check=False, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _value_of(path: str, name: str) -> str:
    lines = Path(path).read_text("utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")

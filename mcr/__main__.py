"""
How every process of mcr starts: as a command, or by ``python -m mcr ROLE``.

What it has loaded then stays to its end, and the garbage collector need not look at it: not while it is being
loaded, not later, not at the end.
"""

import gc
import importlib
import sys

_ROLES = {"supervisor": "mcr.supervisor.main", "worker": "mcr.worker.main"}


def main(arguments: list[str]) -> int:
    """Run the role named first with the arguments after it; give its exit status."""
    if not arguments or arguments[0] not in _ROLES:
        sys.stderr.write(f"python -m mcr: got {arguments[:1]}, expected one of {', '.join(_ROLES)}\n")
        return 2
    return _run(_ROLES[arguments[0]], arguments[1:])


def mcrd() -> int:
    """Run the command `mcrd`."""
    return _run("mcr.supervisor.main", sys.argv[1:])


def mcrctl() -> int:
    """Run the command `mcrctl`."""
    return _run("mcr.cli.main", sys.argv[1:])


def mcrgen() -> int:
    """Run the command `mcrgen`."""
    return _run("mcr.gen.main", sys.argv[1:])


def _run(module: str, arguments: list[str]) -> int:
    gc.disable()
    program = importlib.import_module(module)
    gc.freeze()
    gc.enable()
    status: int = program.main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

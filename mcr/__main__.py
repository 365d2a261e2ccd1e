"""``python -m mcr ROLE``: run one of mcr's own processes."""

import importlib
import sys

_ROLES = {"supervisor": "mcr.supervisor.main", "worker": "mcr.worker.main"}


def main(arguments: list[str]) -> int:
    """Run the role named first with the arguments after it; give its exit status."""
    if not arguments or arguments[0] not in _ROLES:
        sys.stderr.write(f"python -m mcr: got {arguments[:1]}, expected one of {', '.join(_ROLES)}\n")
        return 2
    status: int = importlib.import_module(_ROLES[arguments[0]]).main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

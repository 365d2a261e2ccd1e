"""The role table as a document: ``python -m mcr.runtime.privileges > developer_docs/privileges.md``."""

import sys
from collections.abc import Iterator

from mcr.runtime.confine import PROOF_FIELDS
from mcr.runtime.roles import ROLES, Role

_TITLE = """\
# Privileges

This page is made from `mcr/runtime/roles.py` by `just docs`, and a test compares it with what is running.
Change the table there, not this page.
"""

_COLUMNS = ("process", "package", "user", "capabilities", "no_new_privs", "system calls", "distrusts")

_PROOF = f"""\
## Proof

A worker reads its own `/proc/self/status` after it has given everything up, and sends these fields of it:
{", ".join(f"`{name}`" for name in PROOF_FIELDS)}.
The supervisor compares them with the role's row, and ends a worker that has more or less than that.

Every role has no inheritable and no ambient capabilities, and no supplementary groups.
Its bounding set is its capabilities, so nothing that it executes gets others.
A worker also leaves no core dumps, and no process of its user can trace it.
"""


def render() -> str:
    """Give the whole page."""
    return "\n".join([_TITLE, *_table(), "", *_system_calls(), _PROOF])


def _table() -> Iterator[str]:
    yield _row(_COLUMNS)
    yield _row("---" for _ in _COLUMNS)
    for role in ROLES.values():
        yield _row(_cells(role))


def _cells(role: Role) -> Iterator[str]:
    yield role.name
    yield f"`{role.package}`"
    yield role.user
    yield ", ".join(_capabilities(role)) or "none"
    yield "yes" if role.no_new_privs else "no"
    yield f"only {len(role.system_calls)}, below" if role.system_calls else "all"
    yield role.distrusts


def _capabilities(role: Role) -> Iterator[str]:
    for name in sorted(role.capabilities):
        yield f"{name.upper()} (optional)" if name in role.optional else name.upper()


def _row(cells: Iterator[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _system_calls() -> Iterator[str]:
    for role in ROLES.values():
        if role.system_calls:
            yield f"## System calls of the {role.name}\n"
            yield "All others fail with EPERM, and so does mapping memory that can be executed."
            yield ", ".join(f"`{name}`" for name in sorted(role.system_calls)) + ".\n"


if __name__ == "__main__":
    sys.stdout.write(render())

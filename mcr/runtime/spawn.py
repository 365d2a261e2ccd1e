"""Starting a child afresh: a new interpreter, one inherited descriptor, nothing else of the parent's."""

import asyncio
import os
import sys
from collections.abc import Sequence

# What an interpreter needs to find itself; nothing that steers it.
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL")


async def spawn(role: str, arguments: Sequence[str], descriptor: int) -> asyncio.subprocess.Process:
    """
    Start ``python -m mcr ROLE ARGUMENTS`` with *descriptor* open under its own number.

    Standard input is empty; output and errors go where the parent's go.
    """
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # no module is imported from the working directory
        "-m",
        "mcr",
        role,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to handle
    )

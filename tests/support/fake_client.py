"""``mcrctl`` without a daemon: what it asks is noted, and what it is told is made up."""

import copy
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import pytest

from mcr.cli import main
from mcr.wire.control import Hello, check_params


class FakeClient:
    """Answers everything with *answer*, or raises it, and notes what was asked."""

    answer: object = None
    asked: list[tuple[str, dict[str, object]]]
    path = Path("/nowhere")
    daemon = Hello(1, "0.1.0")

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> "type[FakeClient]":
        """Make it the client of ``mcrctl``, with nothing asked yet."""
        monkeypatch.setattr(main, "Client", cls)
        monkeypatch.delenv("MCR_CONTROL", raising=False)
        cls.asked = []
        cls.answer = {}
        return cls

    def __init__(self, path: Path) -> None:
        type(self).path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def call(self, method: str, **params: object) -> object:
        """Note the request; give the answer."""
        self.asked.append((method, copy.deepcopy(params)))
        check_params(method, params)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def run(*arguments: str) -> int:
    """Run ``mcrctl``; give its exit status."""
    try:
        return main.main(arguments)
    except SystemExit as end:  # argparse's way
        return cast("int", end.code)

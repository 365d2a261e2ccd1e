"""What the documents for users show: commands with what they print, and configurations."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "user_docs").glob("*.md"))]
PROGRAMS = ("mcrctl", "mcrd", "mcrgen")

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:mcrctl|mcrd|mcrgen) [^`]+)`")


@dataclass(frozen=True)
class Shown:
    """One command of ours as a document shows it, without a final ``&``, and the lines that it prints."""

    words: tuple[str, ...]
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(document: Path, *languages: str) -> list[str]:
    """Give the code blocks of some languages; "" is for blocks that name none."""
    found = _BLOCK.finditer(document.read_text(encoding="utf-8"))
    return [block["body"] for block in found if block["language"] in languages]


def sessions(document: Path) -> list[Shown]:
    """Give the commands of all blocks with a prompt, in their order."""
    return [shown for block in blocks(document, "console") for shown in _session(block)]


def mentioned(document: Path) -> list[Shown]:
    """Give the complete commands within sentences, and in blocks without a prompt."""
    text = document.read_text(encoding="utf-8")
    lines = [
        *_INLINE.findall(text),
        *(line for block in blocks(document, "") for line in block.splitlines() if line.startswith(PROGRAMS)),
    ]
    return [Shown(tuple(shlex.split(line))) for line in lines]


def _session(block: str) -> Iterator[Shown]:
    for part in re.split(r"^[$#] ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, *output = part.splitlines()
        words = [word for word in shlex.split(command) if word != "&"]
        if words[0] in PROGRAMS:
            yield Shown(tuple(words), tuple(output))

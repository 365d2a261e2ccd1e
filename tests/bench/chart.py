"""Bar charts as SVG: a bar for each contender's median, a dot for each round."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 720, 130, 90
BAR_HEIGHT, BAR_GAP, HEAD_HEIGHT, FOOT_HEIGHT = 22, 10, 52, 14
BAR_COLOUR, FIRST_COLOUR, DOT_COLOUR = "#9fb3c8", "#2f6f9f", "#1b1b1b"
_STYLE = "font-family: sans-serif; font-size: 13px"


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender: its median as a number and as text, and its rounds."""

    label: str
    value: float
    text: str
    rounds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of all contenders."""

    title: str
    bars: Sequence[Bar]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Draw the panels below each other."""
    parts = [f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>']
    top = 26
    for panel in panels:
        parts += _panel(panel, top)
        top += _height(panel)
    box = f'width="{WIDTH}" height="{top + FOOT_HEIGHT}" viewBox="0 0 {WIDTH} {top + FOOT_HEIGHT}"'
    lines = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} style="{_STYLE}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{lines}\n</svg>\n'
    )


def _height(panel: Panel) -> int:
    return HEAD_HEIGHT + len(panel.bars) * (BAR_HEIGHT + BAR_GAP)


def _panel(panel: Panel, top: int) -> list[str]:
    longest = max((value for bar in panel.bars for value in (bar.value, *bar.rounds)), default=0) or 1
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest
    parts = [f'<text x="{LABEL_WIDTH}" y="{top + 32}">{escape(panel.title)}</text>']
    top += HEAD_HEIGHT - BAR_GAP
    for number, bar in enumerate(panel.bars):
        parts += _bar(bar, top + number * (BAR_HEIGHT + BAR_GAP), scale, is_first=not number)
    return parts


def _bar(bar: Bar, top: int, scale: float, *, is_first: bool) -> list[str]:
    middle = top + BAR_HEIGHT // 2
    end = LABEL_WIDTH + scale * max((bar.value, *bar.rounds))
    place = f'x="{LABEL_WIDTH}" y="{top}" width="{scale * bar.value:.1f}" height="{BAR_HEIGHT}"'
    dots = [f'cx="{LABEL_WIDTH + scale * value:.1f}" cy="{middle}" r="2.5"' for value in bar.rounds]
    return [
        f'<text x="{LABEL_WIDTH - 8}" y="{middle + 5}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect {place} fill="{FIRST_COLOUR if is_first else BAR_COLOUR}"/>',
        *(f'<circle {dot} fill="{DOT_COLOUR}" fill-opacity="0.6"/>' for dot in dots),
        f'<text x="{end + 8:.1f}" y="{middle + 5}">{escape(bar.text)}</text>',
    ]

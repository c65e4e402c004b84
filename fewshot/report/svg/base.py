"""What all pictures share: elements that escape themselves, a scale with round ticks, marks for three families.

The pictures have no colours of their own. They name CSS classes, so that the page decides and dark mode follows.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewshot.report.model import StrategyInfo

WIDTH = 360.0
"""Width of a picture in its own units: about a telephone's, so that text keeps its size there."""
LEFT, RIGHT = 10.0, 350.0
"""Where the data area of a row plot begins and ends."""

FAMILIES = {"scratch": "trained from scratch", "frozen": "head on a frozen backbone", "trained": "backbone fine-tuned"}
"""What a strategy trains, as the colours and shapes of the marks tell it."""


def family(info: StrategyInfo) -> str:
    """Tell whether a strategy starts from scratch, keeps a backbone frozen, or trains it."""
    if info.backbone is None:
        return "scratch"
    return "trained" if info.trains else "frozen"


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Write an element; text and attribute values are escaped, children that are ``Markup`` are kept.

    A trailing underscore of an attribute's name is dropped (``class_``), others become hyphens (``text_anchor``).
    """
    shown = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup("<{}{}/>").format(name, shown)
    return Markup("<{}{}>{}</{}>").format(name, shown, Markup("").join(children), name)


def picture(height: float, title: str, description: str, *children: str, width: float = WIDTH) -> Markup:
    """Wrap children into a picture that scales with the page and speaks to screen readers.

    A picture narrower or wider than the others keeps its size rather than being scaled to theirs.
    """
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        viewBox=f"0 0 {_attribute(width)} {_attribute(height)}",
        width=width if abs(width - WIDTH) > 1 else None,
        role="img",
        aria_label=title,
    )


def text(x: float, y: float, content: str, kind: str = "label", anchor: str = "start", **more: object) -> Markup:
    """Write one line of text."""
    return element("text", content, x=x, y=y, class_=kind, text_anchor=anchor, **more)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Draw a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def mark(kind: str, x: float, y: float, size: float = 5.0, hollow: bool = False) -> Markup:
    """Draw a family's mark: a square, a circle or a diamond, for those who do not see its colour."""
    style = f"mark {kind}{' hollow' if hollow else ''}"
    if kind == "scratch":
        return element(
            "rect", x=x - size + 0.5, y=y - size + 0.5, width=2 * size - 1, height=2 * size - 1, class_=style
        )
    if kind == "trained":
        d = size + 1
        points = " ".join(f"{a:.2f},{b:.2f}" for a, b in ((x, y - d), (x + d, y), (x, y + d), (x - d, y)))
        return element("polygon", points=points, class_=style)
    return element("circle", cx=x, cy=y, r=size, class_=style)


def key_mark(kind: str) -> Markup:
    """Draw a mark alone, for legends and tables."""
    return element("svg", mark(kind, 7, 7), viewBox="0 0 14 14", class_="key", aria_hidden="true")


def clip(content: str, most: int) -> str:
    """Shorten a name in the middle, where names differ least often."""
    if len(content) <= most:
        return content
    head = (most - 1) * 2 // 3
    return f"{content[:head]}…{content[len(content) - (most - 1 - head) :]}"


def width_of(content: str) -> float:
    """Estimate the width of a text of 12 pixels, generously: which font the reader has is not known."""
    return sum(
        0.0
        if unicodedata.combining(c)
        else 13.0
        if unicodedata.east_asian_width(c) in "WF"
        else 3.9
        if c in " .,:;'|!iljt()[]-·"
        else 10.0
        if c in "mwMW@%"
        else 7.0
        for c in content
    )


def fit(content: str, room: float) -> str:
    """Shorten a name in the middle until it fits a width."""
    shown, most = content, len(content)
    while most > 2 and width_of(shown) > room:
        most -= 1
        shown = clip(content, most)
    return shown


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Push ascending positions apart until neighbours are ``gap`` apart, within ``low`` to ``high`` where that fits."""
    found: list[float] = []
    for position in wanted:
        found.append(max(position, found[-1] + gap if found else low))
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], found[i + 1] - gap if i + 1 < len(found) else high)
    return found


@dataclass(frozen=True)
class Scale:
    """Maps values ``low..high`` to positions ``start..end``; values outside go to the nearer end."""

    low: float
    high: float
    start: float = LEFT
    end: float = RIGHT

    def __call__(self, value: float) -> float:
        """Give the position of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Give at most ``most`` round values inside."""
        step = round_step((self.high - self.low) / max(1, most - 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def round_step(least: float) -> float:
    """Give the smallest of 1, 2, 5 times a power of ten that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def number(value: float) -> str:
    """Write a tick's value, with a real minus sign."""
    return f"{value + 0.0:.6g}".replace("-", "−")


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

"""Small charts as inline SVG: axes, lines with marks, bars. No library, no script; colours come from the page's style.

A series is told apart three ways: by colour, by the shape of its marks, and by the dashes of its line. The eight
colours keep a contrast of 3 to 1 with the page in either scheme (WCAG 1.4.11).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from resnet_infer.report.html import Html, join

WIDTH, HEIGHT = 372, 264
"""Of a chart, in its own units: small enough to be read on a telephone, where it is shown at about this size."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 42

STYLE = """
:root { --s0: #0060a8; --s1: #c44a00; --s2: #00785a; --s3: #8a3c8f; --s4: #866700; --s5: #2a86b8; --s6: #b83a72;
  --s7: #505862 }
@media screen and (prefers-color-scheme: dark) {
  :root { --s0: #5fa8ef; --s1: #ff9a5a; --s2: #39c99e; --s3: #d79be0; --s4: #e0bf45; --s5: #9fdcf7; --s6: #ff8ab8;
    --s7: #c3c8d0 }
}
.s0 { --c: var(--s0) } .s1 { --c: var(--s1) } .s2 { --c: var(--s2) } .s3 { --c: var(--s3) } .s4 { --c: var(--s4) }
.s5 { --c: var(--s5) } .s6 { --c: var(--s6) } .s7 { --c: var(--s7) }
svg text { font-size: 12px }
svg.bar, svg.key { display: inline-block; vertical-align: middle }
svg.bar { width: 100%; min-width: 5rem; height: .9rem }
svg.key { width: 2.4rem; height: .9rem; flex: none }
svg .grid { stroke: var(--line); fill: none }
svg .line { stroke: var(--c); fill: none; stroke-width: 1.8 }
svg .mark { stroke: var(--c); fill: var(--c); stroke-width: 1.2 }
svg .open { fill: none; stroke-width: 2 }
"""

COLOURS = 8
DASHES = ("", "6 3", "2 2.5", "9 3 2 3", "14 4", "4 5", "9 3 2 3 2 3", "1 4")


def _polygon(*corners: tuple[float, float]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in corners) + "Z"


MARKS = (
    ("M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0Z", ""),
    (_polygon((-3.3, -3.3), (3.3, -3.3), (3.3, 3.3), (-3.3, 3.3)), ""),
    (_polygon((0, -4.4), (4.2, 3.2), (-4.2, 3.2)), ""),
    (_polygon((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)), ""),
    (_polygon((0, 4.4), (4.2, -3.2), (-4.2, -3.2)), ""),
    ("M-3.4 -3.4L3.4 3.4M-3.4 3.4L3.4 -3.4", "open"),
    ("M-4.4 0H4.4M0 -4.4V4.4", "open"),
    ("M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0Z", "open"),
)
"""Outlines about the origin, and whether only their strokes are drawn."""


def shape(tag: str, *inside: object, **attributes: object) -> Html:
    """An element; `stroke_width=2` is the attribute stroke-width, `kind` the class, None leaves one out."""
    said = "".join(
        f' {"class" if name == "kind" else name.replace("_", "-")}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value not in (None, "")
    )
    return Html(f"<{tag}{said}>{join(inside, '')}</{tag}>")


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to pixels, with its ticks and their names."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[tuple[float, str]]
    log: bool = True

    def at(self, value: float) -> float:
        """Where a value stands."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)


def log_axis(values: Iterable[float], start: float, end: float, name: Callable[[float], str]) -> Axis:
    """A logarithmic axis that holds these positive values with some room on either side."""
    low, high = min(values := list(values)), max(values)
    room = max(1.15, (high / low) ** 0.06) if high / low > 1.2 else 1.6
    low, high = low / room, high * room
    return Axis(low, high, start, end, [(tick, name(tick)) for tick in log_ticks(low, high)])


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two positive ones, as few as make the scale plain: powers of ten, then 1-2-5, then even."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [step * 10.0**power for power in decades for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if 3 <= len(found) <= most:
            return found
    if math.log10(high / low) > most / 2:
        every = math.ceil(len(decades) / most)
        return [tick for power in decades[::every] if low <= (tick := 10.0**power) <= high]
    return linear_ticks(low, high, most)


def linear_axis(values: Iterable[float], start: float, end: float, name: Callable[[float], str]) -> Axis:
    """A linear axis that holds these values of 0 and more with some room on either side."""
    low, high = min(values := list(values)), max(values)
    room = 0.12 * (high - low) or 0.2 * high or 1.0
    low, high = max(0.0, low - room), high + room
    return Axis(low, high, start, end, [(tick, name(tick)) for tick in linear_ticks(low, high)], log=False)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10) if (high - low) / (s * power) <= most)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def frame(x: Axis, y: Axis, x_name: str, y_name: str) -> Html:
    """Grid, ticks, their names, and what the axes show: y above the chart, x below it."""
    parts = [
        shape("text", y_name, x=4, y=13),
        shape("text", x_name, x=WIDTH - RIGHT, y=HEIGHT - 6, text_anchor="end"),
    ]
    for value, name in y.ticks:
        at = y.at(value)
        parts += [
            shape("path", d=f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", kind="grid"),
            shape("text", name, x=x.start - 6, y=at + 4, text_anchor="end"),
        ]
    for value, name in x.ticks:
        at = x.at(value)
        parts += [
            shape("path", d=f"M{at:.1f} {y.start:.1f}V{y.end:.1f}", kind="grid"),
            shape("text", name, x=at, y=y.start + 15, text_anchor="middle"),
        ]
    return join(parts, "")


def line(points: Sequence[tuple[float, float]], number: int) -> Html:
    """The line of series `number` through points in pixels."""
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return shape("path", d=d, kind=f"line s{number % COLOURS}", stroke_dasharray=dash(number))


def dash(number: int) -> str:
    """The dashes of series `number`: a new pattern for every one, so that no two of a colour are alike."""
    return DASHES[(number + number // COLOURS) % len(DASHES)]


def mark(x: float, y: float, number: int, said: str = "", outline: int | None = None) -> Html:
    """The mark of series `number` with a hint that shows when pointed at; `outline` chooses another's shape."""
    d, kind = MARKS[(number if outline is None else outline) % len(MARKS)]
    title = [shape("title", said)] if said else []
    return shape(
        "path", *title, d=d, transform=f"translate({x:.1f} {y:.1f})", kind=f"mark {kind} s{number % COLOURS}".strip()
    )


def key(number: int) -> Html:
    """The sample of series `number` for a legend."""
    parts = line([(1, 7), (37, 7)], number), mark(19, 7, number)
    return shape("svg", *parts, viewBox="0 0 38 14", kind="key", aria_hidden="true")


def line_key(number: int) -> Html:
    """The sample of a series' line alone."""
    return shape("svg", line([(1, 7), (37, 7)], number), viewBox="0 0 38 14", kind="key", aria_hidden="true")


def mark_key(outline: int) -> Html:
    """The sample of a mark's shape alone."""
    return shape("svg", mark(19, 7, 7, outline=outline), viewBox="0 0 38 14", kind="key", aria_hidden="true")


def chart(said: str, *parts: object) -> Html:
    """The drawing; `said` is what is read out in its place."""
    return shape("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said)


def bar(share: float, colour: str, *, start: float = 0.0) -> Html:
    """A bar as wide as its place from `start` to `share`, each 0..1, on a line that shows the whole."""
    share, start = (min(1.0, max(0.0, value)) for value in (share, start))
    low, high = sorted((100 * start, 100 * share))
    parts = (
        shape("rect", x=0, y=0, width=100, height=10, fill="var(--panel)"),
        shape("rect", x=low, y=1, width=max(0.4, high - low), height=8, fill=f"var(--{colour})"),
        shape("path", d=f"M{100 * start:.2f} 0V10", stroke="var(--soft)", stroke_width=0.4) if start else "",
    )
    return shape("svg", *parts, viewBox="0 0 100 10", preserveAspectRatio="none", kind="bar", aria_hidden="true")

"""The first thing to see of a benchmark: a card with the best rate of every protocol, or a table of many."""

from collections.abc import Sequence

from resnet_infer.bench.rows import BenchRow
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.selection import Best
from resnet_infer.report.html import Html, element, table

MOST_CARDS = 6

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem;
  margin: 1rem 0 }
.card { background: var(--panel); border-radius: 8px; padding: .8rem 1rem; break-inside: avoid }
.card h3 { margin: 0; font-weight: 600 }
.card p { margin: .15rem 0; font-size: 14px }
.card .big { font-size: 1.9rem; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums }
.card .big small { font-size: .9rem; font-weight: 400; color: var(--soft); display: block; line-height: 1.4 }
.summary td { white-space: nowrap }
@media (max-width: 40rem) { .card .big { font-size: 1.6rem } }
"""


def summary(rows: Sequence[BenchRow]) -> Html:
    """A card for every architecture and protocol, or a table where there are many."""
    bests = selection.bests(rows)
    several = len({best.architecture for best in bests}) > 1
    if len(bests) <= MOST_CARDS:
        return element("div", *(_card(best, several) for best in bests), kind="cards") if bests else Html("")
    lines = []
    for best in bests:
        row = best.network or best.path
        if row:
            path = f"{q.rate(best.path.images_per_s)} ({best.path.measurement})" if best.path else ""
            network = q.rate(best.network.images_per_s) if best.network else ""
            lines.append([best.architecture, best.protocol, network, path, _how(row), top1(row)])
    header = ["architecture", "protocol", "network, images/s", "whole path", "fastest way", "top-1 err %"]
    return element("div", table(header, lines, numbers=(2, 3, 5)), kind="summary")


def _card(best: Best, several: bool) -> Html:
    row = best.network or best.path
    if row is None:
        return Html("")
    small = element("small", f" images/s, {selection.INSIDE[row.measurement]}")
    parts: list[object] = [
        element("h3", f"{best.architecture}, {best.protocol}" if several else best.protocol),
        element("p", q.rate(row.images_per_s), small, kind="big"),
        element("p", _how(row)),
    ]
    if row.roof_fraction:
        parts.append(
            element("p", f"{q.percent(row.roof_fraction)} of its roof, bound by {row.bound or 'nothing known'}")
        )
    if best.path and best.path is not row:
        inside = selection.INSIDE[best.path.measurement]
        parts.append(
            element("p", f"{q.rate(best.path.images_per_s)} images/s {inside} ({selection.series_of(best.path).way})")
        )
    if top1(row):
        parts.append(element("p", f"top-1 error {top1(row)} % on {row.top1_images:,} images"))
    return element("div", *parts, kind="card")


def _how(row: BenchRow) -> str:
    return f"{selection.series_of(row).way}, batch {selection.batch_text(row)}"


def top1(row: BenchRow) -> str:
    """Its top-1 error in percent, where it has one."""
    return "" if row.top1_err is None else f"{row.top1_err:.2f}"

"""The charts of a benchmark: rate and latency over batch size, error over rate, shares of the roof, the waterfall."""

from collections.abc import Iterable, Mapping, Sequence

from resnet_infer.bench.rows import BenchRow, Measurement
from resnet_infer.report import quantities as q
from resnet_infer.report import svg
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.selection import Series, Waterfall, architecture_of, protocol_rank, series_of
from resnet_infer.report.html import Html, details, element, join, table

LEAST_BETWEEN_TICKS = 30
"""In a chart's units: what the name of a batch size needs."""
MOST_BARS = 24
"""Bars of the roofline that are shown before the reader opens the rest."""
PERCENTILES = ("p50", "p90", "p95", "p99")

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.6rem }
.charts figure { max-width: 34rem; margin: .4rem 0; break-inside: avoid }
.charts .scroll { margin: 0 }
figcaption { overflow-wrap: anywhere }
figcaption.name { color: var(--text); font-weight: 600 }
ul.legend { list-style: none; margin: .2rem 0 0; padding: 0; font-size: 13px }
ul.legend li { display: flex; align-items: center; gap: .5rem; padding: .1rem 0 }
ul.legend.row { display: flex; flex-wrap: wrap; gap: 0 1.2rem }
table.bars { width: 100%; font-size: 13px; table-layout: fixed }
table.bars td, table.bars th { vertical-align: middle; padding: .15rem .2rem }
table.bars th { white-space: normal }
table.bars :first-child { padding-left: 0 }
table.roof td:nth-child(3), table.roof :nth-child(4) { text-align: left }
"""

Point = tuple[float, float]


class Legend:
    """The number of every series on a page, so that one way to run looks the same in every chart."""

    def __init__(self, rows: Iterable[BenchRow]) -> None:
        self.names: dict[Series, str] = {}
        for own in selection.grouped(rows, architecture_of).values():
            self.names |= selection.labels(own)
        self._numbers = {name: number for number, name in enumerate(dict.fromkeys(self.names.values()))}

    def number(self, series: Series) -> int:
        """Which series it is."""
        return self._numbers[self.names[series]]


def throughput(rows: Sequence[BenchRow], measurement: Measurement, legend: Legend) -> list[Html]:
    """A chart of images/s over batch size for every architecture and protocol with several batch sizes."""
    figures = []
    for (architecture, protocol), lines in panels(rows, measurement).items():
        if len({row.batch_size for own in lines.values() for row in own}) < 2:
            continue
        x = _batch_axis([row.batch_size for own in lines.values() for row in own])
        y = svg.log_axis([r.images_per_s for own in lines.values() for r in own], *_UP, q.tick)
        drawn, keys, said = [], [], []
        for series, own in lines.items():
            number, name = legend.number(series), legend.names[series]
            points = [(x.at(row.batch_size), y.at(row.images_per_s)) for row in own]
            drawn.append(svg.line(points, number))
            drawn += [
                svg.mark(*point, number, f"{name}, batch {row.batch_size}: {q.rate(row.images_per_s)} images/s")
                for point, row in zip(points, own, strict=True)
            ]
            best = max(own, key=lambda row: row.images_per_s)
            keys.append((number, f"{name}: {q.rate(best.images_per_s)} at {best.batch_size}"))
            said.append(f"{name}: " + ", ".join(f"{r.batch_size}: {q.rate(r.images_per_s)}" for r in own))
        title = f"{architecture}, {protocol}"
        image = svg.chart(
            f"Images per second over batch size, {title}. {'; '.join(said)}.",
            svg.frame(x, y, "batch size, tiles", "images/s"),
            *drawn,
        )
        figures.append(figure(title, image, keys))
    return figures


def latencies(rows: Sequence[BenchRow], measurement: Measurement, legend: Legend) -> tuple[list[Html], Html | None]:
    """A chart of the time of a batch for every architecture and protocol: p50 as a mark, a stroke up to p99.

    Those with one batch size only are lines of a table at the end.
    """
    timed = [row for row in rows if row.latency_ms.get("p50", 0) > 0]
    figures = []
    cells: list[list[object]] = []
    for (architecture, protocol), lines in panels(timed, measurement).items():
        every = [row for own in lines.values() for row in own]
        title = f"{architecture}, {protocol}"
        if len({row.batch_size for row in every}) < 2:
            cells += [
                [
                    f"{title}: {legend.names[series_of(row)]}",
                    row.batch_size,
                    *(_percentile(row, p) for p in PERCENTILES),
                ]
                for row in every
            ]
            continue
        x = _batch_axis([row.batch_size for row in every])
        y = svg.log_axis([ms for row in every for ms in row.latency_ms.values() if ms > 0], *_UP, q.tick)
        drawn, keys, said = [], [], []
        for place, (series, own) in enumerate(lines.items()):
            number, name = legend.number(series), legend.names[series]
            beside = 3.0 * (place - (len(lines) - 1) / 2)
            points = [(x.at(row.batch_size) + beside, y.at(row.latency_ms["p50"])) for row in own]
            drawn.append(svg.line(points, number))
            for (at, up), row in zip(points, own, strict=True):
                hint = ", ".join(f"{p} {_percentile(row, p)}" for p in PERCENTILES)
                drawn.append(_whisker(at, [y.at(ms) for p in PERCENTILES if (ms := row.latency_ms.get(p))], number))
                drawn.append(svg.mark(at, up, number, f"{name}, batch {row.batch_size}: {hint} ms"))
            keys.append((number, name))
            said.append(
                f"{name}: "
                + ", ".join(f"{r.batch_size}: {_percentile(r, 'p50')} to {_percentile(r, 'p99')}" for r in own)
            )
        image = svg.chart(
            f"Milliseconds of a batch, median to 99th percentile, over batch size, {title}. {'; '.join(said)}.",
            svg.frame(x, y, "batch size, tiles", "ms of a batch"),
            *drawn,
        )
        figures.append(figure(title, image, keys))
    header = ["ms of a batch", "batch", *PERCENTILES]
    return figures, table(header, cells, numbers=range(1, len(header))) if cells else None


def ladder_charts(rows: Sequence[BenchRow], measurement: Measurement, legend: Legend) -> list[Html]:
    """Top-1 error with its 95 % interval over the best rate: a line through the protocols of every series."""
    figures = []
    for architecture, group in selection.grouped(rows, architecture_of).items():
        rungs: dict[Series, list[tuple[BenchRow, BenchRow]]] = {}
        for series, ladder in selection.ladders(group).items():
            found = [(r.fastest[measurement], r.scored) for r in ladder if r.scored and measurement in r.fastest]
            if found:
                rungs[series] = found
        every = [pair for own in rungs.values() for pair in own]
        if len(every) < 2:
            continue
        protocols = sorted({fast.protocol for fast, _ in every}, key=protocol_rank)
        x = svg.log_axis([fast.images_per_s for fast, _ in every], *_ACROSS, q.tick)
        errors = [value for _, scored in every for value in (scored.top1_err_ci95 or (scored.top1_err or 0.0,))]
        y = svg.linear_axis(errors, *_UP, q.tick)
        drawn, keys, said = [], [], []
        for series, own in rungs.items():
            number, name = legend.number(series), legend.names[series]
            points = [(x.at(fast.images_per_s), y.at(scored.top1_err or 0.0)) for fast, scored in own]
            drawn.append(svg.line(points, number))
            for (at, up), (fast, scored) in zip(points, own, strict=True):
                if scored.top1_err_ci95:
                    drawn.append(_whisker(at, [y.at(value) for value in scored.top1_err_ci95], number, 0.4))
                hint = f"{fast.protocol}: {scored.top1_err:.2f} % at {q.rate(fast.images_per_s)} images/s"
                drawn.append(svg.mark(at, up, number, f"{name}, {hint}", outline=protocols.index(fast.protocol)))
            keys.append((number, name))
            said.append(
                f"{name}: "
                + ", ".join(f"{f.protocol} {s.top1_err:.2f} % at {q.rate(f.images_per_s)} images/s" for f, s in own)
            )
        title = f"{architecture}, {selection.INSIDE[measurement]}"
        image = svg.chart(
            f"Top-1 error over images per second, {title}. {'; '.join(said)}.",
            svg.frame(x, y, "images/s: faster to the right", "top-1 error, %"),
            *drawn,
        )
        shapes = [(svg.mark_key(place), protocol) for place, protocol in enumerate(protocols)]
        figures.append(figure(title, image, keys, shapes, marked=False))
    return figures


def roof_bars(rows: Sequence[BenchRow], names: Mapping[Series, str]) -> list[Html]:
    """The share of its roof that every series and protocol reaches at its best batch size, best first."""
    lines: list[tuple[float, list[object]]] = []
    for own in selection.grouped(rows, lambda row: (series_of(row), row.protocol)).values():
        row = max(own, key=lambda each: each.roof_fraction)
        what = f"{architecture_of(row)} {row.protocol}: {names[series_of(row)]}, batch {selection.batch_text(row)}"
        colour = {"compute": "s0", "memory": "s1"}.get(row.bound, "s2")
        lines.append(
            (row.roof_fraction, [what, svg.bar(row.roof_fraction, colour), q.percent(row.roof_fraction), row.bound])
        )
    lines.sort(key=lambda each: -each[0])

    def drawn(some: Sequence[tuple[float, list[object]]]) -> Html:
        header, widths = ("", "share of the roof", "", "bound by"), (42, 28, 12, 18)
        return bars(header, widths, [cells for _, cells in some], "roof")

    rest = lines[MOST_BARS:]
    return [drawn(lines[:MOST_BARS]), *([details(f"{len(rest)} more", drawn(rest))] if rest else [])]


def waterfall_figure(found: Waterfall, names: Mapping[Series, str]) -> Html:
    """Images/s from the network alone to the whole path; the change is from the step before."""
    most = max(row.images_per_s for row in found.steps)
    lines = []
    for before, row in zip([None, *found.steps], found.steps, strict=False):
        percent = round(100 * (row.images_per_s / before.images_per_s - 1)) if before else 0
        change = "" if before is None else f"{percent:+d} %" if percent else "0 %"
        colour = "s0" if row.measurement == "network" else "s1"
        lines.append([row.measurement, svg.bar(row.images_per_s / most, colour), q.rate(row.images_per_s), change])
    first = found.steps[0]
    title = f"{architecture_of(first)} {found.protocol}: {names[found.series]}, batch {found.batch_size}"
    busy = found.steps[-1].network_fraction
    slower = f"keeps the network {q.percent(busy)} busy" if busy < 1 else "is as fast as the network alone"
    note = f"The whole path {slower}." if busy else ""
    return figure(title, bars(("", "images/s", "", "change"), (22, 41, 20, 17), lines, "falls"), [], note=note)


def bars(header: Sequence[str], widths: Sequence[int], lines: Iterable[Sequence[object]], kind: str) -> Html:
    """A table whose second column is drawn; widths in percent."""
    columns = join((svg.shape("col", style=f"width:{width}%") for width in widths), "")
    head = element(
        "thead", element("tr", *(element("th", cell, kind="number" * (at > 1)) for at, cell in enumerate(header)))
    )
    body = [
        element(
            "tr",
            *(element("td", cell, kind="name" if at == 0 else "number" * (at > 1)) for at, cell in enumerate(cells)),
        )
        for cells in lines
    ]
    return element("table", element("colgroup", columns), head, element("tbody", *body), kind=f"bars {kind}")


def panels(rows: Iterable[BenchRow], measurement: Measurement) -> dict[tuple[str, str], dict[Series, list[BenchRow]]]:
    """Rows by architecture and protocol, then by series, one for every batch size that ran, smallest first."""
    found: dict[tuple[str, str], dict[Series, list[BenchRow]]] = {}
    groups = selection.grouped(
        selection.of(selection.measured(rows), measurement), lambda r: (architecture_of(r), r.protocol)
    )
    order = list(dict.fromkeys(architecture for architecture, _ in groups))
    for key in sorted(groups, key=lambda key: (order.index(key[0]), protocol_rank(key[1]))):
        found[key] = {}
        for series, own in selection.grouped((row for row in groups[key] if row.batch_size > 0), series_of).items():
            sizes = selection.grouped(own, lambda row: row.batch_size)
            found[key][series] = [max(sizes[size], key=lambda row: row.images_per_s) for size in sorted(sizes)]
    return found


def figure(
    title: str,
    image: Html,
    keys: Iterable[tuple[int, str]],
    shapes: Sequence[tuple[Html, str]] = (),
    *,
    marked: bool = True,
    note: str = "",
) -> Html:
    """A drawing under its name, with its legend: of series, and of the shapes of their marks."""
    series = [
        element("li", svg.key(number) if marked else svg.line_key(number), element("span", name))
        for number, name in keys
    ]
    outlines = [element("li", sample, element("span", name)) for sample, name in shapes]
    return element(
        "figure",
        element("figcaption", title, kind="name"),
        image,
        element("ul", *outlines, kind="legend row") if outlines else "",
        element("ul", *series, kind="legend") if series else "",
        element("figcaption", note) if note else "",
    )


_ACROSS = (svg.LEFT, svg.WIDTH - svg.RIGHT)
_UP = (svg.HEIGHT - svg.BOTTOM, svg.TOP)


def _batch_axis(sizes: Iterable[int]) -> svg.Axis:
    """Powers of two evenly spaced; the names of some are left out where they would run into each other."""
    ordered = sorted(set(sizes))
    room = (ordered[-1] / ordered[0]) ** 0.06
    axis = svg.Axis(ordered[0] / room, ordered[-1] * room, *_ACROSS, ())
    ticks: list[tuple[float, str]] = []
    for size in reversed(ordered):  # the largest is named in any case
        if not ticks or axis.at(ticks[-1][0]) - axis.at(size) >= LEAST_BETWEEN_TICKS:
            ticks.append((size, str(size)))
    return svg.Axis(axis.low, axis.high, axis.start, axis.end, ticks[::-1])


def _percentile(row: BenchRow, name: str) -> str:
    return q.milliseconds(row.latency_ms[name]) if name in row.latency_ms else ""


def _whisker(at: float, ups: Sequence[float], number: int, opacity: float = 0.75) -> Html:
    """An upright stroke through heights in pixels with a tick at each."""
    ticks = "".join(f"M{at - 2.5:.1f} {up:.1f}h5" for up in ups)
    d = f"M{at:.1f} {min(ups):.1f}V{max(ups):.1f}{ticks}"
    return svg.shape("path", d=d, kind=f"line s{number % svg.COLOURS}", stroke_opacity=opacity)

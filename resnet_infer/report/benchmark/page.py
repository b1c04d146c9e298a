"""A benchmark as one HTML page that needs no other file: headline, charts, ladder, roofline, waterfall, every row."""

from collections.abc import Mapping, Sequence

from resnet_infer.bench.rows import BenchRow, BenchRun, Ceilings, Measurement
from resnet_infer.report import quantities as q
from resnet_infer.report import svg
from resnet_infer.report.benchmark import cards, charts, rows_table, selection
from resnet_infer.report.benchmark import table as benchmark_table
from resnet_infer.report.benchmark.charts import Legend
from resnet_infer.report.benchmark.headline import headlines, troubles
from resnet_infer.report.benchmark.selection import Rung
from resnet_infer.report.html import Html, details, element, join, page, section, table

SHOWN = 6
"""Charts of a kind that are shown before the reader opens the rest."""
MOST_LINES = 36
"""Lines of the table of costs that are shown without being asked for."""

STYLE = """
body { max-width: 78rem }
.lead { font-size: 1.1rem; max-width: 60rem }
nav { margin: .8rem 0; font-size: 14px }
nav a { margin-right: 1rem; display: inline-block; padding: .15rem 0 }
a { color: var(--blue) }
.trouble { border-left: 4px solid var(--red); padding: .3rem .8rem; background: var(--panel); max-width: 60rem }
pre { background: var(--panel); padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px }
ul.list { padding-left: 1.1rem; max-width: 60rem }
.ladder td:first-child { min-width: min(17rem, 40vw) }
section { scroll-margin-top: 1rem }
@media print {
  :root { color-scheme: light; --text: #1d2129; --soft: #5b6470; --back: #fff; --line: #d8dde4; --panel: #f4f6f9;
    --blue: #1f5fa8; --red: #b3402e; --on: #fff }
  body { max-width: none; padding: 0; font-size: 12px; print-color-adjust: exact }
  nav { display: none }
  .scroll { overflow: visible }
  h2, h3, figcaption.name { break-after: avoid }
  tr, .trouble { break-inside: avoid }
  .charts { grid-template-columns: 1fr 1fr }
  details::details-content { content-visibility: visible; block-size: auto; opacity: 1 }
}
"""

Rows = Sequence[BenchRow]


def benchmark_page(run: BenchRun) -> str:
    """The page of one run, whatever it holds: one row, or none that did not fail."""
    rows = selection.measured(run.rows)
    legend = Legend(rows)
    sections = [
        ("throughput", "Throughput", throughput_parts(rows, legend)),
        ("latency", "Latency", latency_parts(rows, legend)),
        ("protocols", "Protocols: error and cost", ladder_parts(rows, legend)),
        ("roofline", "Roofline", roof_parts(rows, legend, run.ceilings)),
        ("end-to-end", "From the network to files", waterfall_parts(rows, legend)),
        ("failures", "Failures and warnings", trouble_parts(run)),
        ("environment", "Environment and command", environment_parts(run)),
        ("rows", f"Every row ({len(run.rows):,})", [rows_table.rows_table(run.rows)] if run.rows else []),
    ]
    kept = [(name, heading, parts) for name, heading, parts in sections if parts]
    return page(
        title(run),
        *(element("p", sentence, kind="lead") for sentence in headlines(run)),
        cards.summary(rows),
        trouble_note(run),
        contents([(name, heading) for name, heading, _ in kept]),
        *(svg.shape("section", section(heading, *parts), id=name) for name, heading, parts in kept),
        style=svg.STYLE + charts.STYLE + cards.STYLE + rows_table.STYLE + STYLE,
    )


def title(run: BenchRun) -> str:
    """What was run, in a line."""
    named = selection.measured(run.rows) or run.rows
    architectures = list(dict.fromkeys(selection.architecture_of(row) for row in named))
    what = ", ".join(architectures[:3]) + (f" and {len(architectures) - 3} more" if architectures[3:] else "")
    return f"Benchmark of {what}" if what else "Benchmark"


def contents(sections: Sequence[tuple[str, str]]) -> Html:
    """Links to the sections."""
    return svg.shape("nav", *(svg.shape("a", name, href=f"#{at}") for at, name in sections), aria_label="Sections")


def trouble_note(run: BenchRun) -> Html:
    """A line that failures and warnings are there, if they are."""
    said = troubles(run)
    link = svg.shape("a", "what and why", href="#failures")
    return svg.shape("p", f"{said}: ", link, kind="trouble") if said else Html("")


def throughput_parts(rows: Rows, legend: Legend) -> list[Html]:
    """The charts of the network alone, then those of the longer measurements, folded."""
    text = "Images per second at the median of the repeats"
    return _by_measurement(
        text, {name: (charts.throughput(rows, name, legend), None) for name in selection.MEASUREMENTS}
    )


def latency_parts(rows: Rows, legend: Legend) -> list[Html]:
    """The charts of a batch's time."""
    text = "The time of one batch; in a chart the line is the median, and strokes reach up to p90, p95 and p99"
    return _by_measurement(text, {name: charts.latencies(rows, name, legend) for name in selection.MEASUREMENTS})


def _by_measurement(text: str, drawn: Mapping[Measurement, tuple[list[Html], Html | None]]) -> list[Html]:
    """Charts and a table of each measurement; all but the first are folded."""
    parts: list[Html] = []
    for name, (figures, rest) in drawn.items():
        tables = [rest] if rest else []
        if parts and (figures or rest):
            count = [q.counted(len(figures), "chart")] if figures else []
            summary = f"{selection.INSIDE[name]}: {', '.join([*count, *['a table'] * len(tables)])}"
            parts.append(details(summary, gallery(figures), *tables))
        elif figures or rest:
            parts.append(element("p", f"{text}. Inside the time: {selection.INSIDE[name]}.", kind="soft"))
            parts += [*(folded(figures, "charts") if figures else []), *tables]
    return parts


def gallery(figures: Sequence[Html]) -> Html:
    """Figures beside each other, as many as fit."""
    return element("div", *figures, kind="charts")


def folded(figures: Sequence[Html], what: str) -> list[Html]:
    """The first figures, and the rest behind a line."""
    shown = [gallery(figures[:SHOWN])]
    return (
        [*shown, details(f"{len(figures) - SHOWN} more {what}", gallery(figures[SHOWN:]))] if figures[SHOWN:] else shown
    )


def ladder_parts(rows: Rows, legend: Legend) -> list[Html]:
    """Error over rate, and what each protocol costs beside a single crop."""
    found = selection.ladders(rows)
    if not found:
        return []
    rungs = [rung for own in found.values() for rung in own]
    present = [name for name in selection.MEASUREMENTS if any(name in rung.fastest for rung in rungs)]
    measurements = [present[0], *([present[-1]] if present[1:] else [])]
    figures = [figure for name in measurements for figure in charts.ladder_charts(rows, name, legend)]
    of = {selection.series_of(row): selection.architecture_of(row) for row in rows}
    several = len({of[subject] for subject in found}) > 1
    named = {subject: (f"{of[subject]}: " if several else "") + legend.names[subject] for subject in found}
    header = ["model and way", "protocol", "views", "top-1 err %", "GMAC", "× MACs"]
    header += [said for name in measurements for said in (f"{name}, images/s", "× cost")]
    lines = [
        [named[subject] if at == 0 else "", *_rung_cells(rung, measurements)]
        for subject, own in found.items()
        for at, rung in enumerate(own)
    ]
    text = (
        "Cost: the rate of a single crop over the protocol's own, both at their best batch size. Beside it stands how "
        "many times the multiply-adds of a single crop it needs: where the two agree, only arithmetic is paid for."
    )
    unknown = element("p", "No error was measured: the images have no classes.", kind="soft")
    return [
        *(folded(figures, "charts") if figures else [unknown]),
        element("p", text, kind="soft"),
        *_ladder_table(header, lines),
    ]


def _ladder_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> list[Html]:
    """The table, folded where it is long."""
    drawn = element("div", table(header, lines, numbers=range(2, len(header))), kind="ladder")
    return [details(f"Costs: {q.counted(len(lines), 'line')}", drawn) if len(lines) > MOST_LINES else drawn]


def _rung_cells(rung: Rung, measurements: Sequence[Measurement]) -> list[object]:
    cells: list[object] = [
        rung.protocol,
        rung.views or "",
        cards.top1(rung.scored) if rung.scored else "",
        q.three_digits(rung.gmacs) if rung.gmacs else "",
        q.multiple(rung.macs_multiple) if rung.macs_multiple else "",
    ]
    for name in measurements:
        row = rung.fastest.get(name)
        cells += [q.rate(row.images_per_s) if row else "", q.multiple(rung.cost[name]) if name in rung.cost else ""]
    return cells


def roof_parts(rows: Rows, legend: Legend, ceilings: Ceilings | None) -> list[Html]:
    """How near each came to what the machine allows, and what that is."""
    parts: list[Html] = []
    for name in selection.MEASUREMENTS:
        if not (own := [row for row in selection.of(rows, name) if row.roof_fraction]):
            continue
        drawn = charts.roof_bars(own, legend.names)
        if parts:
            parts.append(details(selection.INSIDE[name], *drawn))
        else:
            text = f"At the best batch size of each; inside the time: {selection.INSIDE[name]}."
            parts += [element("p", text, kind="soft"), *drawn]
    return parts + (
        [section("Ceilings measured in the same run", ceilings_table(ceilings), level=3)] if ceilings else []
    )


def ceilings_table(ceilings: Ceilings) -> Html:
    """What the machine can do at most."""
    lines = [["copy on the device", f"{ceilings.copy_gb_per_s:,.1f}", "GB/s, read and written"]]
    lines += [
        [f"matrix product, {precision}", q.three_digits(value), "TFLOP/s"]
        for precision, value in ceilings.matmul_tflop_per_s.items()
    ]
    if ceilings.upload_gb_per_s:
        lines.append(["host to device, pinned", f"{ceilings.upload_gb_per_s:,.1f}", "GB/s"])
    if ceilings.decode_images_per_s_per_core:
        unit = f"images/s a core, {q.counted(ceilings.cores, 'core')}"
        lines.append(["JPEG decoding", q.rate(ceilings.decode_images_per_s_per_core), unit])
    if ceilings.decode_images_per_s:
        lines.append(["JPEG decoding, all cores at once", q.rate(ceilings.decode_images_per_s), "images/s"])
    return table(["ceiling", "value", "unit"], lines, numbers=(1,))


def waterfall_parts(rows: Rows, legend: Legend) -> list[Html]:
    """Where the rate goes on the way from the network to the files."""
    figures = [charts.waterfall_figure(found, legend.names) for found in selection.waterfalls(rows)]
    said = "; ".join(f"{name}: {inside}" for name, inside in selection.INSIDE.items())
    return [element("p", f"{said}.", kind="soft"), *folded(figures, "subjects")] if figures else []


def trouble_parts(run: BenchRun) -> list[Html]:
    """Every failure and every warning with the row that it is of."""
    lines = [*benchmark_table.failures(run.rows), *benchmark_table.warnings(run.rows)]
    return [element("ul", *(element("li", line) for line in lines), kind="list")] if lines else []


def environment_parts(run: BenchRun) -> list[Html]:
    """Where, when, on what, and the command."""
    lines = [("started", run.started), *([("took", q.duration(run.seconds))] if run.seconds else [])]
    lines += [
        ("hardware", selection.hardware(run)),
        *selection.facts({"data": run.data}),
        *selection.facts(run.environment),
    ]
    return [element("pre", run.command), join([table(["", ""], [[name, value] for name, value in lines])])]

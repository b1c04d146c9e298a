"""Every row of a benchmark as a table that sorts without a script: the order of the chosen column is in its style.

A row carries its place under every order as a custom property; the radio button that is chosen says which one applies.
A browser that cannot do this shows the rows as they were measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_infer.bench.rows import BenchRow
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.html import Html, element, join
from resnet_infer.report.svg import shape

STYLE = """
fieldset.sort { border: 0; padding: 0; margin: .6rem 0; display: none; font-size: 14px }
fieldset.sort legend { float: left; padding: 0 .8rem 0 0; color: var(--soft) }
fieldset.sort label { display: inline-block; margin: 0 .9rem .2rem 0; white-space: nowrap }
table.rows { font-size: 13px }
table.rows td { white-space: nowrap }
table.rows td.long { white-space: normal; overflow-wrap: anywhere; min-width: 8rem }
table.rows tr.failed td { color: var(--red) }
@media screen { @supports (grid-template-columns: subgrid) and selector(:has(a)) {
  fieldset.sort { display: block }
  table.rows { display: grid; width: max-content; min-width: 100% }
  table.rows thead, table.rows tbody { display: contents }
  table.rows tr { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1 }
  table.rows thead tr { order: -1 }
  table.rows th { white-space: nowrap }
  table.rows td.long { min-width: 0 }
} }
@media print { fieldset.sort { display: none } table.rows, table.rows td { font-size: 8px; white-space: normal } }
"""

Text = Callable[[BenchRow], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its header, a row's cell, and whether it is a number (1), plain text (0) or long text (-1)."""

    header: str
    text: Text
    kind: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """A way to sort: by a value, largest first unless `rising`; rows without one come last."""

    name: str
    value: Callable[[BenchRow], float | None]
    rising: bool = False


def _percentile(name: str) -> Text:
    return lambda row: q.milliseconds(row.latency_ms[name]) if row.latency_ms.get(name) else ""


def _top1(row: BenchRow) -> str:
    if row.top1_err is None:
        return ""
    return f"{row.top1_err:.2f}" + ("" if not row.top1_err_ci95 else " ({:.2f} .. {:.2f})".format(*row.top1_err_ci95))


COLUMNS = (
    Column("model", lambda row: row.model, -1),
    Column("way", lambda row: selection.series_of(row).way, -1),
    Column("device", lambda row: row.device, 0),
    Column("protocol", lambda row: row.protocol, 0),
    Column("measurement", lambda row: row.measurement, 0),
    Column("batch", selection.batch_text),
    Column("images/s", lambda row: q.rate(row.images_per_s) if row.images_per_s else ""),
    Column("± CV %", lambda row: f"{row.cv_pct:.1f}" if row.images_per_s else ""),
    *(Column(f"{name} ms", _percentile(name)) for name in ("p50", "p90", "p95", "p99")),
    Column("of roof", lambda row: q.percent(row.roof_fraction) if row.roof_fraction else ""),
    Column("roof, images/s", lambda row: q.rate(row.roof_images_per_s) if row.roof_images_per_s else ""),
    Column("bound by", lambda row: row.bound, 0),
    Column("network busy", lambda row: q.percent(row.network_fraction) if row.network_fraction else ""),
    Column("J/image", lambda row: q.three_digits(row.joules_per_image) if row.joules_per_image else ""),
    Column("top-1 err %", _top1),
    Column("repeats", lambda row: str(len(row.seconds) or "")),
    Column("GMAC/image", lambda row: q.three_digits(row.gmacs) if row.gmacs else ""),
    Column("peak memory", lambda row: q.memory(row.peak_memory_mib) if row.peak_memory_mib else ""),
    Column("first run", lambda row: q.duration(row.first_run_s) if row.first_run_s else ""),
    Column("build", lambda row: q.duration(row.build_s) if row.build_s else ""),
    Column("failure or warning", lambda row: "; ".join([*([row.error] if row.error else []), *row.warnings]), -1),
)

WIDTHS = {1: "auto", 0: "auto", -1: "fit-content(min(18rem,40vw))"}

ORDERS = (
    Order("images/s", lambda row: row.images_per_s or None),
    Order("share of the roof", lambda row: row.roof_fraction or None),
    Order("p50", lambda row: row.latency_ms.get("p50"), rising=True),
    Order("batch", lambda row: row.batch_size, rising=True),
    Order("top-1 error", lambda row: row.top1_err, rising=True),
    Order("CV", lambda row: row.cv_pct if row.images_per_s else None),
    Order("J/image", lambda row: row.joules_per_image or None, rising=True),
    Order("peak memory", lambda row: row.peak_memory_mib or None),
)


def rows_table(rows: Sequence[BenchRow]) -> Html:
    """The table with its orders above it. What is the same in all rows is said once, in front of it."""
    shown = [column for column in COLUMNS if any(column.text(row) for row in rows)]
    usual = selection.measured(rows)
    same = [c for c in shown if c.kind == 0 and usual[1:] and len({c.text(row) for row in usual}) == 1]
    shown = [column for column in shown if column not in same]
    orders = [order for order in ORDERS if len({order.value(row) for row in rows}) > 1]
    places = [_places(rows, order) for order in orders]
    head = shape("tr", *(_cell("th", column, column.header) for column in shown), role="row")
    lines = [_line(row, shown, [place[at] for place in places]) for at, row in enumerate(rows)]
    table = shape(
        "table",
        shape("thead", head, role="rowgroup"),
        shape("tbody", *lines, role="rowgroup"),
        kind="rows",
        role="table",
        style="grid-template-columns:" + " ".join(WIDTHS[column.kind] for column in shown),
    )
    said = f"The same in all rows: {', '.join(f'{c.header} {c.text(usual[0])}' for c in same)}." if same else ""
    return join(
        [
            element("p", said, kind="soft") if said else "",
            _buttons(orders),
            _rules(len(orders)),
            element("div", table, kind="scroll"),
        ]
    )


def _buttons(orders: Sequence[Order]) -> Html:
    if not orders:
        return Html("")
    choices = ["as measured", *(order.name for order in orders)]
    buttons = [
        element(
            "label",
            shape("input", type="radio", name="sort", id=f"sort{at}", checked="checked" if at == 0 else None),
            f" {name}",
        )
        for at, name in enumerate(choices)
    ]
    return element("fieldset", element("legend", "Sort by"), *buttons, kind="sort")


def _rules(orders: int) -> Html:
    """Which custom property orders the rows under which button."""
    rules = (f"body:has(#sort{at}:checked) table.rows tbody tr{{order:var(--o{at})}}" for at in range(1, orders + 1))
    return Html(f"<style>@media screen{{{''.join(rules)}}}</style>") if orders else Html("")


def _line(row: BenchRow, columns: Sequence[Column], places: Sequence[int]) -> Html:
    style = ";".join(f"--o{at}:{place}" for at, place in enumerate(places, 1))
    kind = "failed" if row.error else ""
    return shape(
        "tr", *(_cell("td", column, column.text(row)) for column in columns), role="row", kind=kind, style=style
    )


def _cell(tag: str, column: Column, text: str) -> Html:
    role: dict[str, Any] = {"role": "columnheader", "scope": "col"} if tag == "th" else {"role": "cell"}
    return shape(tag, text, kind={1: "number", 0: "name", -1: "name long"}[column.kind], **role)


def _places(rows: Sequence[BenchRow], order: Order) -> list[int]:
    """Every row's place under an order; of equals the one measured first comes first."""

    def rank(at: int) -> tuple[bool, float]:
        value = order.value(rows[at])
        return value is None, (value or 0.0) * (1 if order.rising else -1)

    places = [0] * len(rows)
    for place, at in enumerate(sorted(range(len(rows)), key=rank)):
        places[at] = place
    return places

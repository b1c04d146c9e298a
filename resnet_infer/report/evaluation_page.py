"""The page of an evaluation with metrics: every row's errors, calibration, classes and confusions.

The reliability diagram is that of Guo et al. 2017, Fig. 1: accuracy over confidence, with the number of images below.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.report.html import Html, details, element, html, join, page, section, table

MATRIX_CLASSES = 24
"""Up to so many classes the whole confusion matrix is shown."""
SHOWN = 20
"""Classes and confusions listed before the reader opens the rest."""
MOST_CONFUSIONS = 500

STYLE = """
.matrix th, .matrix td { padding: .15rem .35rem; text-align: right; border: 1px solid var(--line) }
.matrix tr > :first-child { text-align: left; min-width: 5.5rem; max-width: 9rem; white-space: normal }
.matrix td { --paint: var(--red); background: color-mix(in srgb, var(--paint) var(--share), transparent) }
.matrix td.right { --paint: var(--blue) }
.matrix td.deep { color: var(--on) }
.matrix td.none { color: var(--soft) }
"""

Values = Mapping[str, Any]


def eval_page(rows: Sequence[EvalRow]) -> str:
    """The page of these rows, each of which has its metrics."""
    first = rows[0]
    skipped = f", {len(first.unreadable)} unreadable ({first.on_error})" if first.unreadable else ""
    header = ["model", "protocol", "top-1 err %", "95 % interval", "top-5 err %", "NLL", "ECE %", "Brier"]
    has_real = any("real" in metrics(row) for row in rows)
    summary = table(
        [*header, *(["ReaL err %"] if has_real else [])],
        [_summary(row, has_real) for row in rows],
        numbers=range(2, len(header) + has_real),
    )
    return page(
        f"Evaluation on {first.data}",
        element("p", f"{first.images:,} images{skipped}; {first.images_per_s:.1f} images/s, all rows together"),
        summary,
        element(
            "p",
            "NLL: negative log-likelihood in nats. ECE: expected calibration error over 15 bins of equal width "
            "(Guo et al. 2017). Brier: squared distance from the true class, 0 to 2.",
            kind="soft",
        ),
        *(_section(row, len(rows) > 1) for row in rows),
        style=STYLE,
    )


def metrics(row: EvalRow) -> Values:
    """The row's metrics. Raises ValueError if they were not counted."""
    if row.metrics is None:
        raise ValueError(f"{row.model}, {row.protocol}: its metrics were not counted")
    return row.metrics


def _summary(row: EvalRow, has_real: bool) -> list[object]:
    values = metrics(row)
    real = values.get("real")
    cells: list[object] = [
        row.model,
        row.protocol,
        f"{row.top1_err:.2f}",
        "{:.2f} .. {:.2f}".format(*row.top1_err_ci95),
        f"{row.top5_err:.2f}",
        f"{values['nll']:.4f}",
        f"{values['ece']:.2f}",
        f"{values['brier']:.4f}",
    ]
    return [*cells, *([f"{real['top1_err']:.2f}" if real else ""] if has_real else [])]


def _section(row: EvalRow, several: bool) -> Html:
    values = metrics(row)
    title = f"{row.model}, {row.protocol}" if several else row.protocol
    parts: list[object] = [
        element("p", f"{row.architecture}, {row.backend} {row.precision} on {row.device}. {row.views}.", kind="soft")
    ]
    if real := values.get("real"):
        parts.append(
            element(
                "p",
                f"By the ReaL labels: {real['top1_errors']:,} of {real['images']:,} images wrong, "
                f"{real['top1_err']:.2f} %; {real['left_out']:,} images without a label are left out.",
            )
        )
    parts += [
        section("Calibration", reliability(values["calibration"]), level=3),
        section("Classes", _classes(values), level=3),
        section("Confusions", _confusions(values), level=3),
    ]
    return section(title, *parts)


def reliability(bins: Sequence[Values]) -> Html:
    """The reliability diagram: a bar a bin to its accuracy, a stroke at its confidence, and its share of the images."""
    left, top, side, below = 34, 8, 240, 44
    total = max(1, sum(part["images"] for part in bins))
    step = side / len(bins)
    shapes = [
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="var(--line)"/>',
        f'<path d="M{left} {top + side}L{left + side} {top}" stroke="var(--soft)" stroke-dasharray="4 4" fill="none"/>',
    ]
    for number, part in enumerate(bins):
        if not part["images"]:
            continue
        x, height = left + number * step + 1, side * part["accuracy"] / 100
        at = top + side * (1 - part["confidence"] / 100)
        share = part["images"] / total
        said = (
            f"confidence {part['low']:.1f} to {part['high']:.1f} %: {part['images']:,} images, "
            f"mean confidence {part['confidence']:.2f} %, accuracy {part['accuracy']:.2f} %"
        )
        shapes += [
            f"<g><title>{html(said)}</title>",
            f'<rect x="{x:.1f}" y="{top + side - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}" '
            'fill="var(--blue)"/>',
            f'<path d="M{x:.1f} {at:.1f}h{step - 2:.1f}" stroke="var(--red)" stroke-width="2.5"/>',
            f'<rect x="{x:.1f}" y="{top + side + 6}" width="{step - 2:.1f}" height="{max(0.7, below * share):.1f}" '
            'fill="var(--soft)"/></g>',
        ]
    for percent in (0, 50, 100):
        across, up = left + side * percent / 100, top + side * (1 - percent / 100)
        shapes.append(f'<text x="{left - 5}" y="{up + 4:.0f}" text-anchor="end">{percent}</text>')
        shapes.append(f'<text x="{across:.0f}" y="{top + side + below + 20}" text-anchor="middle">{percent}</text>')
    height = top + side + below + 28
    drawn = f'<svg viewBox="0 0 {left + side + 16} {height}" role="img" aria-label="Reliability diagram">'
    caption = element(
        "figcaption",
        "Across: confidence in %. Bars: accuracy in %, strokes: mean confidence; equal on the dashed line. "
        "Hanging: share of the images.",
    )
    return element("figure", Html(drawn + "".join(shapes) + "</svg>"), caption)


def _classes(values: Values) -> Html:
    records = sorted(
        (record for record in values["classes"] if record["images"]), key=lambda r: (-r["top1_err"], r["index"])
    )
    header = ["class", "index", "images", "top-1 errors", "top-1 err %", "top-5 errors"]
    lines: list[list[object]] = [
        [
            class_name(r),
            r["index"],
            f"{r['images']:,}",
            r["top1_errors"],
            f"{r['top1_err']:.2f}",
            r["top5_errors"],
        ]
        for r in records
    ]
    mean = element(
        "p",
        f"{len(records):,} classes with images; mean of their errors {values['mean_class_err']:.2f} %. Worst first.",
    )
    return join([mean, *_folded(header, lines, range(1, 6), "classes")])


def _confusions(values: Values) -> Html:
    pairs = sorted((cell for cell in values["confusion"] if cell[0] != cell[1]), key=lambda c: (-c[2], c[0], c[1]))
    if not pairs:
        return element("p", "None: every image is right.")
    images = {record["index"]: record["images"] for record in values["classes"]}
    names = {record["index"]: class_name(record) for record in values["classes"]}
    lines: list[list[object]] = [
        [names[true], names[guess], count, f"{100 * count / images[true]:.2f}"]
        for true, guess, count in pairs[:MOST_CONFUSIONS]
    ]
    header = ["true class", "taken for", "images", "% of the class"]
    involved = sorted({index for cell in values["confusion"] for index in cell[:2]})
    parts = [_matrix(values["confusion"], involved, names)] if len(involved) <= MATRIX_CLASSES else []
    more = f"The {MOST_CONFUSIONS} most frequent of {len(pairs):,} pairs are listed." if len(pairs) > len(lines) else ""
    return join([*parts, element("p", more) if more else "", *_folded(header, lines, (2, 3), "pairs")])


def _matrix(cells: Sequence[Sequence[int]], involved: Sequence[int], names: Mapping[int, str]) -> Html:
    """Rows are true classes, columns predicted ones; colour is the share of the row, its root where wrong."""
    count = {(true, guess): images for true, guess, images in cells}
    head = element("tr", element("th", ""), *(element("th", index) for index in involved))
    lines = []
    for true in involved:
        total = max(1, sum(count.get((true, guess), 0) for guess in involved))
        painted = []
        for guess in involved:
            images = count.get((true, guess), 0)
            share = images / total
            depth = 0.9 * (share if guess == true else min(1.0, share**0.5))
            kinds = ["right"] * (guess == true) + ["deep"] * (depth > 0.5) + ["none"] * (images == 0)
            painted.append(Html(f'<td class="{" ".join(kinds)}" style="--share:{100 * depth:.0f}%">{images}</td>'))
        lines.append(element("tr", element("th", f"{true} {names[true]}"), *painted))
    grid = element("table", element("thead", head), element("tbody", *lines), kind="matrix")
    said = element("p", "Rows: the true class. Columns: the predicted one, by its number.", kind="soft")
    return join([said, element("div", grid, kind="scroll")])


def _folded(header: Sequence[object], lines: list[list[object]], numbers: Sequence[int], what: str) -> list[Html]:
    shown = [table(header, lines[:SHOWN], numbers=numbers)]
    if len(lines) > SHOWN:
        rest = table(header, lines[SHOWN:], numbers=numbers)
        shown.append(details(f"{len(lines) - SHOWN:,} more {what}", rest))
    return shown


def class_name(record: Values) -> str:
    """The class's name, or its number where the names are not known."""
    return record["label"] or f"class {record['index']}"

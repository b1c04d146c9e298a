"""The paper's figures from measured values: error over iterations (Fig. 6) and layer responses (Fig. 7).

Drawn with matplotlib, which the extra `report` brings. Error curves are dashed for training and solid for test.
"""

import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_infer.console import note
from resnet_infer.train.log import read_metrics
from resnet_infer.train.state import RECIPE, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#c0392b", "#1f5fa8", "#2e8b57", "#8e44ad", "#d68910", "#16a2b8", "#7f8c8d")
ERROR_LIMIT = 20.0
"""Percent at the top of Fig. 6, unless a curve ends above it."""

PNG, PAGE = "curves.png", "curves.html"

LogRecord = Mapping[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
svg { width: 100%; height: auto }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto }
"""


def error_figure(runs: Mapping[str, Sequence[LogRecord]]) -> "Figure":
    """Training error dashed, test error solid, over iterations, of runs by name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    ends = []
    for number, (name, records) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        training, test = curve(records, "train_err"), curve(records, "test_err")
        last = f"{name}, test {test[1][-1]:.2f} %" if test[1] else name
        axes.plot(*training, linestyle="--", linewidth=0.9, color=colour, label=None if test[1] else name)
        axes.plot(
            *test,
            linestyle="-",
            marker="." if len(test[0]) < 30 else None,
            linewidth=1.8,
            color=colour,
            label=last if test[1] else None,
        )
        ends += [points[1][-1] for points in (training, test) if points[1]]
    axes.set_xlabel("iterations")
    axes.set_ylabel("error (%)")
    axes.set_ylim(0, max(ERROR_LIMIT, min(100.0, 1.25 * max(ends, default=ERROR_LIMIT))))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(title="dashed: training, solid: test", fontsize="small", title_fontsize="small")
    return figure


def curve(records: Sequence[LogRecord], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values of one quantity."""
    points = [(record["iteration"], record[name]) for record in records if name in record]
    return [iteration for iteration, _ in points], [value for _, value in points]


def as_svg(figure: "Figure") -> str:
    """The figure as an element to put into a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().split("?>", 1)[1].split(">", 1)[1]  # without the XML declaration and the document type


def run_page(title: str, records: Sequence[LogRecord], facts: Sequence[tuple[str, str]], recipe: str) -> str:
    """A run as one HTML page that needs no other file: its curves, its tests, its recipe."""
    tests = [record for record in records if record["kind"] == "test"]
    losses = {record["iteration"]: record for record in records if record["kind"] == "train"}
    rows = []
    for test in tests:
        seen = losses.get(test["iteration"])
        training = (f"{seen['train_err']:.2f}", f"{seen['loss']:.4f}", f"{seen['lr']:g}") if seen else ("", "", "")
        wrong = f"{test['test_errors']} of {test['test_images']}"
        cells = (str(test["iteration"]), f"{test['epoch']:.1f}", f"{test['test_err']:.2f}", wrong, *training)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("iteration", "epoch", "test error %", "wrong", "training error %", "loss", "learning rate")
    header = "".join(f"<th>{head}</th>" for head in heads)
    said = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
    table = f"<h2>Tests</h2>\n<table><tr>{header}</tr>\n" + "\n".join(rows) + "</table>" if rows else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<h1>{escape(title)}</h1>
<table>{said}</table>
{as_svg(error_figure({title: records}))}
{table}
<h2>Recipe</h2>
<pre>{escape(recipe)}</pre>
</html>
"""


def write_curves(folder: Path, name: str) -> bool:
    """Draw a run's training error (dashed) and test error (solid) into its folder; False without matplotlib."""
    if find_spec("matplotlib") is None:
        note("no curves were drawn: `pip install 'resnet-infer[report]'` brings matplotlib")
        return False
    records = read_metrics(folder)
    image = io.BytesIO()
    error_figure({name: records}).savefig(image, format="png", dpi=150)
    write_bytes(folder / PNG, image.getvalue())
    tests = [record for record in records if record["kind"] == "test"]
    last = records[-1]
    facts = [("iterations", f"{last['iteration']}"), ("seconds", f"{last['seconds']:.0f}")]
    if tests:
        lowest = min(tests, key=lambda record: float(record["test_err"]))
        facts.append(("test error at the end", f"{tests[-1]['test_err']:.2f} %"))
        facts.append(("lowest test error", f"{lowest['test_err']:.2f} % at iteration {lowest['iteration']}"))
    recipe = (folder / RECIPE).read_text("utf-8")
    write_bytes(folder / PAGE, run_page(name, records, facts, recipe).encode())
    return True

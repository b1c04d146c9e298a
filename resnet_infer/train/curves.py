"""The curves of a run, from its metrics: a PNG and a page that needs no other file."""

import io
from importlib.util import find_spec
from pathlib import Path

from resnet_infer.report import figures
from resnet_infer.report.console import note
from resnet_infer.train import saved
from resnet_infer.train.metrics import read_metrics

PNG, PAGE = "curves.png", "curves.html"


def write_curves(folder: Path, name: str) -> bool:
    """Draw a run's training error (dashed) and test error (solid) into its folder; False without matplotlib."""
    if find_spec("matplotlib") is None:
        note("no curves were drawn: `pip install 'resnet-infer[report]'` brings matplotlib")
        return False
    records = read_metrics(folder)
    image = io.BytesIO()
    figures.error_figure({name: records}).savefig(image, format="png", dpi=150)
    saved.write_bytes(folder / PNG, image.getvalue())
    tests = [record for record in records if record["kind"] == "test"]
    last = records[-1]
    facts = [("iterations", f"{last['iteration']}"), ("seconds", f"{last['seconds']:.0f}")]
    if tests:
        lowest = min(tests, key=lambda record: float(record["test_err"]))
        facts.append(("test error at the end", f"{tests[-1]['test_err']:.2f} %"))
        facts.append(("lowest test error", f"{lowest['test_err']:.2f} % at iteration {lowest['iteration']}"))
    recipe = (folder / saved.RECIPE).read_text("utf-8")
    saved.write_bytes(folder / PAGE, figures.run_page(name, records, facts, recipe).encode())
    return True

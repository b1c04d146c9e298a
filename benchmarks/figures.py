"""The paper's Fig. 6 from training runs, and its Fig. 7 (layer responses) from checkpoints.

    python -m benchmarks.figures curves RUN... -o curves.png
    python -m benchmarks.figures responses MODEL... --data TEST.zip -o responses.png

A run is a folder that `resnet-infer train` wrote, or one of models/; a model is a checkpoint's key or file. The values
drawn are printed as JSON.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.layer_responses import layer_responses
from resnet_infer.console import progress
from resnet_infer.data.open import open_source
from resnet_infer.model.checkpoints import Overrides, is_checkpoint_file, load_checkpoint
from resnet_infer.report.training import COLOURS, error_figure
from resnet_infer.spec.preprocessing import Triple
from resnet_infer.train.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main() -> None:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description="Fig. 6 and Fig. 7 of the paper from what was measured.")
    which = parser.add_subparsers(dest="figure", required=True)
    curves = which.add_parser("curves", help="Fig. 6: training and test error over iterations")
    curves.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    responses = which.add_parser("responses", help="Fig. 7: standard deviations of layer outputs")
    responses.add_argument("models", nargs="+", metavar="MODEL")
    responses.add_argument("--data", required=True, help="images")
    responses.add_argument("--mean", type=triple, help="input mean of models that do not say it, as 0.485,0.456,0.406")
    responses.add_argument("--std", type=triple, help="input std of models that do not say it")
    for each in (curves, responses):
        each.add_argument("-o", "--output", type=Path, required=True, help="PNG, SVG or PDF file")
    args = parser.parse_args()
    values = draw_curves(args) if args.figure == "curves" else draw_responses(args)
    print(json.dumps(values, indent=1))


def draw_curves(args: argparse.Namespace) -> dict[str, Any]:
    """Fig. 6; gives every run's last test error in percent."""
    runs = {run.name: read_metrics(run) for run in args.runs}
    error_figure(runs).savefig(args.output, dpi=150)
    tests = {name: [r["test_err"] for r in records if r["kind"] == "test"] for name, records in runs.items()}
    return {name: errors[-1] if errors else None for name, errors in tests.items()}


def draw_responses(args: argparse.Namespace) -> dict[str, Any]:
    """Fig. 7; gives every layer's standard deviation."""
    source = open_source(args.data)
    found: dict[str, dict[str, float]] = {}
    for model in args.models:
        checkpoint = load_checkpoint(model, Overrides(mean=args.mean, std=args.std))
        with progress(f"responses of {checkpoint.name}", len(source.samples), "images") as advance:
            values = layer_responses(checkpoint, source, advance=advance)
        name = Path(model).stem if is_checkpoint_file(model) else model
        found[name] = {layer: round(std, 4) for layer, std in values}
    response_figure({name: list(values.values()) for name, values in found.items()}).savefig(args.output, dpi=150)
    return found


def triple(text: str) -> Triple:
    """Three numbers with commas."""
    red, green, blue = (float(part) for part in text.split(","))
    return red, green, blue


def response_figure(responses: Mapping[str, Sequence[float]]) -> "Figure":
    """Standard deviations of layer outputs by network: in the layers' order above, falling below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharey=True)
    for number, (name, values) in enumerate(responses.items()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "label": name, "linewidth": 1.2}
        style["linestyle"] = "--" if name.startswith("plain") else "-"
        layers = range(1, len(values) + 1)
        above.plot(layers, list(values), **style)
        below.plot(layers, sorted(values, reverse=True), **style)
    above.set_xlabel("layer, in order")
    below.set_xlabel("layer, sorted by its response")
    for axes in (above, below):
        axes.set_ylabel("std")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    above.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()

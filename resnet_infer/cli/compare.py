"""`resnet-infer compare`: where two classifiers disagree, and whether one is better."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnet_infer.cli.data_options import LabelledData
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.members import open_members
from resnet_infer.cli.model_options import MODEL_HELP, RunModel
from resnet_infer.cli.options import Loading, Output, Views
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.comparison_rows import Comparison, Disagreement, Side
from resnet_infer.report import text
from resnet_infer.report.compare_models import by_difference, chosen, compare_page, label, measures, p_value, verdict
from resnet_infer.report.html import check_page, write_page

if TYPE_CHECKING:
    from resnet_infer.data.source import Source

KEPT = (".jsonl", ".parquet")
"""Suffixes of predictions files."""
LISTED = 5
"""Classes in the table."""


@with_flags
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{MODEL_HELP} Or a predictions file of eval.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other, of the same kind.")],
    run_model: RunModel,
    views: Views,
    loading: Loading,
    labelled: LabelledData,
    output: Output,
    data: Annotated[
        str | None,
        typer.Option(help="Images to score, as for eval; for predictions files, the page's pictures.", metavar="DATA"),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a web page with pictures of the disagreements.", metavar="FILE.html")
    ] = None,
    pictures: Annotated[
        int, typer.Option(help="Pictures on the page of each kind of disagreement.", min=0, max=500, metavar="N")
    ] = 24,
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="Unreadable images: fail, or leave out. They are always listed.")
    ] = "fail",
) -> None:
    """Compare two models in one pass, each in its own preprocessing, or the predictions they made before."""
    if page:
        check_page(page)
    from resnet_infer.backends.described import cut
    from resnet_infer.console import note, progress
    from resnet_infer.data.left_out import note_left_out
    from resnet_infer.data.open import open_source
    from resnet_infer.evaluation.compare import compare_models, compare_predictions
    from resnet_infer.report.thumbnails import thumbnails

    kept = [Path(cut(name)[0]).suffix.lower() in KEPT for name in (a, b)]
    if any(kept) and not all(kept):
        raise UsageError(f"{a} and {b}: one is a predictions file; give two of them, or two models")
    source = open_source(data, reading=labelled.reading()) if data else None
    if source:
        note_left_out(source)
    if all(kept):
        found = compare_predictions(Path(a), Path(b), views.names if views.asked else ())
    elif source is None:
        raise UsageError("two models are compared on images: give --data DATA")
    else:
        members = open_members([a, b], run_model, views)
        with progress("comparing", len(source.samples), "images") as advance:
            found = compare_models(
                members[0],
                members[1],
                source,
                on_error=on_error,
                loading=loading.value(),
                advance=advance,
            )
    for image in found[0].unreadable:
        note(f"{image['path']}: {image['error']}")
    try:
        _print(found, output.format_name)
    finally:  # neither result depends on the other's being written
        if page:
            wanted = {image.index: image for comparison in found for image in chosen(comparison, pictures)}
            shown = {}
            if source is not None:
                _check_same(source, wanted.values(), data)
                shown = thumbnails(source, wanted)
            write_page(page, compare_page(found, pictures, shown))


def _print(found: list[Comparison], form: str) -> None:
    from resnet_infer.console import emit, say, visible
    from resnet_infer.environment import environment

    if form == "table":
        shown = visible(found)
        say("\n\n".join([_head(shown[0]), *(_table(comparison) for comparison in shown)]))
    elif form == "json":
        emit(text.as_json({"environment": environment(), "rows": [comparison.to_dict() for comparison in found]}))
    elif form == "jsonl":
        emit(text.as_json_lines([comparison.to_dict() for comparison in found]))
    else:
        emit(text.as_csv([comparison.summary() for comparison in found]))


def _head(first: Comparison) -> str:
    sides = (f"{name}: {of.model} ({of.architecture}, {of.backend} {of.precision} on {of.device})" for name, of in
             (("A", first.a), ("B", first.b)))  # fmt: skip
    left_out = f", {len(first.unreadable)} unreadable (left out)" if first.unreadable else ""
    rate = f", {first.images / first.seconds:.1f} images/s" if first.seconds else ""
    return "\n".join([*sides, f"{first.data}: {first.images} images{left_out}{rate}"])


def _table(c: Comparison) -> str:
    """One protocol at 80 columns."""
    parts = [f"{c.protocol}\nA: {c.a.views}\nB: {c.b.views}"]
    if c.mcnemar_p is not None:
        columns = ["", "top-1 err %", "95 % interval", "top-5 err %", "top-1 errors"]
        parts.append(text.as_table(columns, [_errors("A", c.a), _errors("B", c.b)], right=(1, 2, 3, 4)))
        counts = [("A right", c.both_right, c.only_a_right), ("A wrong", c.only_b_right, c.both_wrong)]
        split = text.as_table(["images", "B right", "B wrong"], [list(map(str, line)) for line in counts], right=(1, 2))
        parts.append(f"{split}\nMcNemar's exact p, two-sided: {p_value(c.mcnemar_p)}.\n{verdict(c)}")
    parts.append(text.as_table(["measure", "value"], measures(c)))
    differ = [k for k in by_difference(c.classes) if k.only_a_right or k.only_b_right][:LISTED]
    if differ:
        lines = [
            [label(k.label, k.index), *map(str, (k.images, k.a_errors, k.b_errors, k.only_a_right, k.only_b_right))]
            for k in differ
        ]
        columns = ["differ most in", "images", "A errors", "B errors", "only A right", "only B right"]
        parts.append(text.as_table(columns, lines, right=range(1, 6)))
    if c.disagreements:
        parts.append(f"{len(c.disagreements)} disagreements: --page FILE.html shows them, --format json lists them")
    return "\n\n".join(parts)


def _errors(name: str, side: Side) -> list[str]:
    low, high = side.top1_err_ci95 or (0.0, 0.0)
    return [name, f"{side.top1_err:.2f}", f"{low:.2f} .. {high:.2f}", f"{side.top5_err:.2f}", f"{side.top1_errors}"]


def _check_same(source: "Source", images: Iterable[Disagreement], data: str | None) -> None:
    """Predictions were made before: the pictures must be those of their images."""
    for image in images:
        name = source.samples[image.index].name if image.index < len(source.samples) else ""
        if Path(name).name != Path(image.path).name:
            raise UsageError(f"--data {data}: image {image.index} is '{name}', and in the predictions '{image.path}'")

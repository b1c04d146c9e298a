"""An evaluation as a table of at most 80 columns."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.report.text import as_table

TOGETHER = "all"
"""The ensemble among its members A, B, ..."""


def eval_table(results: Sequence[EvalRow]) -> str:
    """What the rows share, a line a row, and what was scored; of several models each has a letter."""
    first = results[0]
    protocols = len({row.protocol for row in results})
    several = len(results) > protocols
    keys = [_key(row, index // protocols) if several else "" for index, row in enumerate(results)]
    heads = {key: _head(key, row) for key, row in reversed(list(zip(keys, results, strict=True)))}
    resumed = f" ({first.resumed} scored before)" if first.resumed else ""
    unreadable = f", {len(first.unreadable)} unreadable ({first.on_error})" if first.unreadable else ""
    if first.decode_warnings:
        unreadable += f", {first.decode_warnings} damaged but scored"
    return "\n".join(
        [
            *(heads[key] for key in dict.fromkeys(keys)),
            f"{first.data}: {first.images} images{resumed}{unreadable}, {first.images_per_s:.1f} images/s",
            "",
            _table(
                keys,
                ["protocol", "top-1 err %", "95 % interval", "top-5 err %", "top-1 errors"],
                [
                    [
                        row.protocol,
                        f"{row.top1_err:.2f}",
                        "{:.2f} .. {:.2f}".format(*row.top1_err_ci95),
                        f"{row.top5_err:.2f}",
                        f"{row.top1_errors}",
                    ]
                    for row in results
                ],
            ),
            *_metrics(keys, results),
            "",
            *(f"{key} {row.protocol}: {row.views}".strip() for key, row in zip(keys, results, strict=True)),
        ]
    )


def _key(row: EvalRow, number: int) -> str:
    return TOGETHER if row.members else ascii_uppercase[number] if number < 26 else str(number + 1)


def _head(key: str, row: EvalRow) -> str:
    name = f"{key}: {row.model}" if key else row.model
    return name if row.members else f"{name} ({row.architecture}, {row.backend} {row.precision} on {row.device})"


def _table(keys: Sequence[str], columns: list[str], lines: list[list[str]]) -> str:
    """The lines, with their keys before them where there are any."""
    if not any(keys):
        return as_table(columns, lines, right=range(1, len(columns)))
    keyed = [[key, *line] for key, line in zip(keys, lines, strict=True)]
    return as_table(["", *columns], keyed, right=range(2, len(columns) + 1))


def _metrics(keys: Sequence[str], results: Sequence[EvalRow]) -> list[str]:
    """Of the metrics, what a line can hold; the rest is in the other formats and on the page."""
    values = [(row.protocol, row.metrics) for row in results if row.metrics]
    if not values:
        return []
    lines = [
        [protocol, f"{m['nll']:.4f}", f"{m['ece']:.2f}", f"{m['brier']:.4f}", f"{m['mean_class_err']:.2f}", *_real(m)]
        for protocol, m in values
    ]
    columns = ["protocol", "NLL", "ECE %", "Brier", "mean class err %"]
    if any("real" in m for _, m in values):
        columns += ["ReaL err %", "ReaL images"]
    return ["", _table(keys, columns, lines)]


def _real(metrics: Mapping[str, Any]) -> list[str]:
    real = metrics.get("real")
    return [f"{real['top1_err']:.2f}", f"{real['images']}"] if real else []

"""The result of a run as text, at most 80 columns."""

import textwrap
from collections.abc import Iterator

from benchmarks.gpu.results import Check, Results, describe, outcome

WIDTH = 80
VALUE, TARGET = 15, 13


def text(results: Results) -> str:
    """Steps, rows and checks."""
    lines = ["", "steps"]
    for step in results.steps:
        why = f": {step.why}" if step.why else ""
        lines += _wrapped(f"{step.name:14}{step.status:9}{step.seconds:6.1f} s{why}")
    if results.run.rows:
        lines += ["", f"{'images/s, medians':62}{'roof':>6}{'images/s':>12}"]
    for row in results.run.rows:
        said = describe(row)
        if row.error:
            lines += _wrapped(f"{said}: {row.error[:160]}")
            continue
        roof = f"{row.roof_fraction:.2f}" if row.roof_fraction else ""
        head, *rest = textwrap.wrap(said, 60)
        lines.append(f"{head:62}{roof:>6}{row.images_per_s:12.1f}")
        lines += [f"    {part}" for part in rest]
    if results.checks:
        lines += ["", f"{'checks':50}{'measured':>{VALUE}}{'target':>{TARGET}}"]
    for check in results.checks:
        lines += _check(check)
    met = [check.met for check in results.checks]
    other = sum(1 for check in results.checks if check.error)
    lines += ["", f"{met.count(True)} met, {met.count(False)} missed, {other} with an error"]
    return "\n".join(lines)


def _check(check: Check) -> Iterator[str]:
    if check.measured is None:
        yield from _wrapped(f"{check.what}: {outcome(check)}")
        return
    target = "" if check.target is None else f"{'<=' if check.at_most else '>='} {check.target:g}"
    head, *rest = textwrap.wrap(check.what, 48)
    yield f"{head:50}{outcome(check):>{VALUE}}{target:>{TARGET}}".rstrip()
    yield from (f"    {part}" for part in rest)
    if check.note:
        yield from textwrap.wrap(check.note, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="    ", drop_whitespace=True)

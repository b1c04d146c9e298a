"""What a run leaves behind, written the moment it is known: rows, checks, contests, how each step ended, and a log.

benchmark.json   a BenchRun, as `resnet-infer benchmark` writes it
checks.json      every step and how it ended; every check: what, measured, target, whether it is met
contests.json    sides in turns, as `python -m benchmarks.peers` writes them
log.txt          what happened when, errors in full
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from resnet_infer.bench.rows import BenchRow, BenchRun, load_run
from resnet_infer.files import replacing

Status = Literal["running", "done", "cut", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; without `measured` it was not, and `skipped` or `error` says why."""

    step: str
    what: str
    measured: float | None = None
    target: float | None = None
    """None where a figure is only of interest."""
    at_most: bool = False
    """Whether the target is a bound from above."""
    note: str = ""
    skipped: str = ""
    error: str = ""

    @property
    def met(self) -> bool | None:
        """None where there is no target or no measurement; a value that is no number meets nothing."""
        if self.measured is None or self.target is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """How a step went."""

    name: str
    what: str
    status: Status
    began: float
    """Unix time."""
    until: float = 0.0
    """Unix time at which it is cut."""
    seconds: float = 0.0
    why: str = ""


@dataclass(slots=True)
class Results:
    """The folder of a run. Opened again, it goes on where it was."""

    folder: Path
    run: BenchRun
    checks: list[Check] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    contests: list[Mapping[str, Any]] = field(default_factory=list)

    def log(self, text: str) -> None:
        """A line with its time, in the file and on stdout."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def row(self, row: BenchRow) -> None:
        """One more row of the benchmark."""
        self.set_run(rows=[*self.run.rows, row])
        said = f"not measured: {row.error}" if row.error else f"{row.images_per_s:.1f} images/s"
        roof = f", {row.roof_fraction:.2f} of roof" if row.roof_fraction else ""
        self.log(f"  {describe(row)}: {said}{roof}")

    def set_run(self, **changed: Any) -> None:
        """Change fields of the BenchRun and save it."""
        self.run = replace(self.run, **changed)
        self.run.save(self.folder / "benchmark.json")

    def check(self, check: Check) -> None:
        """One more check."""
        self.checks.append(check)
        self.log(f"  {outcome(check)}: {check.what}{': ' + check.note if check.note else ''}")
        self._save_checks()

    def step(self, record: StepRecord) -> None:
        """A step has begun, or ended: the record takes the place of the one of its name."""
        self.steps = [step for step in self.steps if step.name != record.name] + [record]
        self._save_checks()

    def contest(self, record: Mapping[str, Any]) -> None:
        """One more contest, or more of the one of its name."""
        name = _contest_name(record)
        self.contests = [each for each in self.contests if _contest_name(each) != name] + [record]
        self._save("contests.json", {"contests": self.contests})

    def _save_checks(self) -> None:
        checks = [asdict(check) | {"met": check.met} for check in self.checks]
        self._save("checks.json", {"steps": [asdict(step) for step in self.steps], "checks": checks})

    def _save(self, name: str, value: Mapping[str, Any]) -> None:
        with replacing(self.folder / name) as unfinished:
            unfinished.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def open_results(folder: Path, fresh: BenchRun) -> Results:
    """What is in the folder so far, or an empty result with this run's head."""
    path = folder / "benchmark.json"
    results = Results(folder, load_run(path) if path.exists() else fresh)
    if (folder / "checks.json").exists():
        saved = json.loads((folder / "checks.json").read_text("utf-8"))
        results.steps = [StepRecord(**step) for step in saved["steps"]]
        results.checks = [Check(**{k: v for k, v in check.items() if k != "met"}) for check in saved["checks"]]
    if (folder / "contests.json").exists():
        results.contests = json.loads((folder / "contests.json").read_text("utf-8"))["contests"]
    return results


def _contest_name(record: Mapping[str, Any]) -> tuple[Any, Any]:
    return record.get("peer"), record.get("what")


def outcome(check: Check) -> str:
    """In one or two words: met, MISS, a figure, or why there is none."""
    if check.error:
        return f"error ({check.error[:200]})"
    if check.skipped:
        return f"skipped ({check.skipped})"
    measured = "" if check.measured is None else f"{check.measured:.4g}"
    return measured + {True: " met", False: " MISS", None: ""}[check.met]


def describe(row: BenchRow) -> str:
    """What a row is of."""
    options = f" ({row.options})" if row.options else ""
    return (
        f"{row.model} {row.backend} {row.precision}{options}, {row.protocol}, {row.measurement}, batch {row.batch_size}"
    )


def best(rows: Sequence[BenchRow], **wanted: Any) -> BenchRow | None:
    """The fastest measured row with these values; None if there is none."""
    fitting = [
        row for row in rows if not row.error and all(getattr(row, name) == value for name, value in wanted.items())
    ]
    return max(fitting, key=lambda row: row.images_per_s, default=None)

"""The speed section of docs/benchmarks.md, from the results of `resnet-infer benchmark` that are committed.

python -m benchmarks.docs            writes it between its markers
python -m benchmarks.docs --check    says whether it is up to date; exit code 1 if not
"""

import argparse
import sys
from pathlib import Path

from benchmarks.speed_section import benchmark_markdown, with_section
from resnet_infer.bench.rows import load_run
from resnet_infer.errors import ResnetInferError
from resnet_infer.files import replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results/benchmark_*.json"


def main() -> int:
    """Write or check; gives the exit code."""
    parser = argparse.ArgumentParser(description="Write the speed section of docs/benchmarks.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it is not up to date")
    args = parser.parse_args()
    page = ROOT / "docs" / "benchmarks.md"
    try:
        before = page.read_text("utf-8")
        after = updated(before, ROOT)
    except ResnetInferError as error:
        print(f"benchmarks.docs: error: {error}", file=sys.stderr)
        return 1
    if before == after:
        print("docs/benchmarks.md is up to date")
    elif args.check:
        print(f"docs/benchmarks.md is not what {RESULTS} give; run python -m benchmarks.docs", file=sys.stderr)
        return 1
    else:
        with replacing(page) as partial:
            partial.write_text(after, "utf-8")
        print("docs/benchmarks.md is written")
    return 0


def updated(document: str, root: Path) -> str:
    """The document with the section that the results under this root give."""
    files = sorted(root.glob(RESULTS))
    runs = {f"../{file.relative_to(root).as_posix()}": load_run(file) for file in files}
    return with_section(document, benchmark_markdown(runs))


if __name__ == "__main__":
    sys.exit(main())

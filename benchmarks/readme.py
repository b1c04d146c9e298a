"""README's performance section from the results of `resnet-infer benchmark` that are committed.

python -m benchmarks.readme            writes it between the markers in README.md
python -m benchmarks.readme --check    says whether it is what would be written; exit code 1 if not
"""

import argparse
import sys
from pathlib import Path

from benchmarks.readme_section import benchmark_markdown, with_section
from resnet_infer.bench.rows import load_run
from resnet_infer.errors import ResnetInferError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results/benchmark_*.json"


def main() -> int:
    """Write or check; gives the exit code."""
    parser = argparse.ArgumentParser(description="Write README's performance section from committed results.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if README is not up to date")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    try:
        before = readme.read_text("utf-8")
        after = updated(before, ROOT)
    except ResnetInferError as error:
        print(f"benchmarks.readme: error: {error}", file=sys.stderr)
        return 1
    if before == after:
        print("README.md is up to date")
    elif args.check:
        print(f"README.md is not what {RESULTS} give; run python -m benchmarks.readme", file=sys.stderr)
        return 1
    else:
        part = readme.with_name(".README.md.partial")
        part.write_text(after, "utf-8")
        part.replace(readme)
        print("README.md is written")
    return 0


def updated(document: str, root: Path) -> str:
    """The document with the section that the results under this root give."""
    files = sorted(root.glob(RESULTS))
    return with_section(document, benchmark_markdown({str(f.relative_to(root).as_posix()): load_run(f) for f in files}))


if __name__ == "__main__":
    sys.exit(main())

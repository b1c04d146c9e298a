"""Coverage-guided fuzzing of one target for as long as is wanted; see SECURITY.md.

    python tests/fuzz/atheris_run.py zip -max_total_time=300

Needs atheris (`uv sync --group fuzz`). What follows the target's name goes to libFuzzer. A failure is an exception
that the target does not allow, a crash, or an input that takes longer than 20 seconds; its input is left in a file.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["resnet_infer"]):
    from targets import TARGETS, seeds


def main() -> None:
    """Fuzz the target that is named first."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: atheris_run.py {{{','.join(TARGETS)}}} [-max_total_time=SECONDS]")
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds()[name]):
            (Path(corpus) / str(number)).write_bytes(data)
        options = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=8192", *sys.argv[1:], corpus]
        atheris.Setup([sys.argv[0], *options], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
